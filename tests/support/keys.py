"""Keys of clients as tests make them: a secret that is known, and its entry."""

from __future__ import annotations

from typing import Any

from llamagw.config import KeyEntry
from llamagw.gate import Gate, Keyring, digest_of, new_secret

#: A secret that no keyring has.
STRANGE = new_secret()


class Secrets:
    """
    The keys of a test, each with its secret.

    :ivar entries: in the order of their making
    """

    def __init__(self) -> None:
        self.entries: list[KeyEntry] = []

    def make(self, name: str, *scopes: str, **rights: Any) -> str:
        """Make a key, with the scope `infer` if none is given; returns its secret."""
        secret = new_secret()
        scoped: Any = list(scopes) or ["infer"]
        entry = KeyEntry(name=name, hash=digest_of(secret.encode()), scopes=scoped, **rights)
        self.entries.append(entry)
        return secret

    def keyring(self) -> Keyring:
        """All of them."""
        return Keyring(self.entries)

    def gate(self, epoch: float = 1_800_000_000.0) -> Gate:
        """A gate that knows them, at a time that stands still."""
        gate = Gate(lambda: epoch)
        gate.keyring = self.keyring()
        return gate
