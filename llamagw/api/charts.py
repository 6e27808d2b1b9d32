"""`GET /history`: has samples taken every 10 s, and tells of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from llamagw.errors import BadRequest
from llamagw.observe import STEP, History
from llamagw.proxy import Request

_log = Logger(namespace="llamagw.history")

#: The span that is told if the query does not say, and the longest, in minutes.
USUAL, LONGEST = 15, 24 * 60

#: How many answers are kept until the next sample: to make one takes up to 0.1 s.
MOST_KEPT = 4


class Charts:
    """
    Answers `GET /history`.

    :param history: the samples
    :param clock: the reactor, or a Clock
    :param now: gives seconds since the epoch
    """

    def __init__(
        self, history: History, clock: IReactorTime, now: Callable[[], float] = time.time
    ) -> None:
        self._history = history
        self._now = now
        self._loop = LoopingCall(self._sample)
        self._loop.clock = clock
        self._failed = False
        #: The last answers, by minutes; dropped with each sample.
        self._told: dict[int, bytes] = {}

    def __repr__(self) -> str:
        return f"<Charts of {self._history}>"

    def begin(self) -> None:
        """Take a sample every `STEP` seconds from now on."""
        self._loop.start(STEP, now=False)

    def _sample(self) -> None:
        self._told.clear()
        try:
            self._history.sample(self._now())
        except Exception:
            # One that fails is missed, and may be the first of many.
            if not self._failed:
                self._failed = True
                _log.failure("no sample could be taken for GET /history")

    def body(self, request: Request) -> bytes:
        """
        The answer to a request, as JSON.

        :raises BadRequest: if ``minutes`` is no number, or none that there could be
        """
        minutes = _minutes(request.args)
        told = self._told.get(minutes)
        if told is None:
            told = msgspec.json.encode(self._history.told(minutes))
            if len(self._told) == MOST_KEPT:
                self._told.pop(next(iter(self._told)))
            self._told[minutes] = told
        return told


def _minutes(query: dict[bytes, list[Any]]) -> int:
    [text] = query.get(b"minutes", [b"%d" % USUAL])[-1:]
    if not text.isdigit() or len(text) > 5 or not 1 <= int(text) <= LONGEST:
        raise BadRequest(
            f"?minutes= must be a whole number, 1 to {LONGEST} (a day).", param="minutes"
        )
    return int(text)
