"""
Requests and tokens a second, out of what the gateway tells of requests.

The tokens of a request are known when it has ended. While a stream is under way they are taken from
its size, by what a token took in the last stream of that kind; at the end the truth takes their
place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import Any, NamedTuple

from llamagw.cli.entries import number, text

#: Seconds over which is averaged.
WINDOW = 10.0

#: How many kinds of streams (model and path) are remembered.
KINDS = 200


class _Span(NamedTuple):
    """Tokens that were generated evenly between two times."""

    begin: float
    end: float
    tokens: float
    model: str


class Rates:
    """What was done in the last `WINDOW` seconds. Times are of a clock that never goes back."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._ended: deque[float] = deque()
        self._spans: deque[_Span] = deque()
        #: Bytes of a token, by model and path.
        self._sizes: dict[tuple[str, str], float] = {}
        #: Of a stream under way: when it was looked at, its bytes then, the tokens counted.
        self._streams: dict[str, tuple[float, float, float]] = {}

    def learn(self, entry: dict[str, Any]) -> None:
        """Learn from a request that has ended how large a token is."""
        tokens, size = number(entry, "tokens", "completion"), number(entry, "bytes_out")
        if entry.get("stream") and tokens and size:
            self._sizes.pop(_kind(entry), None)
            self._sizes[_kind(entry)] = size / tokens
            if len(self._sizes) > KINDS:
                del self._sizes[next(iter(self._sizes))]

    def moved(self, key: str, entry: dict[str, Any], now: float) -> None:
        """
        Count what has come of a stream since it was looked at last.

        :param key: of the request
        :param entry: what is told of it
        """
        self._start(now)
        size, sent = self._sizes.get(_kind(entry)), number(entry, "bytes_out")
        if not entry.get("stream") or size is None or sent is None:
            return
        then, before, counted = self._streams.get(key, (now, sent, 0.0))
        tokens = max(sent - before, 0.0) / size
        if tokens:
            self._spans.append(_Span(then, now, tokens, text(entry, "model")))
        self._streams[key] = now, sent, counted + tokens

    def ended(self, key: str, entry: dict[str, Any], now: float) -> None:
        """
        Count a request that has ended.

        :param key: of the request
        :param entry: what is told of it
        """
        self._start(now)
        self._ended.append(now)
        self.learn(entry)
        then, _, counted = self._streams.pop(key, (None, 0.0, 0.0))
        tokens, seconds = number(entry, "tokens", "completion"), number(entry, "completion_sec")
        if tokens is None or tokens <= counted:
            return
        begin = now - max(seconds or 0.0, 0.0)
        if then is not None:
            begin = max(begin, then)
        self._spans.append(_Span(begin, now, tokens - counted, text(entry, "model")))

    def keep(self, keys: Container[str]) -> None:
        """Forget streams of which no end will be told."""
        self._streams = {key: told for key, told in self._streams.items() if key in keys}

    def requests(self, now: float) -> float:
        """How many requests ended in a second."""
        while self._ended and self._ended[0] <= now - WINDOW:
            self._ended.popleft()
        return len(self._ended) / self._length(now)

    def tokens(self, now: float) -> dict[str, float]:
        """How many tokens each model generated in a second; without those that generated none."""
        since, length = now - WINDOW, self._length(now)
        while self._spans and self._spans[0].end <= since:
            self._spans.popleft()
        found: dict[str, float] = {}
        for begin, end, tokens, model in self._spans:
            share = (end - max(begin, since)) / (end - begin) if end > begin else 1.0
            found[model] = found.get(model, 0.0) + tokens * share / length
        return found

    def _start(self, now: float) -> None:
        if self._begun is None:
            self._begun = now

    def _length(self, now: float) -> float:
        """Seconds over which is averaged: fewer at the beginning, but never under 1."""
        begun = now if self._begun is None else self._begun
        return min(max(now - begun, 1.0), WINDOW)


def _kind(entry: dict[str, Any]) -> tuple[str, str]:
    return text(entry, "model"), text(entry, "path")
