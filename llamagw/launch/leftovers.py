"""
What an earlier gateway left behind when it was killed, and how the next one cleans it up.

Each gateway keeps a small file that names the processes it has started, by pid and time of start,
since a pid alone may have become somebody else's. A gateway that starts looks at the files of
gateways that are gone and ends what is still there of theirs; nothing else is ever touched. On
Linux there is seldom anything: the kernel ends a backend together with its gateway (process.py).
"""

from __future__ import annotations

import contextlib
import os
import tempfile

import msgspec
import psutil
from msgspec import Struct
from twisted.logger import Logger

_log = Logger(namespace="llamagw.leftovers")

#: Seconds that a leftover has to end by itself.
PATIENCE = 3.0


class Known(Struct, frozen=True):
    """A process, told from a later one of the same pid by when it was started."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Known | None:
        """The process that has this pid now; None if there is none."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def find(self) -> psutil.Process | None:
        """The process, if it is still there."""
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
    """Where the files are: the same for all gateways of one user, and nobody else's to write."""
    return os.path.join(tempfile.gettempdir(), f"llamagw-{os.getuid()}")


class Leftovers:
    """
    The file of this gateway, and those of earlier ones.

    Without a safe place for it there is no file, which is logged, and nothing else changes.

    :param folder: where the files are
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path: str | None = None
        self._backends: dict[int, Known] = {}

    def clean_up(self) -> None:
        """
        End what gateways that are gone have left, and begin a file for this one.

        Waits for them to end, `PATIENCE` at most.
        """
        gateway = Known.of(os.getpid())
        if gateway is None or not self._safe():
            _log.warn("no state is kept: {folder} is not ours alone", folder=self._folder)
            return
        ended: list[psutil.Process] = []
        for name in os.listdir(self._folder):
            path = os.path.join(self._folder, name)
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
        self._gateway = gateway
        self._path = os.path.join(self._folder, f"{gateway.pid}.json")
        self._write()

    def started(self, pid: int) -> None:
        """A backend was started."""
        known = Known.of(pid)
        if known is not None:
            self._backends[pid] = known
            self._write()

    def ended(self, pid: int) -> None:
        """A backend is gone."""
        if self._backends.pop(pid, None) is not None:
            self._write()

    def close(self) -> None:
        """Nothing is left."""
        if self._path is not None and not self._backends:
            # Somebody may have tidied the folder up meanwhile.
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            self._path = None

    def _safe(self) -> bool:
        """Whether the folder is there, ours, and writable by nobody else."""
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            found = os.lstat(self._folder)
        except OSError:
            return False
        return found.st_uid == os.getuid() and not found.st_mode & 0o022

    def _write(self) -> None:
        if self._path is None:
            return
        content = msgspec.json.encode(_File(self._gateway, list(self._backends.values())))
        try:
            # Whole or not at all, also when this process is killed in the middle of it.
            with open(self._path + ".new", "wb") as file:
                file.write(content)
            os.replace(self._path + ".new", self._path)
        except OSError as error:
            _log.warn(
                "the state cannot be written to {path}: {error}", path=self._path, error=error
            )
