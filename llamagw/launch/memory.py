"""
How much memory an engine has in use: what the system says of the processes of its session.

From /proc/PID/status, in microseconds. Its ``smaps_rollup`` would tell pages that are shared
between engines apart, but the kernel walks all pages for it: 9 ms a GiB (proc(5), measured). Memory
of GPUs is not in it.
"""

from __future__ import annotations

import os
import re

import psutil
from twisted.internet.interfaces import IReactorTime

from llamagw.launch.base import Memory

#: Seconds for which a reading is kept; /proc is not walked more often, however many ask.
AGE_SEC = 1.0

#: Lines of /proc/PID/status (proc_pid_status(5)); in KiB, whatever the unit is called there.
_LINE = re.compile(rb"^(VmRSS|RssFile):\s+(\d+) kB$", re.MULTILINE)


class MemoryInUse:
    """
    The memory of processes, by pid.

    :param clock: measures the age of a reading
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._read_at = float("-inf")
        #: The processes of each session, by its leader.
        self._sessions: dict[int, list[int]] = {}
        #: What was read since then, by pid of the leader.
        self._readings: dict[int, Memory | None] = {}

    def __repr__(self) -> str:
        return f"<MemoryInUse, read at {self._read_at}>"

    def of(self, leader: int, fresh: bool = False) -> Memory | None:
        """
        What a process and the others of its session have in use.

        The first call in `AGE_SEC` takes some microseconds for each process of the machine.

        :param leader: the pid of the process; it may be a script that runs the engine
        :param fresh: whether to read it now, however young the last reading is
        :return: None if none of them can be seen; without `anon` and `file` where the system does
            not tell them
        """
        now = self._clock.seconds()
        if fresh or now - self._read_at >= AGE_SEC:
            self._read_at = now
            self._sessions = _sessions()
            self._readings.clear()
        if leader not in self._readings:
            self._readings[leader] = _sum(self._sessions.get(leader, [leader]))
        return self._readings[leader]


def _sessions() -> dict[int, list[int]]:
    """The processes of each session on this machine."""
    sessions: dict[int, list[int]] = {}
    for pid in psutil.pids():
        try:
            sessions.setdefault(os.getsid(pid), []).append(pid)
        except OSError:
            continue  # it has ended
    return sessions


def _sum(pids: list[int]) -> Memory | None:
    """The memory of several processes; pages that they share count for each."""
    found = [memory for memory in map(_memory, pids) if memory is not None]
    if not found:
        return None
    rss = sum(memory.rss for memory in found)
    of_files = [memory.file for memory in found if memory.file is not None]
    if len(of_files) < len(found):
        return Memory(rss)
    return Memory(rss, rss - sum(of_files), sum(of_files))


def _memory(pid: int) -> Memory | None:
    """One process; None if it has ended, or may not be seen."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            told = {name: int(kib) * 1024 for name, kib in _LINE.findall(file.read())}
        rss, of_files = told.get(b"VmRSS"), told.get(b"RssFile")
        if rss is not None:
            return Memory(rss, None if of_files is None else rss - of_files, of_files)
        return None  # it has ended, but not been waited for
    except FileNotFoundError:
        pass  # it has ended, or this is no Linux
    except OSError:
        return None
    try:
        return Memory(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
