"""Promises of llamagw.net.transport that need no socket; the others are in test_endpoints.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from llamagw.net.transport import ENDS_PER_TURN, Ends, UvloopTransport


class _Loop:
    """An event loop; `turn` runs what was waiting."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.waiting.append(call)

    def turn(self) -> None:
        calls, self.waiting = self.waiting, []
        for call in calls:
            call()


class _Ended:
    """A connection that its peer has ended."""

    def __init__(self, dropped: list[int], number: int) -> None:
        self._dropped = dropped
        self._number = number

    def drop(self) -> None:
        self._dropped.append(self._number)


class EndsTests(SynchronousTestCase):
    def test_thousands_that_end_at_once_are_closed_in_turns_all_and_in_order(self) -> None:
        loop, dropped = _Loop(), list[int]()
        ends = Ends(cast(Any, loop))
        count = 2 * ENDS_PER_TURN + 1
        for number in range(count):
            ends.add(cast(UvloopTransport, _Ended(dropped, number)))
        for closed in (0, ENDS_PER_TURN, 2 * ENDS_PER_TURN, count, count):
            self.assertEqual(dropped, list(range(closed)))
            loop.turn()
        ends.add(cast(UvloopTransport, _Ended(dropped, count)))
        loop.turn()
        self.assertEqual(len(dropped), count + 1, "and one that ends later")
