"""
Changes the file of ``keys_file``: a line for each key, so that the rest of the file stays as it is.

What an entry means is known by `llamagw.config`; the commands are in keys.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from llamagw.config import ConfigError, KeyEntry, read_keys

#: How a file begins that `llamagw keys new` makes.
_BEGINNING = """\
# Who may use the gateway: `llamagw keys --help`. Only hashes are here; a secret is shown once.
keys:
"""

#: The lines of entries; those that begin one in another form; and `keys:` in a line.
_ENTRY = re.compile(r"( *)- (\{.*\})[ \t]*")
_OTHER = re.compile(r"( *)- ")
_EMPTY = re.compile(r"keys:[ \t]*\[\][ \t]*")

_ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape"}


class Unchangeable(Exception):
    """The file cannot be changed by a command; the message says why, and what to do."""


class KeyFile:
    """
    A file of keys.

    :param path: of it; it need not exist yet
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)

    def __repr__(self) -> str:
        return f"<KeyFile {self.path}>"

    def entries(self) -> list[KeyEntry]:
        """
        What it says; nothing if there is no such file.

        :raises ConfigError: if it has faults
        """
        return read_keys(self.path) if os.path.exists(self.path) else []

    def add(self, entry: KeyEntry) -> None:
        """
        Add a key.

        :raises Unchangeable: if there is one of that name, or it cannot be written
        :raises ConfigError: if the file has faults
        """

        def added(lines: list[str], known: list[KeyEntry]) -> list[str]:
            if any(one.name == entry.name for one in known):
                raise Unchangeable(
                    f"there is a key called {entry.name} in {self.path}: `llamagw keys rotate "
                    f"{entry.name}` gives it a new secret"
                )
            lines = [_EMPTY.sub("keys:", line) for line in lines]
            if not any(line.lstrip("\ufeff").startswith("keys:") for line in lines):
                lines.append("keys:")
            indents = [found[1] for line in lines if (found := _OTHER.match(line))]
            indent = indents[0] if indents else ""
            return [*lines, f"{indent}- {_as_json(entry)}"]

        self._change(added)

    def change(self, name: str, change: Callable[[KeyEntry], KeyEntry | None]) -> KeyEntry:
        """
        Change a key, or remove it.

        :param change: gives what it is to be; None for gone
        :return: what it was
        :raises Unchangeable: if there is none of that name, or it cannot be written
        :raises ConfigError: if the file has faults
        """
        was: list[KeyEntry] = []

        def changed(lines: list[str], known: list[KeyEntry]) -> list[str]:
            was.extend(one for one in known if one.name == name)
            if not was:
                raise Unchangeable(
                    f"there is no key called {name} in {self.path}: `llamagw keys list` has them"
                )
            for number, line in enumerate(lines):
                found = _ENTRY.fullmatch(line)
                if found and _name_of(found[2]) == name:
                    to_be = change(was[0])
                    new = [] if to_be is None else [f"{found[1]}- {_as_json(to_be)}"]
                    return [*lines[:number], *new, *lines[number + 1 :]]
            raise Unchangeable(
                f"the entry of {name} in {self.path} was written by hand, over several lines: "
                "change it there"
            )

        self._change(changed)
        return was[0]

    def _change(self, change: Callable[[list[str], list[KeyEntry]], list[str]]) -> None:
        try:
            with _locked(os.path.dirname(self.path)):
                known = self.entries()
                text = _BEGINNING
                if os.path.exists(self.path):
                    # All that is not ours stays as it is, in whatever encoding.
                    with open(self.path, newline="", **_ENCODING) as file:
                        text = file.read()
                # Not by splitlines(), to which more characters end a line than to YAML.
                end = "\r\n" if "\r\n" in text else "\n"
                text = text.removesuffix(end)
                lines = change(text.split(end) if text else [], known)
                self._replace(end.join(lines) + end)
        except OSError as error:
            raise Unchangeable(f"{self.path} cannot be written: {error.strerror}") from None

    def _replace(self, text: str) -> None:
        """Put a text in its place, whole or not at all, readable by its owner alone."""
        folder, name = os.path.split(self.path)
        descriptor, made = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        try:
            with open(descriptor, "w", newline="", **_ENCODING) as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            try:
                read_keys(made)
            except ConfigError as error:
                why = error.faults[0].message
                raise Unchangeable(
                    f"{self.path} is not of a form that can be added to ({why}): write its entries "
                    "below `keys:`, each begun with `- `"
                ) from None
            with contextlib.suppress(FileNotFoundError, PermissionError):
                # If root changes it, its owner still has to read it.
                status = os.stat(self.path)
                os.chown(made, status.st_uid, status.st_gid)
            os.replace(made, self.path)
        except BaseException:
            os.unlink(made)
            raise


def _as_json(entry: KeyEntry) -> str:
    """An entry in a line, without what it has by default."""
    usual = KeyEntry(name="", hash="")
    told = {
        name: getattr(entry, name)
        for name in KeyEntry.__struct_fields__
        if name in ("name", "hash", "models", "scopes")
        or getattr(entry, name) != getattr(usual, name)
    }
    # YAML wants a blank after a colon.
    return msgspec.json.format(msgspec.json.encode(told), indent=0).decode()


def _name_of(text: str) -> str | None:
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(text, type=KeyEntry).name
    return None


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """While nobody else changes a file there by these commands."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
