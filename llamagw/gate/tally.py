"""
What keys have used: requests and tokens a key, model and day.

Counts in memory; what is new is written to a file (`UsageFile`) by a thread, every few seconds and
at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from llamagw.gate.limits import DAY
from llamagw.gate.spent import spent
from llamagw.gate.usagefile import Row, UsageFile
from llamagw.observe import Record

_log = Logger(namespace="llamagw.usage")

#: Seconds between two writes: what is lost at most if the machine ends without warning.
WRITE_SEC = 5.0


class Tally:
    """
    Counts what keys use.

    :param file: keeps it
    :param told: called with a key's name, tokens of a prompt and tokens of an answer, for each
        request
    :param clock: the reactor, or a Clock
    :param in_thread: calls a function in a thread; the Deferred fires in the reactor's
    :param epoch: tells the time, in seconds since the epoch
    """

    def __init__(
        self,
        file: UsageFile,
        told: Callable[[str, int, int], object],
        clock: IReactorTime,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        epoch: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._told = told
        self._in_thread = in_thread
        self._epoch = epoch
        #: Requests, tokens of prompts and of answers that are not written yet.
        self._new: dict[tuple[int, str, str], list[int]] = {}
        #: The day that is counted, and tokens of each key in it.
        self._day = self._today()
        self._midnight = (self._day + 1) * DAY
        self._used: dict[str, int] = {}
        self._lock = DeferredLock()
        self._looping = LoopingCall(self.write)
        self._looping.clock = clock

    def __repr__(self) -> str:
        return f"<Tally of {len(self._used)} keys, {len(self._new)} rows to be written>"

    def _today(self) -> int:
        return int(self._epoch() // DAY)

    async def begin(self) -> None:
        """Take up what is known of this day, and write what is new from now on."""
        day = self._day
        for key, tokens in (await self._in_thread(lambda: self._file.used(day))).items():
            if day == self._day:
                self._used[key] = self._used.get(key, 0) + tokens
        self._looping.start(WRITE_SEC, now=False)

    def count(self, record: Record) -> None:
        """Count a request that has ended, if it has a key and a model has answered it."""
        key = record.key
        if not key or record.admitted is None:
            return
        prompt, answer = spent(record)
        # Not by `_turn` alone: this is done for every request.
        if self._epoch() >= self._midnight:
            self._turn()
        self._used[key] = self._used.get(key, 0) + prompt + answer
        row = self._new.setdefault((self._day, key, record.model), [0, 0, 0])
        row[0] += 1
        row[1] += prompt
        row[2] += answer
        self._told(key, prompt, answer)

    def used(self, key: str) -> int:
        """How many tokens a key has used in this day of UTC."""
        self._turn()
        return self._used.get(key, 0)

    def _turn(self) -> None:
        day = self._today()
        if day != self._day:
            self._day = day
            self._midnight = (day + 1) * DAY
            self._used.clear()

    def write(self) -> Deferred[None]:
        """
        Write what is new.

        :return: fires when that is done, or has failed
        """
        return self._lock.run(lambda: Deferred.fromCoroutine(self._write()))

    async def _write(self) -> None:
        if not self._new:
            return
        new, self._new = self._new, {}
        try:
            written = await self._in_thread(lambda: self._file.add(new))
        except Exception:
            _log.failure("what keys have used cannot be written")
            written = False
        if not written:
            # They are tried again: as many as keys times models, for each day that it takes.
            for place, row in new.items():
                kept = self._new.setdefault(place, [0, 0, 0])
                for number, more in enumerate(row):
                    kept[number] += more

    async def rows(self, days: int, key: str | None, most: int) -> list[Row]:
        """
        What was used, what is new among it; the newest day first.

        :param days: how many days, this one among them
        :param key: of this key only; None for all
        :param most: how many rows at most
        """
        await self.write()
        since = self._today() - days + 1
        found: list[Row] = await self._in_thread(lambda: self._file.rows(since, key, most))
        return found

    async def end(self) -> None:
        """Write what is new for the last time; nothing, if it has not begun."""
        if not self._looping.running:
            return
        self._looping.stop()
        await self.write()
        await self._in_thread(self._file.close)
