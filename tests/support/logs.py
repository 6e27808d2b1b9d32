"""What is logged while a test runs."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer


def observe(note: Callable[[LogEvent], object]) -> Callable[[], None]:
    """
    Hand all events to a function.

    :return: what ends that
    """

    @implementer(ILogObserver)
    def observer(event: LogEvent) -> None:
        note(event)

    globalLogPublisher.addObserver(observer)
    return lambda: globalLogPublisher.removeObserver(observer)


def events_of(case: SynchronousTestCase) -> list[LogEvent]:
    """:return: the events that are logged from here to the end of the test; the list grows"""
    events: list[LogEvent] = []
    case.addCleanup(observe(events.append))
    return events
