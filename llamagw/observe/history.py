"""
What went on in the last 24 hours, in samples of 10 s, for charts.

A sample is made of the differences of the counters since the one before, so that a request costs
nothing here; who takes it, and when, is for api/. 24 hours take 1 MB, and 70 KB for each model that
had requests, of which `MOST_MODELS` are told apart.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from llamagw.observe.counts import SECONDS, Counts, OfModel

#: Seconds of a sample, how many are kept, and how many points are told at most.
STEP, KEPT, MOST_POINTS = 10, 24 * 3600 // 10, 360

#: What is summed when samples are put together, and of what the most is told.
SUMS = ("requests", "tokens", "prompt_tokens", "swaps", "errors")
GAUGES = ("in_flight", "waiting", "loaded", "memory_bytes")


class _OfModel:
    """
    The samples of one model, and its counters at the last one.

    :param length: of how many samples it had nothing
    """

    def __init__(self, length: int) -> None:
        self.requests = array("f", bytes(4 * length))
        self.tokens = array("f", bytes(4 * length))
        self.asked = self.completion = self.prompt = self.answers = 0
        self.generating = 0.0


class History:
    """
    The samples of the last 24 hours.

    :param counts: the counters
    :param now: gives the requests in flight and waiting, the models in memory, and their bytes
    """

    def __init__(self, counts: Counts, now: Callable[[], tuple[int, int, int, int]]) -> None:
        self._counts = counts
        self._now = now
        #: When the last sample was taken, and how many were in all.
        self._at: float | None = None
        self._taken = 0
        # Bytes of memory are more than a float of 4 bytes can count.
        self._totals = {name: array("d" if "bytes" in name else "f") for name in (*SUMS, *GAUGES)}
        self._first = [array("I") for _ in (*SECONDS, math.inf)]
        self._models: dict[str, _OfModel] = {}
        #: The counters at the last sample.
        self._before: Counter[str] = Counter()
        self._first_before = [0] * len(self._first)

    def __repr__(self) -> str:
        return f"<History of {len(self)} samples, {len(self._models)} models>"

    def __len__(self) -> int:
        return len(self._first[0])

    def sample(self, at: float) -> None:
        """
        Take a sample.

        Samples that were missed, as by a machine that slept, are filled in as if nothing had been.

        :param at: seconds since the epoch
        """
        missed = 0 if self._at is None else round((at - self._at) / STEP) - 1
        if missed > 0:
            for column in self._columns():
                column.frombytes(bytes(column.itemsize * min(missed, KEPT)))
            self._taken += min(missed, KEPT)
        self._at = at
        self._add()
        self._taken += 1
        excess = len(self) - KEPT
        if excess > 0:
            for column in self._columns():
                del column[:excess]

    def _columns(self) -> Iterator[array[Any]]:
        yield from self._totals.values()
        yield from self._first
        for model in self._models.values():
            yield model.requests
            yield model.tokens

    def _add(self) -> None:
        counts, length = self._counts, len(self)
        asked: Counter[str] = Counter()
        errors = 0
        for (name, _, status), number in counts.requests.items():
            asked[name] += number
            errors += number * (status >= 400)
        errors += sum(of.broken for of in counts.models.values())
        swaps = sum(number for (_, why), number in counts.unloads.items() if why == "room")
        now = Counter(requests=asked.total(), errors=errors, swaps=swaps)
        for name, column in self._totals.items():
            column.append(now[name] - self._before[name])
        self._before = now
        for name, value in zip(GAUGES, self._now(), strict=True):
            self._totals[name][-1] = value
        for name, of in counts.models.items():
            if name not in self._models and (asked[name] or of.completion):
                self._models[name] = _OfModel(length)
        for name, model in self._models.items():
            self._add_of(model, asked[name], counts.models[name])
        for number, bucket in enumerate(self._first):
            total = sum(of.first.counts[number] for of in counts.models.values())
            bucket.append(total - self._first_before[number])
            self._first_before[number] = total

    def _add_of(self, model: _OfModel, asked: int, counted: OfModel) -> None:
        """Add a sample of one model; its tokens to the totals too."""
        model.requests.append(asked - model.asked)
        model.tokens.append(0)
        tokens = counted.completion - model.completion
        if tokens:
            # They are counted when an answer ends, and were generated in all the time before.
            answers = sum(counted.token.counts)
            ended, seconds = answers - model.answers, counted.generating - model.generating
            model.answers, model.generating = answers, counted.generating
            over = min(max(round(seconds / ended / STEP), 1), len(model.tokens)) if ended else 1
            for column in (model.tokens, self._totals["tokens"]):
                for at in range(len(column) - over, len(column)):
                    column[at] += tokens / over
        self._totals["prompt_tokens"][-1] += counted.prompt - model.prompt
        model.asked, model.completion, model.prompt = asked, counted.completion, counted.prompt

    def told(self, minutes: int) -> dict[str, Any]:
        """
        What is told of a span of time up to now.

        :param minutes: 1 to 1440
        :return: ``step`` in seconds; ``end``, the end of the last step, which may not be over yet,
            in seconds since the epoch; ``series``, by name, of one value for each step, oldest
            first; and ``models``, by name of those that had requests. Values in a second are those
            of the samples that there are. Of gauges the most in a step is told
        """
        wanted = minutes * 60 // STEP
        group = math.ceil(wanted / MOST_POINTS)
        spans = self._spans(group, math.ceil(wanted / group))
        seconds = [STEP * (end - begin) for begin, end in spans]

        def sums(column: Sequence[float]) -> list[int]:
            return [round(sum(column[begin:end])) for begin, end in spans]

        def rates(column: Sequence[float]) -> list[float]:
            return [
                round(sum(column[begin:end]) / length, 2)
                for (begin, end), length in zip(spans, seconds, strict=True)
            ]

        totals = self._totals
        first = [[sum(column[begin:end]) for column in self._first] for begin, end in spans]
        series: dict[str, Sequence[float | None]] = {
            "requests": sums(totals["requests"]),
            "tokens_per_sec": rates(totals["tokens"]),
            "prompt_tokens_per_sec": rates(totals["prompt_tokens"]),
            "first_byte_p50": [quantile(0.5, counts) for counts in first],
            "first_byte_p95": [quantile(0.95, counts) for counts in first],
            **{
                name: [round(max(totals[name][begin:end])) for begin, end in spans]
                for name in GAUGES
            },
            "swaps": sums(totals["swaps"]),
            "errors": sums(totals["errors"]),
        }
        begun = spans[0][0] if spans else 0
        models = {
            name: {"requests": sums(of.requests), "tokens_per_sec": rates(of.tokens)}
            for name, of in self._models.items()
            if any(of.requests[begun:]) or any(of.tokens[begun:])
        }
        to_come = -self._taken % group * STEP
        end = None if self._at is None else round(self._at + to_come, 3)
        return {"step": group * STEP, "end": end, "series": series, "models": models}

    def _spans(self, group: int, count: int) -> list[tuple[int, int]]:
        """
        The samples of each step, as first and behind the last; `count` steps at most.

        A sample belongs to the same step whenever it is asked for.

        :param group: samples of a step
        """
        if not len(self):
            return []
        oldest = self._taken - len(self)
        last = (self._taken - 1) // group
        steps = range(max(last - count + 1, oldest // group), last + 1)
        return [
            (max(step * group - oldest, 0), min((step + 1) * group - oldest, len(self)))
            for step in steps
        ]


def quantile(share: float, counts: Iterable[int]) -> float | None:
    """
    A quantile of durations that were counted by `SECONDS`, as Prometheus estimates it.

    :param share: such as 0.95
    :param counts: by bucket; the last one is of those above all bounds
    :return: seconds; the highest bound if it is above that; None if nothing was counted
    """
    counts = list(counts)
    rank = share * sum(counts)
    if not rank:
        return None
    below, lower = 0, 0.0
    for bound, count in zip(SECONDS, counts, strict=False):
        if below + count >= rank:
            return round(lower + (bound - lower) * (rank - below) / count, 4)
        below, lower = below + count, bound
    return SECONDS[-1]
