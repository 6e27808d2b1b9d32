"""Promises of llamagw.observe.activity: the last records, as many as are to be kept."""

from __future__ import annotations

import pytest

from llamagw.observe.activity import Activity
from llamagw.observe.capture import Capture
from llamagw.observe.record import Record


def _add(activity: Activity, *numbers: int) -> None:
    for number in numbers:
        # Of different length, so that one takes the place of a longer one.
        asked = "m" * (number % 3 * 50 + 1)
        activity.add(Record(id=str(number), arrived=number, last=number, asked=asked))


def _kept(activity: Activity) -> list[str]:
    return [entry["id"] for entry in activity.entries(0, since=-1, count=100)]


@pytest.mark.parametrize("size", [0, 1, 3])
def test_the_newest_are_kept_and_come_first(size: int) -> None:
    activity = Activity(size, Capture())
    for number in range(8):
        _add(activity, number)
        expected = [str(kept) for kept in range(number, max(number - size, -1), -1)]
        assert _kept(activity) == expected


@pytest.mark.parametrize(
    ("size", "kept"),
    [(0, []), (2, ["7", "6"]), (3, ["7", "6", "5"]), (6, ["7", "6", "5", "4", "3"])],
)
def test_another_size_keeps_the_newest_of_those_that_there_are(size: int, kept: list[str]) -> None:
    activity = Activity(5, Capture())
    _add(activity, *range(8))
    activity.resize(size)
    assert _kept(activity) == kept
    _add(activity, 8, 9)
    assert _kept(activity) == ["9", "8", *kept][:size]


def test_one_is_found_by_its_id_the_newest_of_several_and_none_that_only_mentions_it() -> None:
    activity = Activity(5, Capture())
    for model, request_id in (("old", "a"), ("new", "a"), ("a", "b"), ("a", "ab")):
        activity.add(Record(id=request_id, arrived=0, asked=model))
    found = activity.find("a")
    assert found is not None
    assert found.asked == "new"
    assert activity.find("c") is None
    assert activity.find("\ud7ff") is None


def test_half_of_a_character_in_a_record_costs_no_other_one() -> None:
    activity = Activity(3, Capture())
    _add(activity, 1)
    activity.add(Record(id="2", arrived=2, last=2, asked="m\ud800", reason="\udcff"))
    _add(activity, 3)
    assert _kept(activity) == ["3", "2", "1"]
