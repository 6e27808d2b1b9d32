"""
Callbacks that are called with the same news, such as changes of state or the lines of an engine.

A callback that raises is logged the first time, and goes on being called, as the others are.
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
        #: Keys of those that have failed: thousands of requests would fill the log.
        self._failed: set[object] = set()

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
            self._failed.discard(key)

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
                    if key not in self._failed:
                        self._failed.add(key)
                        _log.failure("who listens failed; only its first failure is told")

    def clear(self) -> None:
        """Remove all callbacks."""
        self._all.clear()
        self._failed.clear()
