"""Promises of the samples for charts: what they say of the counters, and how much they take."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest

from llamagw.observe.counts import Counts
from llamagw.observe.history import GAUGES, KEPT, MOST_POINTS, STEP, History, quantile
from llamagw.observe.record import Record
from llamagw.observe.usage import Usage

BEGIN = 1_800_000_000.0


class Scene:
    """A history that is sampled by hand."""

    def __init__(self) -> None:
        self.counts = Counts({"a", "b"}.__contains__, defaultdict(lambda: "/v1/chat/completions"))
        self.now = (0, 0, 0, 0)
        self.history = History(self.counts, lambda: self.now)
        self.at = BEGIN

    def ask(self, model: str = "a", status: int = 200, first: float = 0.02, **usage: Any) -> None:
        record = Record(id="x", arrived=0.0, asked=model, model=model, status=status, tries=1)
        record.admitted, record.first, record.last = 0.0, first, 1.0
        record.usage = Usage(**usage) if usage else None
        self.counts.count(record)

    def sample(self, count: int = 1) -> None:
        for _ in range(count):
            self.at += STEP
            self.history.sample(self.at)

    def series(self, name: str, minutes: int = 15) -> list[Any]:
        values: list[Any] = self.history.told(minutes)["series"][name]
        return values


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_each_sample_tells_what_happened_since_the_one_before(scene: Scene) -> None:
    scene.ask(prompt=30, completion=50, completion_sec=1.0)
    scene.ask("b", 503)
    scene.counts.count_unload("a", "room")
    scene.counts.count_unload("a", "idle")
    scene.now = (3, 2, 1, 5 * 2**30)
    scene.sample()
    scene.now = (0, 0, 0, 0)
    scene.sample()
    told = scene.history.told(15)
    assert (told["step"], told["end"]) == (10, BEGIN + 20)
    assert {name: values[0] for name, values in told["series"].items()} == {
        "requests": 2,
        "tokens_per_sec": 5.0,
        "prompt_tokens_per_sec": 3.0,
        "first_byte_p50": 0.0175,
        "first_byte_p95": 0.0243,
        "in_flight": 3,
        "waiting": 2,
        "loaded": 1,
        "memory_bytes": 5 * 2**30,
        "swaps": 1,
        "errors": 1,
    }
    assert told["series"]["requests"] == [2, 0]
    assert told["series"]["first_byte_p95"][1] is None
    assert told["models"] == {
        "a": {"requests": [1, 0], "tokens_per_sec": [5.0, 0.0]},
        "b": {"requests": [1, 0], "tokens_per_sec": [0.0, 0.0]},
    }


def test_the_tokens_of_a_long_answer_are_spread_over_the_time_in_which_they_came(
    scene: Scene,
) -> None:
    scene.sample(4)
    scene.ask(completion=600, completion_sec=30.0)
    scene.sample()
    assert scene.series("tokens_per_sec") == [0, 0, 20.0, 20.0, 20.0]
    # Two at the same time are twice as much, and take no longer.
    for _ in range(2):
        scene.ask(completion=300, completion_sec=20.0)
    scene.sample()
    assert scene.series("tokens_per_sec") == [0, 0, 20.0, 20.0, 50.0, 30.0]


def test_an_answer_longer_than_the_history_counts_from_its_beginning(scene: Scene) -> None:
    scene.sample()
    scene.ask(completion=100, completion_sec=3600.0)
    scene.sample()
    assert scene.series("tokens_per_sec") == [5.0, 5.0]
    # Some engines tell tokens and no time.
    scene.ask(completion=100)
    scene.sample()
    assert scene.series("tokens_per_sec") == [5.0, 5.0, 10.0]


def test_a_longer_span_has_longer_steps_and_says_the_same_in_all(scene: Scene) -> None:
    for number in range(700):
        scene.ask(first=0.02 if number % 2 else 20.0)
        scene.now = (number % 10, 0, 0, 0)
        scene.sample()
    for minutes, step in ((1, 10), (60, 10), (61, 20), (120, 20), (1440, 240)):
        told = scene.history.told(minutes)
        assert told["step"] == step
        points = len(told["series"]["requests"])
        assert points == min(minutes * 60 // step, math.ceil(7000 / step))
        assert points <= MOST_POINTS
        asked = told["series"]["requests"]
        assert sum(asked[1:-1]) == (points - 2) * step // STEP
    assert scene.series("in_flight", 1440)[3] == 9
    assert scene.series("first_byte_p50", 1440)[3] == 0.025
    assert scene.series("first_byte_p95", 1440)[3] == 28.0


def test_a_step_that_has_passed_does_not_change_with_the_next_samples(scene: Scene) -> None:
    for number in range(500):
        if number % 3 == 0:
            scene.ask()
        scene.sample()
    before = scene.history.told(120)
    scene.sample()
    after = scene.history.told(120)
    # The last step has one of its two samples: it ends with the 502nd.
    assert (before["end"], after["end"]) == (BEGIN + 5000, BEGIN + 5020)
    passed = before["series"]["requests"][:-1]
    assert len(passed) > 200
    assert after["series"]["requests"][: len(passed)] == passed


def test_what_is_kept_ends_after_a_day(scene: Scene) -> None:
    scene.ask()
    scene.sample(KEPT)
    assert sum(scene.series("requests", 1440)) == 1
    scene.sample()
    assert len(scene.history) == KEPT
    assert sum(scene.series("requests", 1440)) == 0
    assert scene.history.told(1440)["models"] == {}


def test_after_a_sleep_of_the_machine_the_times_are_right_again(scene: Scene) -> None:
    scene.ask()
    scene.sample()
    scene.at += 5 * STEP
    scene.ask()
    scene.sample()
    assert scene.series("requests") == [1, 0, 0, 0, 0, 0, 1]
    # A clock that is set back, or far ahead, does no harm.
    scene.at -= 3600
    scene.sample()
    assert len(scene.history) == 8
    scene.at += 10**9
    scene.sample()
    assert len(scene.history) == KEPT


def test_nothing_is_told_before_the_first_sample(scene: Scene) -> None:
    told = scene.history.told(15)
    assert told["end"] is None
    assert all(values == [] for values in told["series"].values())
    assert set(GAUGES) < set(told["series"])


def test_a_model_that_nobody_asks_for_takes_nothing(scene: Scene) -> None:
    scene.counts.count_load("a", "loaded", 1.0)
    scene.ask("b")
    scene.sample()
    assert set(scene.history._models) == {"b"}


def test_a_day_with_a_hundred_models_takes_eight_megabytes() -> None:
    counts = Counts(lambda name: True, defaultdict(lambda: "/v1/chat/completions"))
    history = History(counts, lambda: (0, 0, 0, 0))
    for number in range(150):
        counts.count(Record(id="x", arrived=0.0, asked=f"m{number}", model=f"m{number}"))
    history.sample(BEGIN)
    history.sample(BEGIN + KEPT * STEP)
    history.sample(BEGIN + KEPT * STEP + STEP)
    columns = list(history._columns())
    assert len(columns[0]) == KEPT
    assert sum(column.itemsize * len(column) for column in columns) < 8e6


@pytest.mark.parametrize(
    ("share", "counts", "wanted"),
    [
        (0.5, {}, None),
        (0.5, {0: 1}, 0.0025),
        (0.95, {1: 10, 2: 10}, 0.0235),
        (0.5, {16: 3}, 600.0),
    ],
)
def test_quantiles_are_those_that_prometheus_would_tell(
    share: float, counts: dict[int, int], wanted: float | None
) -> None:
    assert quantile(share, [counts.get(number, 0) for number in range(17)]) == wanted
