"""Promises of the rates that `llamagw top` shows."""

from __future__ import annotations

from typing import Any

import pytest

from llamagw.cli.rates import KINDS, WINDOW, Rates

STREAM: dict[str, Any] = {"model": "a", "path": "/v1/completions", "stream": True}


def finished(tokens: int, seconds: float, size: int = 0, **more: Any) -> dict[str, Any]:
    told = {"tokens": {"completion": tokens}, "completion_sec": seconds, "bytes_out": size}
    return {**STREAM, **told, **more}


def begun_at_0() -> Rates:
    rates = Rates()
    rates.moved("other", {}, 0.0)
    return rates


def test_requests_are_counted_for_as_long_as_the_window() -> None:
    rates = begun_at_0()
    for at in (91.0, 95.0, 99.0):
        rates.ended("x", {}, at)
    assert rates.requests(100.0) == 3 / WINDOW
    assert rates.requests(101.5) == 2 / WINDOW
    assert rates.requests(200.0) == 0


def test_at_the_beginning_less_is_averaged_over() -> None:
    rates = begun_at_0()
    rates.ended("x", {}, 2.0)
    assert rates.requests(2.0) == 0.5
    assert Rates().requests(5.0) == 0


def test_tokens_count_for_the_time_in_which_they_were_generated() -> None:
    rates = begun_at_0()
    rates.ended("x", finished(400, 20.0), 100.0)
    assert rates.tokens(100.0) == {"a": pytest.approx(20.0)}
    rates.ended("y", finished(10, 1.0, model="b"), 100.0)
    assert rates.tokens(100.0) == {"a": pytest.approx(20.0), "b": pytest.approx(1.0)}
    assert rates.tokens(105.0) == {"a": pytest.approx(10.0), "b": pytest.approx(1.0)}
    assert rates.tokens(111.0) == {}


def test_a_stream_under_way_counts_by_its_size_and_in_the_end_by_its_tokens() -> None:
    rates = begun_at_0()
    live = {**STREAM, "bytes_out": 0}
    rates.moved("x", live, 90.0)
    rates.moved("x", {**live, "bytes_out": 1000}, 95.0)
    assert rates.tokens(95.0) == {}, "nobody knows yet what a token takes"
    rates.learn(finished(10, 1.0, size=1000))
    rates.moved("x", {**live, "bytes_out": 1000}, 95.0)
    rates.moved("x", {**live, "bytes_out": 5000}, 99.0)
    assert rates.tokens(99.0) == {"a": pytest.approx(4.0)}
    rates.ended("x", finished(60, 9.0), 100.0)
    assert rates.tokens(100.0) == {"a": pytest.approx(6.0)}, "60 in all, within 10 seconds"


def test_what_is_of_no_use_is_left_out() -> None:
    rates = begun_at_0()
    for entry in ({"tokens": None}, finished(0, 0.0), finished(-5, -1.0, size=10), {"tokens": 5}):
        rates.ended("x", entry, 5.0)
        rates.learn(entry)
    assert rates.tokens(5.0) == {}


def test_what_is_remembered_is_bounded() -> None:
    rates = begun_at_0()
    for number in range(3 * KINDS):
        rates.learn(finished(1, 1.0, size=10, model=str(number)))
        rates.moved(str(number), {**STREAM, "model": str(number), "bytes_out": 1}, 1.0)
    assert len(rates._sizes) == KINDS
    rates.keep({"1": None})
    assert set(rates._streams) <= {"1"}
