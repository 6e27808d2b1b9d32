"""
The gateway's counters and histograms, as plain numbers.

Counts what records and the fleet tell. In which format they are shown is for prometheus.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable

from llamagw.observe.record import Record

#: Upper bounds of the buckets of durations, and of the time of one token, in seconds.
SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

#: The label of all models that are not configured.
OTHER = "other"


class Histogram:
    """
    Counts values by bucket.

    :param bounds: upper bounds of the buckets, in ascending order
    :ivar counts: number of values in each bucket; the last one is of those above all bounds
    :ivar sum: of all values
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def __repr__(self) -> str:
        return f"<Histogram of {sum(self.counts)}, {self.sum:g} in all>"

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class OfModel:
    """What is counted of one model's requests."""

    __slots__ = ("cached", "completion", "first", "prompt", "queue", "retries", "broken", "token")

    def __init__(self) -> None:
        self.prompt = self.cached = self.completion = 0
        self.retries = self.broken = 0
        self.queue = Histogram(SECONDS)
        self.first = Histogram(SECONDS)
        self.token = Histogram(TOKEN_SECONDS)


class Counts:
    """
    All counters.

    :param known: whether a name is that of a configured model; others are counted as one
    :ivar requests: by model, route and status
    :ivar durations: by model and route
    :ivar refusals: by the code of the error
    :ivar models: by name
    """

    def __init__(self, known: Callable[[str], bool]) -> None:
        self._known = known
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.durations: dict[tuple[str, str], Histogram] = {}
        self.refusals: Counter[str] = Counter()
        self.models: dict[str, OfModel] = {}

    def __repr__(self) -> str:
        return f"<Counts of {sum(self.requests.values())} requests, {len(self.models)} models>"

    def count(self, record: Record) -> None:
        """Count a request that has ended."""
        name = record.model if self._known(record.model) else OTHER
        self.requests[name, record.route, record.status] += 1
        duration = self.durations.get((name, record.route))
        if duration is None:
            duration = self.durations[name, record.route] = Histogram(SECONDS)
        duration.add(record.last - record.arrived)
        if record.error:
            self.refusals[record.error] += 1
        if not record.admitted:
            return
        of_model = self.models.get(name)
        if of_model is None:
            of_model = self.models[name] = OfModel()
        of_model.queue.add(record.waited)
        of_model.retries += max(record.tries - 1, 0)
        if record.first:
            of_model.first.add(record.first - record.arrived)
        usage = record.usage
        if usage is not None:
            of_model.prompt += usage.prompt or 0
            of_model.cached += usage.cached or 0
            of_model.completion += usage.completion or 0
            if usage.completion and usage.completion_sec:
                of_model.token.add(usage.completion_sec / usage.completion)
