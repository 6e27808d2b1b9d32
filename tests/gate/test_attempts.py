"""Promises of llamagw.gate.attempts: who guesses is slowed, who errs is not, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamagw.gate import Attempts
from llamagw.gate.attempts import FREE, LATEST, REMEMBERED


def fail(attempts: Attempts, times: int, address: str = "192.0.2.7", now: float = 0.0) -> float:
    """Fail so many times; how late the last answer is."""
    late = 0.0
    for _ in range(times):
        late = attempts.failed(address, now)
    return late


def test_the_first_ones_cost_nothing_and_further_ones_more_and_more_up_to_a_limit() -> None:
    attempts = Attempts()
    assert fail(attempts, FREE) == 0
    first, second = fail(attempts, 1), fail(attempts, 1)
    assert 0 < first < second < LATEST
    assert fail(attempts, 1000) == LATEST


def test_they_are_forgiven_with_time() -> None:
    attempts = Attempts()
    fail(attempts, FREE + 5)
    assert fail(attempts, 1, now=60) == 0
    assert fail(attempts, FREE, now=60) > 0


def test_one_address_does_not_slow_another() -> None:
    attempts = Attempts()
    fail(attempts, 1000)
    assert fail(attempts, 1, "192.0.2.8") == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        # As a socket for both kinds of addresses has those of IPv4.
        ("::ffff:192.0.2.7", "::ffff:192.0.2.8", False),
        ("::ffff:192.0.2.7", "192.0.2.7", True),
        ("no:address", "no:other", False),
    ],
)
def test_who_has_a_network_of_ipv6_is_one(one: str, other: str, same: bool) -> None:
    attempts = Attempts()
    fail(attempts, 1000, one)
    assert (fail(attempts, 1, other) > 0) is same


def test_no_more_addresses_are_remembered_than_there_is_memory_for() -> None:
    attempts = Attempts()
    fail(attempts, 1000, "192.0.2.7")
    for number in range(REMEMBERED - 1):
        fail(attempts, 1, f"10.{number >> 8}.{number & 255}.1")
    assert len(attempts._failed) == REMEMBERED
    # Who failed last is not who is forgotten.
    assert fail(attempts, 1, "192.0.2.7") == LATEST
    fail(attempts, 1, "198.51.100.1")
    assert len(attempts._failed) == REMEMBERED
    assert fail(attempts, 1, "192.0.2.7") == LATEST


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1e6)), max_size=60))
def test_an_answer_is_never_later_than_the_limit_nor_early(steps: list[tuple[str, float]]) -> None:
    attempts, now = Attempts(), 0.0
    for address, passed in steps:
        now += passed
        assert 0 <= attempts.failed(address, now) <= LATEST
