"""Promises of llamagw.launch.charge: what an engine is counted with, and by what it is learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from llamagw.launch.base import Need
from llamagw.launch.charge import LEAST_MARGIN, Machine, Place, charge, key
from llamagw.launch.flags import Asked, asked
from llamagw.models import HOST, Estimate, Facts, Figure, Parts

MIB = 2**20
GIB = 2**30
KNOWN = {"--cache-ram": True}
STAMP = ((5, 7, 8 * GIB, 1),)
FACTS = {"m": Facts("", STAMP, 8 * GIB)}
MACHINE = Machine("b1", {"CUDA0": 24 * GIB})


def figure(
    devices: Mapping[str, int], partial: tuple[str, ...] = (), peak: Mapping[str, int] = {}
) -> Figure:
    return Figure(devices, frozenset(partial), peak, when=1000.0, loads=1)


def asks(*words: str) -> Asked:
    return asked(["engine", "--model", "m", "--cache-ram", "256", *words], {}, KNOWN)


def found() -> Estimate:
    host = Parts(weights=2 * GIB, mapped=2 * GIB, compute=GIB, process=30 * MIB)
    gpu = Parts(weights=6 * GIB, kv=2 * GIB, process=300 * MIB)
    return Estimate({HOST: host, "CUDA0": gpu}, files={"m": 2 * GIB})


def counted(
    seen: Figure | None = None,
    memory: Mapping[str, int] | None = None,
    words: tuple[str, ...] = (),
    aliases: Mapping[str, str] = {},
    facts: Mapping[str, Facts] = FACTS,
    **more: Any,
) -> Place:
    def real(name: str) -> str:
        return aliases.get(name, name)

    return charge(Need(devices={}), found(), asks(*words), real, seen, memory, facts, **more)


def test_an_estimate_has_a_margin_on_each_device_but_not_for_the_cache() -> None:
    place = counted()
    host, gpu = GIB + 30 * MIB, 8 * GIB + 300 * MIB
    assert place.need.devices == {
        HOST: host + LEAST_MARGIN + 256 * MIB,
        "CUDA0": gpu + round(gpu * 0.05),
    }
    assert place.need.source == "estimate"
    assert not place.need.rough


def test_what_is_mapped_is_counted_by_file_and_not_as_its_own() -> None:
    assert counted().need.files == {"5:7": 2 * GIB}
    stamp = ((5, 7, 6 * GIB, 1), (5, 8, 2 * GIB, 1))
    parts = counted(facts={"m": Facts("", stamp, 8 * GIB)}).need.files
    assert parts == {"5:7": 1.5 * GIB, "5:8": 0.5 * GIB}


def test_the_margin_of_a_large_estimate_is_not_of_its_cache_too() -> None:
    large = replace(found(), devices={HOST: Parts(kv=10 * GIB)}, files={})
    place = charge(Need(devices={}), large, asks("-cram", "8192"), str, None, None, FACTS)
    assert place.estimate.host.margin == 512 * MIB


def test_a_file_that_two_models_of_an_engine_map_is_counted_once() -> None:
    host = Parts(weights=4 * GIB, mapped=4 * GIB, kv=GIB)
    both = Estimate({HOST: host}, files={"m": 2 * GIB})
    place = charge(Need(devices={}), both, asks(), str, None, None, FACTS)
    assert (place.estimate.host.weights, place.estimate.host.mapped) == (2 * GIB, 2 * GIB)
    assert place.need.devices[HOST] == GIB + LEAST_MARGIN + 256 * MIB
    assert place.need.files == {"5:7": 2 * GIB}


@pytest.mark.parametrize(("limit", "rough"), [("-1", True), ("0", False)])
def test_a_cache_without_limit_is_counted_as_the_engines_own_default(
    limit: str, rough: bool
) -> None:
    place = counted(words=("--cache-ram", limit))
    assert place.need.rough == rough
    assert place.estimate.host.cache == (8192 * MIB if rough else 0)


def test_what_was_learned_replaces_the_estimate_but_neither_files_nor_cache() -> None:
    place = counted(figure({HOST: GIB, "CUDA0": 4 * GIB}))
    assert place.need.devices == {
        HOST: round((GIB + 256 * MIB) * 1.02),
        "CUDA0": round(4 * GIB * 1.02),
    }
    assert place.need.files == {"5:7": 2 * GIB}
    assert (place.need.source, place.estimate.when) == ("learned", 1000.0)


def test_what_was_learned_without_a_drivers_part_gets_the_estimate_of_that() -> None:
    place = counted(figure({HOST: GIB, "CUDA0": 4 * GIB}, ("CUDA0",)))
    assert place.need.devices["CUDA0"] == round((4 * GIB + 300 * MIB) * 1.02)


def test_a_device_that_is_learned_of_is_counted_though_none_was_expected_there() -> None:
    assert counted(figure({HOST: GIB, "CUDA1": GIB})).need.devices["CUDA1"] == round(GIB * 1.02)


def test_that_a_run_had_too_little_does_not_lower_an_estimate() -> None:
    low = counted(figure({}, peak={"CUDA0": GIB})).need.devices
    assert low == counted().need.devices
    assert counted(figure({}, peak={"CUDA0": 20 * GIB})).need.devices["CUDA0"] > 20 * GIB


def test_what_is_configured_replaces_all_else_on_its_device() -> None:
    place = counted(figure({HOST: GIB}), {"": 7 * GIB})
    assert place.need.devices["CUDA0"] == 7 * GIB
    assert place.need.devices[HOST] == round((GIB + 256 * MIB) * 1.02)
    assert place.need.source == "config"
    both = counted(memory={"CUDA0": 5, HOST: 6}).need
    assert (both.devices, both.files) == ({"CUDA0": 5, HOST: 6}, {}), "files among it"


def test_what_is_configured_for_another_device_counts_only_where_there_is_no_choice() -> None:
    assert counted(memory={"CUDA9": 5}).need.devices["CUDA9"] == 5
    assert "CUDA9" not in counted(memory={"CUDA9": 5}, alone=False).need.devices


def test_devices_with_the_same_memory_are_counted_together() -> None:
    place = counted(aliases={"CUDA0": HOST})
    assert {*place.need.devices} == {HOST}
    assert place.need.devices[HOST] > 9 * GIB
    learned = counted(figure({HOST: GIB, "CUDA0": 2 * GIB}), aliases={"CUDA0": HOST})
    assert learned.need.devices == {HOST: round((3 * GIB + 256 * MIB) * 1.02)}
    given = counted(memory={"CUDA0": 5}, aliases={"CUDA0": HOST})
    assert given.need.devices == {HOST: 5}


def test_a_key_is_the_same_for_the_same_settings_however_they_are_written() -> None:
    short, long = asks("-c", "9", "-fa", "off"), asks("--flash-attn", "off", "--ctx-size", "9")
    assert key(short, FACTS, MACHINE) == key(long, FACTS, MACHINE)
    assert len(key(short, FACTS, MACHINE)) == 64


def test_a_key_is_another_one_when_anything_changes_that_it_depends_on() -> None:
    changed = Facts("", ((5, 7, 8 * GIB, 2),), 8 * GIB)
    more = Machine("b1", {"CUDA0": 24 * GIB, "CUDA1": GIB})
    keys = [
        key(asks(), FACTS, MACHINE),
        key(asks(), {"m": changed}, MACHINE),
        key(asks(), FACTS, Machine("b2", MACHINE.gpus)),
        key(asks(), FACTS, more),
        key(asks("--cache-ram", "9"), FACTS, MACHINE),
        key(asks("--no-mmap"), FACTS, MACHINE),
        key(asks("-ot", "x=CPU"), FACTS, MACHINE),
        key(asks("-ot", "y=CPU"), FACTS, MACHINE),
        key(asks("-md", "m"), FACTS, MACHINE),
        key(asks()._replace(flags=replace(asks().flags, gpu_layers=3)), FACTS, MACHINE),
    ]
    assert len({*keys}) == len(keys)
