"""
Callbacks that are called with the same news, such as changes of state or the lines of an engine.

A callback that raises is logged, and the others are called all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.logger import Logger

_log = Logger(namespace="llamagw.listeners")

T = TypeVar("T")


class Listeners(Generic[T]):
    """A list of callbacks that take one argument."""

    def __init__(self) -> None:
        self._all: dict[object, Callable[[T], object]] = {}

    def __repr__(self) -> str:
        return f"<Listeners: {len(self._all)}>"

    def add(self, tell: Callable[[T], object]) -> Callable[[], None]:
        """
        Add a callback.

        :param tell: the callback
        :return: removes it again; may be called more than once
        """
        key = object()
        self._all[key] = tell

        def stop() -> None:
            self._all.pop(key, None)

        return stop

    def tell(self, news: T) -> None:
        """
        Call all callbacks, in the order in which they were added.

        :param news: their argument
        """
        for key, tell in list(self._all.items()):
            # A callback may have removed another one.
            if key in self._all:
                try:
                    tell(news)
                except Exception:
                    _log.failure("somebody who listens failed")

    def clear(self) -> None:
        """Remove all callbacks."""
        self._all.clear()
