"""Promises of the limits of a key: never more than is allowed, and nothing is taken twice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamagw.config import LimitsEntry
from llamagw.errors import RateLimited
from llamagw.gate.limits import DAY, Bucket, Meter, Meters, Ticket

EPOCH = 1_800_000_000.0


def meters(patience: float = 5.0, epoch: float = EPOCH) -> Meters:
    made = Meters(lambda: epoch)
    made.patience = patience
    return made


def meter(patience: float = 5.0, used: int = 0, **limits: int) -> Meter:
    made = meters(patience)
    made.used = lambda _: used
    return made.of("alice", LimitsEntry(**limits), 0.0)


def enters(made: Meter, tokens: float = 0, now: float = 0.0) -> Ticket | None:
    try:
        return made.enter(tokens, now)
    except RateLimited:
        return None


# What happens to a key: some time passes, a request comes with so many tokens, the oldest ends.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.floats(0, 30)),
        st.tuples(st.just("ask"), st.floats(0, 2000)),
        st.tuples(st.just("end"), st.floats(0, 2000)),
    ),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(1, 300), st.floats(0, 20))
def test_never_more_requests_go_on_than_burst_and_rate(
    history: list[tuple[str, float]], limit: int, patience: float
) -> None:
    made, now, begun = meter(patience, requests_per_min=limit), 0.0, []
    for what, value in history:
        now += value if what == "pass" else 0
        if what == "ask" and (ticket := enters(made, now=now)) is not None:
            assert now <= ticket.at <= now + patience + 1e-6
            begun.append(ticket.at)
    begun.sort()
    for first, start in enumerate(begun):
        for last, end in enumerate(begun[first:], first):
            assert last - first + 1 <= limit + (end - start) * limit / 60 + 1e-6


@settings(max_examples=200, deadline=None)
@given(steps, st.integers(1, 3000), st.floats(0, 20))
def test_never_more_tokens_are_promised_than_burst_and_rate(
    history: list[tuple[str, float]], limit: int, patience: float
) -> None:
    """Those that are given back may be used again; what was used beyond is paid back."""
    made, now, promised = meter(patience, tokens_per_min=limit), 0.0, []
    under_way: list[tuple[Ticket, float]] = []
    settled, beyond = 0.0, 0.0
    for what, value in history:
        now += value if what == "pass" else 0
        if what == "ask" and (ticket := enters(made, value, now)) is not None:
            promised.append((ticket.at, min(value, limit)))
            under_way.append((ticket, min(value, limit)))
        elif what == "end" and under_way:
            ticket, taken = under_way.pop(0)
            ticket.end(value, now)
            settled += value - taken
            beyond += max(value - taken, 0.0)
        if promised:
            # All that was ever promised, and settled, until the last of them goes on.
            used = sum(tokens for _, tokens in promised) + settled - beyond
            latest = max(now, *(at for at, _ in promised))
            assert used <= limit + latest * limit / 60 + 1e-3


@given(st.integers(1, 50), st.integers(1, 5000))
def test_a_refused_request_takes_nothing(requests: int, tokens: int) -> None:
    made = meter(0.0, requests_per_min=requests, tokens_per_min=tokens, parallel=1)
    ticket = made.enter(tokens, 0.0)
    before = made.told(0.0)
    for _ in range(5):
        with pytest.raises(RateLimited):
            made.enter(1, 0.0)
    assert made.told(0.0) == before
    ticket.end(0, 0.0)
    [left, rest] = made.told(0.0)
    assert left is not None
    assert rest is not None
    assert (left.remaining, rest.remaining) == (requests - 1, tokens)


def test_a_wait_is_told_and_not_longer_than_the_patience() -> None:
    made = meter(5.0, requests_per_min=60)
    for _ in range(60):
        assert made.enter(0, 0.0).at == 0.0
    assert [made.enter(0, 0.0).at for _ in range(5)] == pytest.approx([1, 2, 3, 4, 5])
    with pytest.raises(RateLimited) as refused:
        made.enter(0, 0.0)
    assert refused.value.retry_after == pytest.approx(6)
    assert "`alice` sends over 60 requests a minute" in refused.value.message
    assert made.enter(0, 1.0).at == pytest.approx(6)


def test_what_was_used_moves_the_bucket_both_ways() -> None:
    made = meter(0.0, tokens_per_min=600)
    made.enter(500, 0.0).end(100, 0.0)
    _, left = made.told(0.0)
    assert left is not None
    assert (left.remaining, left.reset) == (500, 10.0)
    # More than was expected: it is paid back at the rate.
    made.enter(500, 0.0).end(1100, 0.0)
    assert enters(made, 1, 59.0) is None
    assert enters(made, 1, 61.0) is not None


def test_a_request_of_more_than_a_minute_waits_for_a_whole_one() -> None:
    made = meter(5.0, tokens_per_min=600)
    ticket = made.enter(1e6, 0.0)
    assert ticket.at == 0.0
    assert enters(made, 600, 54.0) is None
    assert enters(made, 600, 55.0) is not None


def test_what_is_known_later_is_reserved_on_top() -> None:
    made = meter(5.0, tokens_per_min=600)
    ticket = made.enter(100, 0.0)
    ticket.reserve(300, 0.0)
    assert made.told(0.0)[1] == (600, 300, 30.0)
    other = made.enter(300, 0.0)
    with pytest.raises(RateLimited):
        other.reserve(400, 0.0)
    other.end(0, 0.0, refused=True)
    assert made.told(0.0)[1] == (600, 300, 30.0)


def test_a_place_is_given_back_once_and_to_the_next() -> None:
    made = meter(parallel=2)
    first, _, third, fourth = (made.enter(0, 0.0) for _ in range(4))
    assert (first.has_place, third.has_place) == (True, False)
    with pytest.raises(RateLimited, match="has 2 requests at once"):
        made.enter(0, 0.0)
    told: list[str] = []
    third.placed = lambda: told.append("third")
    fourth.placed = lambda: told.append("fourth")
    first.end(0, 0.0)
    first.end(0, 0.0)
    assert told == ["third"]
    fourth.end(0, 0.0)
    assert not made.enter(0, 0.0).has_place


@given(st.lists(st.sampled_from(["enter", "first", "last"]), max_size=60), st.integers(1, 4))
def test_never_more_at_once_and_no_place_is_free_while_one_waits(
    history: list[str], parallel: int
) -> None:
    made, inside = meter(parallel=parallel), list[Ticket]()
    for what in history:
        if what == "enter" and (ticket := enters(made)) is not None:
            inside.append(ticket)
        elif what != "enter" and inside:
            inside.pop(0 if what == "first" else -1).end(0, 0.0)
        running = sum(ticket.has_place for ticket in inside)
        assert running == min(len(inside), parallel)


def test_the_tokens_of_a_day_end_at_midnight() -> None:
    made = meter(used=1000, tokens_per_day=1000)
    with pytest.raises(RateLimited, match="has used its 1000 tokens of this day") as refused:
        made.enter(0, 0.0)
    assert refused.value.retry_after == DAY - EPOCH % DAY
    assert made.told(0.0)[1] == (1000, 0, DAY - EPOCH % DAY)


def test_what_is_under_way_counts_for_the_day() -> None:
    made = meter(used=400, tokens_per_day=1000)
    # The one that crosses it is answered yet; no further one is.
    first = made.enter(700, 0.0)
    with pytest.raises(RateLimited, match="under way"):
        made.enter(1, 0.0)
    first.end(100, 0.0)
    assert enters(made, 1) is not None


def test_the_tighter_of_two_limits_of_tokens_is_told() -> None:
    made = meter(used=950, tokens_per_day=1000, tokens_per_min=600)
    assert made.told(0.0)[1] == (1000, 50, DAY - EPOCH % DAY)
    made = meter(used=0, tokens_per_day=1000, tokens_per_min=600)
    assert made.told(0.0)[1] == (600, 600, 0.0)


def test_other_limits_of_a_key_that_is_read_again_keep_what_was_used() -> None:
    all_of_them = meters()
    made = all_of_them.of("alice", LimitsEntry(requests_per_min=10), 0.0)
    for _ in range(8):
        made.enter(0, 0.0)
    again = all_of_them.of("alice", LimitsEntry(requests_per_min=20), 0.0)
    assert again is made
    assert again.told(0.0)[0] == (20, 2, 54.0)
    assert all_of_them.of("bob", LimitsEntry(requests_per_min=10), 0.0) is not made
    all_of_them.of("alice", LimitsEntry(parallel=1), 0.0)
    assert made.told(0.0) == (None, None)


def test_meters_that_are_as_good_as_new_are_forgotten() -> None:
    all_of_them, limits = meters(), LimitsEntry(requests_per_min=60)
    busy = all_of_them.of("busy", limits, 0.0)
    busy.enter(0, 0.0)
    for number in range(5000):
        all_of_them.of(f"key{number}", limits, 1.0)
    assert len(all_of_them._known) < 2100
    assert all_of_them.of("busy", limits, 1.0) is busy


def test_a_bucket_is_never_fuller_than_a_minute() -> None:
    bucket = Bucket(60, 0.0)
    assert bucket.look(1e6) == 60
    bucket.take(-5, 1e6)
    assert bucket.look(1e6) == 60
