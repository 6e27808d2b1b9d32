"""
What the gateway asks of the system for its own process: signals, limits, memory, folders, the event
loop.

The global reactor is passed in by tap.py; that of uvloop is installed here before there is one. At
import this must load nothing that imports a reactor. The limits of clients are for tap.py to work
out from these numbers.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


def leave_out_tls() -> None:
    """
    Have Twisted do without OpenSSL, as it does where it is not installed.

    Twisted imports it in case it is needed: a fifth of the gateway's memory, for nothing when
    neither clients nor backends use TLS. If it has been imported already, nothing changes.
    """
    sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type]


def install_reactor(daemon: bool) -> None:
    """
    Have Twisted run on uvloop, unless a reactor is installed already or uvloop is missing.

    :param daemon: the process will fork; a kqueue, unlike an epoll, does not survive that
    """
    if "twisted.internet.reactor" in sys.modules or (daemon and sys.platform == "darwin"):
        return
    try:
        import uvloop
    except ImportError:
        return
    from twisted.internet import asyncioreactor

    asyncioreactor.install(uvloop.new_event_loop())


def defer_hangups(note: Callable[[], None]) -> None:
    """
    Have a SIGHUP call a function instead of ending the process, until `handle_signals`.

    Not ignored: an ignored signal would be ignored by the engines too.

    :param note: called for each SIGHUP, one that was blocked before included
    """
    signal.signal(signal.SIGHUP, lambda *_: note())
    # `llamagw run` blocks it from its own start to here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def handle_signals(reactor: Any, hurry: Callable[[], None], reload: Callable[[], None]) -> None:
    """
    Handle SIGTERM, SIGINT, SIGHUP and SIGCHLD from now on, in the reactor's thread.

    Twisted's own handlers would end the process by the same signal in the end; a stop that was
    asked for and went well is a success, and exits with 0.

    :param reactor: is stopped by the first SIGTERM or SIGINT
    :param hurry: called for each further one
    :param reload: called for each SIGHUP
    """
    from twisted.internet.process import reapAllProcesses

    asked = False

    def stop() -> None:
        nonlocal asked
        if asked:
            hurry()
        else:
            asked = True
            reactor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reactor.callFromThread(stop))
    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(reload))
    # uvloop takes over the wakeup descriptor by which Twisted learns that a child has ended.
    signal.signal(signal.SIGCHLD, lambda *_: reactor.callFromThread(reapAllProcesses))
    # Python removes its handlers before the process ends; no child is left to inherit this.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        reactor.addSystemEventTrigger("after", "shutdown", signal.signal, number, signal.SIG_IGN)


def machine_memory() -> int:
    """
    How much memory this process may use.

    :return: bytes: the machine's, or the lowest limit of the control groups around it
    """
    import psutil

    total = int(psutil.virtual_memory().total)
    return min([total, *(group.limit for group in _groups())])


def memory_in_use() -> tuple[int, int]:
    """
    How much memory this process may use, and how much of it is in use by anybody.

    What files have in the cache is not in use: the system drops it if need be. That has the weights
    that engines have mapped, too: who gives away their room has them read from the disk again.

    :return: bytes, both
    """
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    for group in _groups():
        total, free = min(total, group.limit), min(free, group.limit - group.used)
    return total, max(total - max(free, 0), 0)


def oom_kills() -> int:
    """
    How many processes the kernel has killed for want of memory.

    Those of this process's control group, of cgroup v2, whatever was full; else those of the whole
    machine (``oom_kill`` in memory.events and, from Linux 4.13, in /proc/vmstat).

    :return: since the group or the machine was started; 0 where that is not told
    """
    own = os.path.join(_CGROUP, _own_group("0::").lstrip("/"))
    for path in (f"{own}/memory.events", f"{_CGROUP}/memory.events", _VMSTAT):
        with contextlib.suppress(OSError, ValueError):
            for line in _read(path).splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


class _Group(NamedTuple):
    """
    A control group that limits memory.

    :ivar limit: bytes
    :ivar used: bytes, without what files have in the cache
    """

    limit: int
    used: int


#: Where Linux tells of control groups, and of those that this process is in.
_CGROUP, _OWN_GROUPS = "/sys/fs/cgroup", "/proc/self/cgroup"

#: Where Linux tells of its memory management, in lines of a name and a number.
_VMSTAT = "/proc/vmstat"

#: Groups are nested no deeper than this; each costs a read.
_DEEPEST = 32

#: Where a group of cgroup v2, then v1, tells of its limit and its use; how names in its
#: ``memory.stat`` begin (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
_FILES = {
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


def _groups() -> Iterator[_Group]:
    """The control groups around this process that have a limit, of both kinds."""
    for kind, path in (("", _own_group("0::")), ("memory", _own_group(":memory:"))):
        # In a container its own group is the root of what it sees, whatever its path is outside.
        parts = [part for part in path.split("/") if part][:_DEEPEST]
        for depth in range(len(parts) + 1):
            folder = os.path.join(_CGROUP, kind, *parts[:depth])
            with contextlib.suppress(OSError, ValueError, KeyError):
                yield _group(folder, *_FILES[kind])


def _group(folder: str, limit: str, used: str, prefix: str) -> _Group:
    """
    :raises ValueError: if it has no limit (v2: ``max``)
    """
    allowed, taken = int(_read(f"{folder}/{limit}")), int(_read(f"{folder}/{used}"))
    told = dict(line.split() for line in _read(f"{folder}/memory.stat").splitlines())
    cached = sum(int(told[prefix + name]) for name in ("inactive_file", "active_file"))
    return _Group(allowed, max(taken - cached, 0))


def _own_group(of_kind: str) -> str:
    """The path of this process's group of a kind; "" if there is none."""
    with contextlib.suppress(OSError, ValueError), open(_OWN_GROUPS, encoding="utf-8") as file:
        for line in file.read(2**16).splitlines():
            if of_kind in line:
                return line.split(":", 2)[2]
    return ""


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read(2**16)


def state_folder() -> str:
    """
    The folder for what is to outlive a restart of the machine, such as ``~/.local/state/llamagw``.

    Under systemd with ``StateDirectory=``, that one.
    """
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(given):
        return given
    home = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/state"
    return user_folder("XDG_STATE_HOME", home)


def user_folder(variable: str, default: str) -> str:
    """
    The folder of llamagw in one of the user's (XDG Base Directory Specification).

    :param variable: the environment variable that has the user's
    :param default: the user's without it
    """
    given = os.environ.get(variable, "")
    # By that specification, a relative one is invalid and ignored.
    return os.path.join(given if os.path.isabs(given) else os.path.expanduser(default), "llamagw")


def raise_open_files() -> int:
    """
    Raise the soft limit of open files (RLIMIT_NOFILE) as far as the system allows.

    :return: the limit that is in force then
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS reports "infinity" and accepts no more than this.
    wanted = 10240 if sys.platform == "darwin" else hard
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
