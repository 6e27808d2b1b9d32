"""Promises of one model's queue: classes, fairness by flow, and who ages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamagw.fleet import queue
from llamagw.fleet.queue import AGE_SEC, HIGHEST, Line, Share


def serve(line: Line, slots: int | None = 1, now: float = 0.0) -> list[Any]:
    return line.serve(slots, now)[0]


def drained(line: Line, now: float = 0.0) -> list[Any]:
    """All tickets, one at a time."""
    order: list[Any] = []
    while line:
        order += serve(line, 1, now)
    return order


def test_alike_requests_are_served_as_they_come() -> None:
    line = Line()
    for ticket in range(5):
        line.join(ticket, 0)
    assert list(line) == [0, 1, 2, 3, 4]
    assert serve(line, 2) == [0, 1]
    assert serve(line, None) == [2, 3, 4]
    assert not line


def test_a_request_that_takes_no_slot_waits_for_none() -> None:
    line = Line()
    line.join("chat", 0)
    line.join("tokenize", 0, None)
    assert line.serve(0, 0) == (["tokenize"], 0)
    assert line.serve(1, 0) == (["chat"], 1)


def test_of_all_that_are_served_those_that_take_a_slot_are_counted() -> None:
    line = Line()
    line.join("chat", 0)
    line.join("tokenize", 0, None)
    assert line.serve(None, 0) == (["chat", "tokenize"], 1)


def test_a_long_queue_of_one_delays_anothers_only_request_by_one_turn() -> None:
    line = Line()
    for number in range(500):
        line.join(("a", number), 0, Share("a", cost=1000))
    serve(line)
    line.join("b", 0, Share("b", cost=1000))
    assert line.place("b") == 1
    assert "b" in serve(line, 2)


def test_who_has_twice_the_share_is_served_twice_as_often() -> None:
    line = Line()
    for number in range(60):
        line.join(("a", number), 0, Share("a", weight=2))
        line.join(("b", number), 0, Share("b", weight=1))
    served = Counter(flow for flow, _ in (serve(line)[0] for _ in range(60)))
    assert served["a"] == pytest.approx(40, abs=1)


def test_what_costs_more_is_served_less_often() -> None:
    line = Line()
    for number in range(60):
        line.join(("long", number), 0, Share("long", cost=3))
        line.join(("short", number), 0, Share("short", cost=1))
    served = Counter(flow for flow, _ in (serve(line)[0] for _ in range(40)))
    assert served["short"] == pytest.approx(30, abs=1)


def test_nobody_saves_up_what_was_not_asked() -> None:
    line = Line()
    for number in range(100):
        line.join(("a", number), 0, Share("a"))
    for _ in range(50):
        serve(line)
    for number in range(50):
        line.join(("b", number), 0, Share("b"))
    served = Counter(flow for flow, _ in (serve(line)[0] for _ in range(20)))
    assert served["a"] == pytest.approx(10, abs=1)


def test_a_higher_class_is_served_first() -> None:
    line = Line()
    line.join("low", 0, Share("a", priority=-5))
    line.join("usual", 0, Share("b"))
    line.join("high", 0, Share("c", priority=7))
    assert list(line) == ["high", "usual", "low"]
    assert drained(line) == ["high", "usual", "low"]


def test_who_has_waited_for_long_is_of_the_highest_class() -> None:
    line = Line()
    line.join("low", 0, Share("a", priority=-100))
    line.join("early", AGE_SEC, Share("b", priority=50))
    assert serve(line, 1, AGE_SEC - 1) == ["early"]
    line.join("late", AGE_SEC, Share("b", priority=50))
    assert serve(line, 1, AGE_SEC) == ["low"]


def test_what_has_aged_delays_nobody_else_who_comes() -> None:
    line = Line()
    for number in range(100):
        line.join(("a", number), 0, Share("a", priority=-1))
    serve(line)
    line.join("b", AGE_SEC, Share("b", priority=HIGHEST))
    assert "b" in serve(line, 2, AGE_SEC + 1)


def test_who_leaves_is_not_served() -> None:
    line = Line()
    for ticket in "abc":
        line.join(ticket, 0, Share(ticket))
    line.leave("a")
    with pytest.raises(KeyError):
        line.leave("a")
    assert "a" not in line
    assert drained(line) == ["b", "c"]


def test_those_who_come_and_leave_take_no_memory() -> None:
    line = Line()
    line.join("stays", 0, Share("stays"))
    for number in range(5000):
        line.join(number, 0, Share(f"flow {number}", priority=number % 3))
        line.leave(number)
    assert kept(line) < 300
    assert drained(line) == ["stays"]


def kept(line: Line) -> int:
    heaps, aging = line._heaps.values(), line._aging.values()
    return sum(map(len, heaps)) + sum(map(len, aging)) + len(line._ends) + len(line._of)


def test_how_many_of_a_flow_wait_is_known() -> None:
    line = Line()
    for number in range(3):
        line.join(number, 0, Share("a"))
    line.join("other", 0, Share("b"))
    line.join("free", 0, None)
    serve(line, 1)
    assert (line.of(Share("a")), line.of(Share("b")), line.of(None)) == (2, 1, 0)


# Properties, each of which some broken queue does not have


COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "serve", "leave", "wait"]),
        st.integers(0, 3),
        st.integers(1, 20),
        st.sampled_from([-100, 0, 0, 0, 50]),
    ),
    max_size=120,
)


def run(commands: list[tuple[str, int, int, int]]) -> None:
    """Hold the properties while the commands are carried out."""
    line, now, number = Line(), 0.0, 0
    waiting: dict[int, tuple[Share, float]] = {}
    for what, flow, size, priority in commands:
        if what == "join":
            share = Share(f"flow {flow}", priority, 1 + flow % 2, float(size))
            waiting[number] = share, now
            line.join(number, now, share)
            number += 1
        elif what == "wait":
            now += size * 5
        elif what == "leave" and waiting:
            gone = list(waiting)[size % len(waiting)]
            del waiting[gone]
            line.leave(gone)
        elif what == "serve":
            before = len(waiting)
            served, taken = line.serve(flow, now)
            # Work conserving: no slot is left free while somebody waits.
            assert len(served) == taken == min(flow, before)
            for ticket in served:
                assert isinstance(ticket, int)
                share, since = waiting.pop(ticket)
                assert_first(share, since, ticket, waiting, now)
        assert set(line) == set(waiting)
        assert len(line) == len(waiting)
        if waiting:
            assert line.since == min(since for _, since in waiting.values())


def assert_first(
    share: Share,
    since: float,
    ticket: int,
    waiting: dict[int, tuple[Share, float]],
    now: float,
) -> None:
    """Nobody was to be served before: of a higher class, or of the same flow and class earlier."""
    own = class_of(share, since, now)
    for other, (its, its_since) in waiting.items():
        assert class_of(its, its_since, now) <= own, "a higher class waits"
        if its.flow == share.flow and its.priority == share.priority:
            assert other > ticket, "one of the same flow has come before"


def class_of(share: Share, since: float, now: float) -> int:
    return HIGHEST if now - since >= AGE_SEC else share.priority


@settings(max_examples=300, deadline=None)
@given(COMMANDS)
def test_the_queue_holds_what_it_promises(commands: list[tuple[str, int, int, int]]) -> None:
    run(commands)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=40, max_size=80), st.integers(1, 4))
def test_what_two_get_who_both_want_more_differs_by_no_more_than_their_largest(
    costs: list[int], weight: int
) -> None:
    """The bound of start-time fair queueing for two flows that wait all the time."""
    line = Line()
    shares = {"a": 1.0, "b": float(weight)}
    half = len(costs) // 2
    for flow, part in (("a", costs[:half]), ("b", costs[half:])):
        for number, cost in enumerate(part):
            line.join((flow, number, cost), 0, Share(flow, 0, shares[flow], float(cost)))
    got = {"a": 0.0, "b": 0.0}
    while all(line.of(Share(flow)) for flow in shares):
        [(flow, _, cost)] = serve(line)
        got[flow] += cost / shares[flow]
        largest = max(costs[:half]) + max(costs[half:]) / weight
        assert abs(got["a"] - got["b"]) <= largest + 1e-6


Broken = Callable[[], Any]


def without_classes() -> Any:
    keep = Line._keep
    return mock.patch.object(Line, "_keep", lambda self, priority, place: keep(self, 0, place))


def without_age() -> Any:
    return mock.patch.object(Line, "_promote", return_value=None)


def who_leaves_stays() -> Any:
    return mock.patch.object(
        Line, "_holds", lambda self, place: place.ticket in self._entries or place.number % 5 == 4
    )


def one_at_a_time() -> Any:
    served = Line.serve
    return mock.patch.object(
        Line, "serve", lambda self, slots, now: served(self, min(slots, 1), now)
    )


def last_come_first() -> Any:
    return mock.patch.object(
        queue, "_Place", lambda start, number, ticket: _place(-start, -number, ticket)
    )


_place = queue._Place


@pytest.mark.parametrize(
    "broken", [without_classes, without_age, who_leaves_stays, one_at_a_time, last_come_first]
)
def test_a_queue_that_breaks_a_promise_is_found_out(broken: Broken) -> None:
    with broken():
        assert any(fails(commands) for commands in walks()), broken.__name__


def fails(commands: list[tuple[str, int, int, int]]) -> bool:
    try:
        run(commands)
    except (AssertionError, KeyError):
        return True
    return False


def walks() -> Iterator[list[tuple[str, int, int, int]]]:
    for seed in range(200):
        random = Random(seed)
        yield [
            (
                random.choice(["join", "join", "join", "serve", "leave", "wait"]),
                random.randint(0, 3),
                random.randint(1, 20),
                random.choice([-100, 0, 0, 50]),
            )
            for _ in range(60)
        ]
