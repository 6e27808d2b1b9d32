"""
The UNIX sockets that local instances listen on with ``backend_socket: unix``: their paths, and what
is left of them.

They are in the folder of leftovers.py, which is made ours alone here: nobody else reaches an engine
or makes a file in its place. ports.py is the counterpart for TCP.
"""

from __future__ import annotations

import contextlib
import os
import re
from itertools import count

import psutil

from llamagw.state import is_ours

#: Bytes of a path at most. A socket's address has 104 of them on macOS (sys/un.h), 108 on Linux,
#: with the zero at its end.
LONGEST = 100

#: By this end llama-server tells a path from a host (tools/server/server-http.cpp).
_END = ".sock"
_NAME = re.compile(r"([0-9]{1,9})-[0-9]+\.sock")

#: A name as long as any: Linux has pids of up to 7 digits.
_LONG_NAME = f"4194304-999999{_END}"


class SocketFiles:
    """
    Hands out paths, each once.

    :param folder: of the sockets
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._numbers = count(1)

    def __repr__(self) -> str:
        return f"<SocketFiles in {self.folder}>"

    def take(self) -> str:
        """
        A path for a new socket, in a folder that only we can look into.

        :raises OSError: when the folder cannot be made so
        """
        if not is_ours(self.folder):
            raise OSError(f"{self.folder} is not ours alone, as a folder of sockets is to be")
        os.chmod(self.folder, 0o700)
        return os.path.join(self.folder, f"{os.getpid()}-{next(self._numbers)}{_END}")

    def give_back(self, path: str) -> None:
        """
        Remove a socket whose engine has ended; the engine leaves it.

        :param path: one from `take`
        """
        with contextlib.suppress(OSError):
            os.unlink(path)


def problem(folder: str) -> str:
    """
    Why no socket can be in a folder, whether it exists or not.

    :return: as a predicate; "" if nothing is known against it
    """
    size = len(os.fsencode(os.path.join(folder, _LONG_NAME)))
    if size > LONGEST:
        return (
            f"needs paths of at most {LONGEST} bytes, and in {folder} they have up to {size}; "
            "set TMPDIR to a folder with a shorter path"
        )
    if os.path.lexists(folder) and not is_ours(folder, make=False):
        return (
            f"needs a folder that is ours alone, and {folder} is not; remove it, or set TMPDIR "
            "to another one"
        )
    return ""


def remove_left(folder: str) -> None:
    """
    Remove the sockets of gateways that have ended; to be called before the first is taken.

    Those of a gateway whose pid another process has by now are left to a later start.

    :param folder: of the sockets, which is ours
    """
    for name in os.listdir(folder):
        found = _NAME.fullmatch(name)
        if found and (int(found[1]) == os.getpid() or not _lives(int(found[1]))):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, name))


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
