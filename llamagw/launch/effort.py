"""
How much work a process has done, from the system's accounting (psutil, which reads /proc on Linux).

This distinguishes an engine that loads or generates from one that hangs. How long it may go
without progress is decided in probes.py.
"""

from __future__ import annotations

import psutil
from twisted.internet.interfaces import IReactorTime

#: The share of a core above which CPU time is work. Answering health probes takes a loading engine
#: up to 0.02; a load that hangs must not pass for one that progresses.
WORK_SHARE = 0.05


class Effort:
    """
    The work of processes, by pid.

    :param clock: measures the time between two readings of a process
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        #: By pid: time of the last reading (s), CPU time then (s), how many readings found work.
        self._readings: dict[int, tuple[float, float, int]] = {}

    def __repr__(self) -> str:
        return f"<Effort of {len(self._readings)} processes>"

    def of(self, pid: int) -> object:
        """
        Read what a process has done since the last call.

        :param pid: of the process
        :return: a token that differs from the last while the process uses more than `WORK_SHARE` of
            a core, or reads or writes; None if the process cannot be seen
        """
        try:
            process = psutil.Process(pid)
            times = process.cpu_times()
            # macOS does not count a process's reads.
            counters = process.io_counters() if hasattr(process, "io_counters") else ()
        except psutil.Error:
            return None
        spent, now = times.user + times.system, self._clock.seconds()
        last, before, worked = self._readings.get(pid, (now, spent, 0))
        if spent - before > WORK_SHARE * (now - last):
            worked += 1
        self._readings[pid] = now, spent, worked
        return worked, counters

    def forget(self, pid: int) -> None:
        """
        Drop what is kept of a process that has ended.

        :param pid: one that was never read is ignored
        """
        self._readings.pop(pid, None)
