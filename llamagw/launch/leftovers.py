"""
Engines that outlived a killed gateway, which the next gateway ends.

Each gateway keeps a small file with the processes that it has started, by pid and time of start,
since a pid may have been reused. A gateway that starts reads the files of gateways that have ended
and ends the processes in them that still run; no other process is touched. On Linux there seldom
are any: the kernel kills an engine together with its gateway (command.py). Their UNIX
sockets (socketfiles.py) are in the same folder, and are removed too.
"""

from __future__ import annotations

import contextlib
import os
import tempfile

import msgspec
import psutil
from msgspec import Struct
from twisted.logger import Logger

from llamagw.launch.socketfiles import remove_left
from llamagw.state import is_ours

_log = Logger(namespace="llamagw.leftovers")

#: Seconds between SIGTERM and SIGKILL.
PATIENCE = 3.0


class Known(Struct, frozen=True):
    """
    A process; its time of start distinguishes it from a later one with the same pid.

    :ivar started: as psutil's ``create_time``, in seconds since the epoch
    """

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Known | None:
        """
        Identify the process that has a pid now.

        :param pid: of the process
        :return: None if there is none
        """
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def find(self) -> psutil.Process | None:
        """The process, if it still runs; None if not."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 0.02
            gone = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return process if same and not gone else None


class _File(Struct):
    gateway: Known
    backends: list[Known]


def default_folder() -> str:
    """The folder of the files: one for all gateways of a user, writable by that user only."""
    return os.path.join(tempfile.gettempdir(), f"llamagw-{os.getuid()}")


class Leftovers:
    """
    The file of this gateway, and those of earlier ones.

    If the folder is not safe, no file is written, which is logged; all else works the same.

    :param folder: of the files; made if it does not exist
    :ivar folder: the same
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._path: str | None = None
        self._backends: dict[int, Known] = {}

    def clean_up(self) -> None:
        """
        End the engines of gateways that have ended, and begin a file for this one.

        Blocks until they have ended, at most `PATIENCE` seconds.
        """
        gateway = Known.of(os.getpid())
        if gateway is None or not is_ours(self.folder):
            _log.warn("no state is kept: {folder} is not ours alone", folder=self.folder)
            return
        ended: list[psutil.Process] = []
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            try:
                with open(path, "rb") as file:
                    known = msgspec.json.decode(file.read(), type=_File)
            except (OSError, msgspec.DecodeError):
                continue
            if known.gateway.find() is None:
                ended += filter(None, (backend.find() for backend in known.backends))
                os.unlink(path)
        for process in ended:
            _log.warn("ending pid {pid}, left by an earlier gateway", pid=process.pid)
            process.terminate()
        for process in psutil.wait_procs(ended, timeout=PATIENCE)[1]:
            process.kill()
        remove_left(self.folder)
        self._gateway = gateway
        self._path = os.path.join(self.folder, f"{gateway.pid}.json")
        self._write()

    def started(self, pid: int) -> None:
        """
        Add an engine to the file.

        :param pid: of its process
        """
        known = Known.of(pid)
        if known is not None:
            self._backends[pid] = known
            self._write()

    def ended(self, pid: int) -> None:
        """
        Remove an engine from the file.

        :param pid: of its process; ignored if unknown
        """
        if self._backends.pop(pid, None) is not None:
            self._write()

    def close(self) -> None:
        """Delete the file, unless it still names an engine."""
        if self._path is not None and not self._backends:
            # The folder may have been cleaned up meanwhile.
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._path = None

    def _write(self) -> None:
        if self._path is None:
            return
        content = msgspec.json.encode(_File(self._gateway, list(self._backends.values())))
        try:
            # Atomic, even if this process is killed meanwhile.
            with open(self._path + ".new", "wb") as file:
                file.write(content)
            os.replace(self._path + ".new", self._path)
        except OSError as error:
            _log.warn(
                "the state cannot be written to {path}: {error}", path=self._path, error=error
            )
