"""
A gateway in the background: which process a pidfile means, and its end.

twistd detaches the gateway, writes its pidfile and removes it. One that was left behind, by a
gateway that was killed, may name a process that has ended or another program by now. The commands
are in serve.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time

import psutil

from llamagw.cli.client import Failed

#: Seconds between two looks whether a process has ended.
_LOOK_SEC = 0.05


class NotRunning(Exception):
    """No gateway runs that the pidfile means; the message says why, as a clause."""


class Daemon:
    """
    A gateway that runs and has a pidfile.

    :param pidfile: its path
    :raises NotRunning: when there is none
    :raises Failed: when the file cannot be read, or is no pidfile

    :ivar pid: of its process
    :ivar since: when it was started, in seconds since the epoch
    :ivar config: the path of its configuration; None if it does not say
    :ivar logfile: the path of its log; None if it does not say
    """

    def __init__(self, pidfile: str) -> None:
        self.pidfile = os.path.abspath(pidfile)
        self.pid = _pid(self.pidfile)
        try:
            self._process = psutil.Process(self.pid)
            if self._process.status() == psutil.STATUS_ZOMBIE:
                raise NotRunning(f"pid {self.pid} has ended")
            arguments, folder = self._process.cmdline(), self._process.cwd()
            if not _is_gateway(arguments, folder, self.pidfile):
                raise NotRunning(f"pid {self.pid} is another program by now")
            self.since = self._process.create_time()
        except psutil.AccessDenied:
            raise NotRunning(f"pid {self.pid} is a program of another user") from None
        except psutil.NoSuchProcess:
            raise NotRunning(f"pid {self.pid} has ended") from None
        self.config = _path(arguments, "--config", folder)
        self.logfile = _path(arguments, "--logfile", folder)

    def __repr__(self) -> str:
        return f"<Daemon {self.pid}, {self.pidfile}>"

    def signal(self, number: signal.Signals) -> None:
        """
        Send a signal.

        :param number: SIGTERM or SIGHUP
        :raises Failed: when this user may not
        """
        try:
            self._process.send_signal(number)
        except psutil.NoSuchProcess:
            pass  # it has just ended
        except psutil.AccessDenied:
            raise Failed(f"pid {self.pid} belongs to another user") from None

    def wait(self, seconds: float) -> bool:
        """
        Wait for its end.

        :param seconds: at most
        :return: whether it has ended
        """
        end = time.monotonic() + seconds
        while self._runs():
            if time.monotonic() >= end:
                return False
            time.sleep(_LOOK_SEC)
        # twistd removes it, unless the signal came before it was ready for one.
        with contextlib.suppress(OSError):
            os.unlink(self.pidfile)
        return True

    def _runs(self) -> bool:
        try:
            # Where nobody collects orphans, one that has ended stays a zombie.
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def refuse_second(pidfile: str) -> None:
    """
    Refuse to start a gateway beside the one that a pidfile means.

    :param pidfile: its path; need not exist or be readable
    :raises Failed: when that gateway runs
    """
    try:
        daemon = Daemon(pidfile)
    except (NotRunning, Failed):
        return
    raise Failed(
        f"it runs already, with pid {daemon.pid}; llamagw status, reload and stop are for it"
    )


def remove_stale(pidfile: str) -> None:
    """
    Remove a pidfile that was left behind, so that twistd starts.

    :param pidfile: its path; need not exist
    :raises Failed: when it is no pidfile, or cannot be removed
    """
    try:
        Daemon(pidfile)
    except NotRunning:
        try:
            os.unlink(pidfile)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Failed(f"{pidfile} cannot be removed: {error.strerror}") from None


def _pid(pidfile: str) -> int:
    try:
        with open(pidfile, encoding="ascii", errors="replace") as file:
            text = file.read(64).strip()
    except FileNotFoundError:
        raise NotRunning(f"there is no pidfile {pidfile}") from None
    except OSError as error:
        raise Failed(f"{pidfile} cannot be read: {error.strerror}") from None
    if not text:
        raise NotRunning(f"{pidfile} is empty")
    if not re.fullmatch(r"\d{1,9}", text):
        raise Failed(f"{pidfile} is no pidfile: it has no process id in it")
    return int(text)


def _is_gateway(arguments: list[str], folder: str, pidfile: str) -> bool:
    """Whether a command line is that of a gateway with this pidfile; the pid may be reused."""
    if "llamagw" not in arguments:
        return False
    twistd = arguments[: arguments.index("llamagw")]
    theirs = _path(twistd, "--pidfile", folder)
    return (
        any("twistd" in argument for argument in twistd)
        and theirs is not None
        and os.path.realpath(theirs) == os.path.realpath(pidfile)
    )


def _path(arguments: list[str], option: str, folder: str) -> str | None:
    """The path that an option of a command line gives, relative to the folder of the process."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == option:
            return os.path.join(folder, following)
        if argument.startswith(f"{option}="):
            return os.path.join(folder, argument.partition("=")[2])
    return None
