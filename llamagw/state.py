"""
A small file in the user's state folder that outlives a gateway, and that several may share.

What its entries mean is for those who keep them. A gateway's work never depends on it: a file that
cannot be used is as good as none, and is replaced at the next chance.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

#: Bytes of a file at most; a larger one is not ours.
LARGEST = 2**23

#: What is wrong with a file, or an entry of it. `RecursionError` is for one nested very deep.
_BAD = (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Entry = TypeVar("Entry")


def is_ours(folder: str, make: bool = True) -> bool:
    """
    Whether a folder exists, is ours, and is writable by us only.

    :param make: whether it is made if it does not exist
    """
    try:
        if make:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


class StateFile(Generic[Entry]):
    """
    A list of entries, as JSON.

    :param folder: of the file; None, or one that is not safe, for no file
    :param name: of the file
    :param kind: of each entry
    :param lost: what is not known without it, for the log
    """

    def __init__(self, folder: str | None, name: str, kind: type[Entry], lost: str) -> None:
        self._folder = folder
        self._name = name
        self._kind = kind
        self._lost = lost
        self._complained = False

    def __repr__(self) -> str:
        return f"<StateFile {self._name} in {self._folder}>"

    def read(self) -> list[Entry] | None:
        """
        What the file has by now; damaged entries are left out.

        :return: None if there is none, or it cannot be used
        """
        path = self._path()
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                content = file.read(LARGEST + 1)
            found = msgspec.json.decode(content, type=list[msgspec.Raw])
        except FileNotFoundError:
            return None
        except _BAD as error:
            self._complain(path, "used", error)
            return None
        entries = []
        for each in found:
            try:
                entries.append(msgspec.json.decode(each, type=self._kind))
            except _BAD as error:
                self._complain(path, "used entirely", error)
        return entries

    def write(self, entries: Sequence[Entry]) -> None:
        """
        Replace what the file has; if it cannot be written, nothing is done.

        :param entries: all of them
        """
        path = self._path()
        if path is None:
            return
        content = msgspec.json.encode(entries)
        new = f"{path}.{os.getpid()}.new"
        try:
            # Atomic: another gateway may read it at any time.
            with open(new, "wb") as file:
                file.write(content)
            os.replace(new, path)
        except OSError as error:
            self._complain(path, "written", error)

    def _path(self) -> str | None:
        """The file; None if there is to be none."""
        if self._folder is None or not is_ours(self._folder):
            return None
        return os.path.join(self._folder, self._name)

    def _complain(self, path: str, what: str, error: Exception) -> None:
        """Log, once, that the file cannot be used; the next entry replaces it, if it can be."""
        if not self._complained:
            self._complained = True
            # Not before: the command reads models' files too, and does without Twisted.
            from twisted.logger import Logger

            Logger(namespace="llamagw.state").warn(
                "{lost} not known: {path} cannot be {what}: {error}",
                lost=self._lost,
                path=path,
                what=what,
                error=error,
            )
