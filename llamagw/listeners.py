"""
Those who want to hear of something, and how they are told.

For the manager (changes of state) and the logs of the engines. What they do with it is theirs; one
that fails is logged and costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.logger import Logger

_log = Logger(namespace="llamagw.listeners")

T = TypeVar("T")


class Listeners(Generic[T]):
    """Some who are told the same."""

    def __init__(self) -> None:
        self._all: dict[object, Callable[[T], object]] = {}

    def add(self, tell: Callable[[T], object]) -> Callable[[], None]:
        """
        One more.

        :return: call it, as often as you like, and this one is told no more
        """
        key = object()
        self._all[key] = tell

        def stop() -> None:
            self._all.pop(key, None)

        return stop

    def tell(self, news: T) -> None:
        """Tell all of them, in the order in which they came."""
        for key, tell in list(self._all.items()):
            # One that is told may have another stop.
            if key in self._all:
                try:
                    tell(news)
                except Exception:
                    _log.failure("somebody who listens failed")

    def clear(self) -> None:
        """Forget them all."""
        self._all.clear()
