"""
The gateway's counters and histograms, as plain numbers.

Counts what records and the fleet tell. In which format they are shown is for prometheus.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llamagw.observe.record import Outcome, Record

#: Upper bounds of the buckets of durations, and of the time of one token, in seconds.
SECONDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

#: The label of all models that are not configured, and of those over `MOST_MODELS`.
OTHER = "other"

#: How many models, pairs of model and route, and kinds of answer are told apart; a line of a scrape
#: takes some 5 µs, and a pair has twenty.
MOST_MODELS, MOST_PAIRS, MOST_ANSWERS = 100, 200, 2000

#: How many keys are told apart.
MOST_KEYS = 200


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


class Gauge(NamedTuple):
    """
    What is so at this moment.

    :ivar values: by the values of the labels
    """

    name: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[Any, float]


class OfModel:
    """
    What is counted of one model's requests.

    :ivar generating: seconds in which `completion` was generated, of all requests together
    """

    __slots__ = (
        *("broken", "cached", "completion", "first", "generating", "prompt", "queue"),
        *("retries", "token"),
    )

    def __init__(self) -> None:
        self.prompt = self.cached = self.completion = 0
        self.retries = self.broken = 0
        self.generating = 0.0
        self.queue = Histogram(SECONDS)
        self.first = Histogram(SECONDS)
        self.token = Histogram(TOKEN_SECONDS)


class Counts:
    """
    All counters.

    :param known: whether a name is that of a configured model; others are counted as one
    :param routes: the route of each path; None for those whose requests are left out
    :ivar requests: by model, route and status
    :ivar durations: by model and route
    :ivar refusals: by the code of the error
    :ivar models: by name
    :ivar keys: requests, tokens of prompts and of answers, by the key's name
    :ivar loads: by model and outcome
    :ivar load_seconds: by model
    :ivar unloads: by model and reason
    """

    def __init__(self, known: Callable[[str], bool], routes: Mapping[bytes, str | None]) -> None:
        self._known = known
        self._routes = routes
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.durations: dict[tuple[str, str], Histogram] = {}
        self.refusals: Counter[str] = Counter()
        self.models: dict[str, OfModel] = {}
        self.keys: dict[str, list[int]] = {}
        self.loads: Counter[tuple[str, str]] = Counter()
        self.load_seconds: dict[str, Histogram] = {}
        self.unloads: Counter[tuple[str, str]] = Counter()

    def __repr__(self) -> str:
        return f"<Counts of {sum(self.requests.values())} requests, {len(self.models)} models>"

    def count(self, record: Record) -> None:
        """Count a request that has ended."""
        if record.error:
            self.refusals[record.error] += 1
        route = self._routes[record.path]
        # What named no model and is no error was no request for one, such as a scrape.
        if route is None or (record.asked is None and not record.error):
            return
        name = record.model
        if name not in self.models:
            name = self.label(name or record.asked or OTHER)
        answer = name, route, record.status
        if answer not in self.requests and len(self.requests) >= MOST_ANSWERS:
            answer = OTHER, OTHER, 0
        self.requests[answer] += 1
        if record.arrived is None:
            return
        duration = self.durations.get((name, route))
        if duration is None:
            duration = self._duration(name, route)
        # Not by `Histogram.add`: this is done for every request.
        seconds = record.last - record.arrived
        duration.counts[bisect_left(SECONDS, seconds)] += 1
        duration.sum += seconds
        if record.admitted is None:
            return
        of_model = self.models[name]
        if record.queued is None:
            of_model.queue.counts[0] += 1
        else:
            of_model.queue.add(record.admitted - record.queued)
        of_model.retries += record.tries - 1
        of_model.broken += record.outcome is Outcome.BACKEND_LOST and record.status < 400
        if record.first is not None:
            seconds = record.first - record.arrived
            of_model.first.counts[bisect_left(SECONDS, seconds)] += 1
            of_model.first.sum += seconds
        usage = record.usage
        if usage is not None:
            of_model.prompt += usage.prompt or 0
            of_model.cached += usage.cached or 0
            of_model.completion += usage.completion or 0
            if usage.completion and usage.completion_sec:
                of_model.token.add(usage.completion_sec / usage.completion)
                of_model.generating += usage.completion_sec

    def count_key(self, key: str, prompt: int, answer: int) -> None:
        """
        Count a request of a key that a model has answered.

        :param prompt: tokens
        :param answer: tokens
        """
        if key not in self.keys and len(self.keys) >= MOST_KEYS:
            key = OTHER
        counted = self.keys.setdefault(key, [0, 0, 0])
        counted[0] += 1
        counted[1] += prompt
        counted[2] += answer

    def count_load(self, model: str, how: str, seconds: float) -> None:
        """
        Count the end of a load.

        :param how: ``loaded`` or ``failed``
        :param seconds: what it took, if it did not fail
        """
        model = self.label(model)
        self.loads[model, how] += 1
        if how == "loaded":
            if model not in self.load_seconds:
                self.load_seconds[model] = Histogram(SECONDS)
            self.load_seconds[model].add(seconds)

    def count_unload(self, model: str, why: str) -> None:
        """Count the end of a model's run."""
        self.unloads[self.label(model), why] += 1

    def expect(self, models: Iterable[str], loads: Sequence[str], unloads: Sequence[str]) -> None:
        """
        Have the loads and unloads of models counted from 0, not from the first one.

        Prometheus does not see the first step of a counter that was not there before.

        :param models: their names; `MOST_MODELS` are told apart
        :param loads: the outcomes of loads
        :param unloads: the reasons of unloads
        """
        for model in models:
            if len(self.loads) >= MOST_MODELS * len(loads):
                return
            for outcome in loads:
                self.loads.setdefault((model, outcome), 0)
            for reason in unloads:
                self.unloads.setdefault((model, reason), 0)

    def label(self, name: str) -> str:
        """
        The label of a model; from here on it has counters.

        :param name: any text
        :return: the name, or `OTHER`
        """
        if name in self.models:
            return name
        if not self._known(name) or len(self.models) >= MOST_MODELS:
            name = OTHER
        self.models.setdefault(name, OfModel())
        return name

    def _duration(self, name: str, route: str) -> Histogram:
        pair = (name, route) if len(self.durations) < MOST_PAIRS else (OTHER, OTHER)
        return self.durations.setdefault(pair, Histogram(SECONDS))
