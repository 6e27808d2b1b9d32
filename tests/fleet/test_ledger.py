"""Promises of llamagw.fleet.ledger: what of a device is ours, and what is left of that."""

from __future__ import annotations

from llamagw.fleet.books import Capacity
from llamagw.fleet.ledger import Account, accounts, capacities
from llamagw.launch import Reading
from tests.support.fleet import make_config

GB = 10**9


def of(reading: Reading, memory: object = "auto", held: int = 0) -> Capacity:
    config = make_config("a", memory=memory, memory_reserve="1GB")
    [capacity] = capacities({"host": reading}, config, {"host": held}).values()
    return capacity


def test_all_but_the_reserve_is_ours() -> None:
    assert of(Reading(16 * GB, 0)) == Capacity(15 * GB)


def test_others_have_the_reserve_for_themselves() -> None:
    assert of(Reading(16 * GB, GB)) == Capacity(15 * GB, 0)
    assert of(Reading(16 * GB, 3 * GB)) == Capacity(15 * GB, 2 * GB)


def test_what_our_runs_hold_is_not_others() -> None:
    assert of(Reading(16 * GB, 9 * GB), held=6 * GB) == Capacity(15 * GB, 2 * GB)
    assert of(Reading(16 * GB, 5 * GB), held=6 * GB) == Capacity(15 * GB, 0)


def test_a_budget_is_what_the_configuration_says_but_no_more_than_there_is() -> None:
    assert of(Reading(16 * GB, 0), {"host": "10GB"}) == Capacity(10 * GB)
    assert of(Reading(16 * GB, 7 * GB), {"host": "10GB"}) == Capacity(10 * GB, GB)
    assert of(Reading(16 * GB, 0), {"host": "99GB"}) == Capacity(16 * GB)
    assert of(Reading(16 * GB, 0), {"CUDA0": "10GB"}) == Capacity(15 * GB)


def test_a_machine_smaller_than_the_reserve_has_nothing_for_us() -> None:
    assert of(Reading(GB // 2, 0)) == Capacity(0, 0)


def test_where_nobody_knows_what_is_in_use_nobody_else_has_any() -> None:
    assert of(Reading(16 * GB, None)) == Capacity(15 * GB, 0)


def test_an_account_says_who_has_what() -> None:
    config = make_config("a", memory={"GPU": "6GB"}, memory_reserve="1GB")
    readings = {"host": Reading(16 * GB, 9 * GB), "GPU": Reading(8 * GB, None)}
    charged = {"host": 7 * GB, "GPU": 2 * GB}
    assert accounts(readings, config, {"host": 6 * GB}, charged) == [
        Account("host", 16 * GB, 15 * GB, GB, ours=7 * GB, others=3 * GB, free=6 * GB),
        Account("GPU", 8 * GB, 6 * GB, 2 * GB, ours=2 * GB, others=0, free=4 * GB),
    ]
    [_, full] = accounts(readings, config, {}, {"GPU": 9 * GB})
    assert full.free == 0
