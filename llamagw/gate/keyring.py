"""
All keys: from the secret that a request has to its `Caller`.

Found by digest in a dict, so that a hundred thousand cost a request nothing more than one.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from llamagw.config import Config, ConfigError, Fault, KeyEntry, names_once, read_keys, when
from llamagw.dialects import Scope
from llamagw.errors import Unauthorized
from llamagw.gate.caller import Caller
from llamagw.gate.secret import digest_of, looks_whole

#: The headers that may have a secret, in lower case: none of them is passed on.
CREDENTIALS = frozenset({b"authorization", b"x-api-key", b"api-key"})

#: Bytes of a secret that are looked at.
_LONGEST = 256

_SCOPES = {scope.name.lower(): scope for scope in Scope}

#: What is said to one who has sent none.
_NO_KEY = (
    "This server wants an API key, and the request has none: send `Authorization: Bearer lgw_…` or "
    "`x-api-key: lgw_…`. Whoever runs the server makes one with `llamagw keys new`."
)


class Keyring:
    """
    The keys that are known.

    :param entries: of the keys, each with a name and a hash of its own
    """

    def __init__(self, entries: Iterable[KeyEntry]) -> None:
        self.entries: dict[str, KeyEntry] = {}
        self._by_digest: dict[str, KeyEntry] = {}
        self._old: dict[str, KeyEntry] = {}
        #: By the names in clients' certificates.
        self._certified: dict[str, KeyEntry] = {}
        self._callers: dict[str, Caller] = {}
        #: Those whose digests have been found: what is kept, who it is, and until when.
        self._known: dict[str, tuple[str, Caller, float]] = {}
        for entry in entries:
            self.entries[entry.name] = entry
            self._by_digest[entry.hash] = entry
            if entry.certificate is not None:
                self._certified[entry.certificate] = entry
            if entry.old_hash is not None:
                self._old[entry.old_hash] = entry

    def __repr__(self) -> str:
        return f"<Keyring: {len(self)} keys>"

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, secret: bytes, now: float) -> Caller:
        """
        Who has sent a secret.

        :param secret: as it was sent
        :param now: seconds since the epoch
        :raises Unauthorized: if it is not valid
        """
        caller = self.holder(digest_of(secret), now)
        if caller is None:
            raise Unauthorized(_unknown(secret), invalid=True)
        return caller

    def certified(self, names: Callable[[], Iterable[str]], now: float) -> Caller | None:
        """
        Whose key stands behind a client's certificate.

        :param names: gives those in it, which an authority has signed; called if any key has one
        :param now: seconds since the epoch
        :return: None if no key has such a name
        :raises Unauthorized: if the key is not valid any more
        """
        if not self._certified:
            return None
        found = (self._certified.get(name) for name in names())
        entry = next((entry for entry in found if entry is not None), None)
        return None if entry is None else self.holder(entry.hash, now)

    def knows(self, name: str, now: float) -> bool:
        """Whether there is a valid key of a name."""
        entry = self.entries.get(name)
        if entry is None or not entry.enabled:
            return False
        return entry.expires is None or now < when(entry.expires)

    def holder(self, digest: str, now: float) -> Caller | None:
        """
        Who has the secret of a digest.

        :param now: seconds since the epoch
        :return: None if there is no such key
        :raises Unauthorized: if it is not valid any more
        """
        known = self._known.get(digest)
        if known is not None and now < known[2] and hmac.compare_digest(known[0], digest):
            return known[1]
        entry, old = self._by_digest.get(digest), False
        if entry is None:
            entry, old = self._old.get(digest), True
        kept = None if entry is None else entry.old_hash if old else entry.hash
        # The dict has compared with what may differ early, in a digest that nobody can aim.
        if entry is None or kept is None or not hmac.compare_digest(kept, digest):
            return None
        if not entry.enabled:
            raise Unauthorized(f"The API key `{entry.name}` is disabled.", invalid=True)
        _check_time(entry.name, entry.expires, "", now)
        if old:
            _check_time(entry.name, entry.old_expires, "; it was replaced by a new one", now)
        caller = self._callers.get(entry.name)
        if caller is None:
            scopes = map(_SCOPES.__getitem__, entry.scopes)
            caller = Caller(
                entry.name, scopes, entry.models, entry.priority, entry.share, entry.limits
            )
            self._callers[entry.name] = caller
        times = (entry.expires, entry.old_expires if old else None)
        ends = min((when(time) for time in times if time is not None), default=math.inf)
        self._known[digest] = kept, caller, ends
        return caller


def secret_of(headers: Mapping[bytes, Sequence[bytes]]) -> bytes | None:
    """
    The secret of a request.

    :param headers: the values of each, by names such as ``X-Api-Key``
    :return: None if it has none
    :raises Unauthorized: if it has several, or one that cannot be one
    """
    alone = headers.get(b"Authorization")
    if alone is not None and b"X-Api-Key" not in headers and b"Api-Key" not in headers:
        # As nearly all clients send it.
        value = alone[0]
        if value[:7] == b"Bearer " and len(alone) == 1 and len(value) <= _LONGEST:
            return value[7:].strip() or None
    found = set(headers.get(b"X-Api-Key", ()))
    found.update(headers.get(b"Api-Key", ()))
    for value in headers.get(b"Authorization", ()):
        scheme, _, rest = value.partition(b" ")
        if scheme.lower() == b"bearer":
            found.add(rest.strip())
    found.discard(b"")
    if len(found) > 1:
        raise Unauthorized("The request has several API keys; send one.", invalid=True)
    for secret in found:
        if len(secret) > _LONGEST:
            raise Unauthorized("That is no API key of this server: it is too long.", invalid=True)
        return secret
    return None


def no_secret() -> Unauthorized:
    """For a request that has no secret, and needs one."""
    return Unauthorized(_NO_KEY)


def read_keyring(config: Config) -> Keyring | None:
    """
    Read all keys of a configuration; blocks.

    :param config: for its ``keys`` and ``keys_file``
    :return: None if it has neither
    :raises ConfigError: if the file has faults
    """
    if not config.wants_keys:
        return None
    entries = list(config.keys or ())
    if config.keys_file is not None:
        further = read_keys(config.keys_file)
        if entries:
            faults: list[Fault] = []
            placed = [("the configuration's keys", one) for one in entries]
            placed += [(f"keys[{number}]", one) for number, one in enumerate(further)]
            names_once(
                lambda place, message: faults.append(
                    Fault(str(config.keys_file), None, place, message)
                ),
                placed,
            )
            if faults:
                raise ConfigError(faults)
        entries += further
    return Keyring(entries)


def _check_time(name: str, ends: str | None, why: str, now: float) -> None:
    if ends is not None and now >= when(ends):
        raise Unauthorized(f"The API key `{name}` has expired ({ends}){why}.", invalid=True)


def _unknown(secret: bytes) -> str:
    if looks_whole(secret):
        return "This server does not know that API key. Was it removed, or is it another server's?"
    if secret.startswith(b"lgw_"):
        return "That API key is mistyped or cut: its check sum is wrong. Copy all of it."
    return "That is no API key of this server: they begin with `lgw_`."
