"""Promises of llamagw.launch.placement: where a model may go, in which order, by which flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from llamagw.launch.charge import Machine, Place
from llamagw.launch.command import command_line
from llamagw.launch.flags import asked
from llamagw.launch.placement import MOST_PLACES, Placement, elsewhere, visible
from llamagw.models import HOST, Facts
from llamagw.models.shape import Layer
from tests.models.support import SHAPE
from tests.support.configs import local_model

GIB = 2**30
LAYERS = 7
SHAPED = replace(SHAPE, layers=(Layer(weights=GIB, kv_heads=1),) * LAYERS, output=GIB)
FACTS = {"m.gguf": Facts("", ((1, 2, 8 * GIB, 3),), 8 * GIB, shape=SHAPED)}
KNOWN = {"--device": True, "--gpu-layers": True, "--cache-ram": True, "--spec-draft-device": True}
TWO = Machine("b1", {"CUDA0": 24 * GIB, "CUDA1": 16 * GIB})


def placed(
    machine: Machine = TWO,
    extra: tuple[str, ...] = (),
    known: Mapping[str, bool] = KNOWN,
    facts: Mapping[str, Facts] = FACTS,
    **keys: Any,
) -> list[Place]:
    keys = {"gpu_layers": -1} | keys
    model = local_model("m", "m.gguf", extra_args=["--cache-ram", "0", *extra], **keys)
    command = command_line("llama-server", model, 0, {}, counted=True)
    asks = asked(command, model.env, known, visible(machine, model.env).used)
    placement = Placement(asks, facts, machine, model, known)
    return placement.places([None] * len(placement.keys))


def where(found: list[Place]) -> list[tuple[tuple[str, ...], set[str], int]]:
    needs = [place.need for place in found]
    return [(need.flags, {*need.devices} - {HOST}, need.group) for need in needs]


BOTH = {"CUDA0", "CUDA1"}


def test_of_several_gpus_each_is_a_place_and_then_all_together() -> None:
    found = placed()
    assert where(found) == [
        (("--device", "CUDA1"), {"CUDA1"}, 0),
        (("--device", "CUDA0"), {"CUDA0"}, 0),
        ((), BOTH, 1),
    ], "the smallest first: of one group, the scheduler has the choice"
    alone, _, spread = (place.need.devices for place in found)
    assert alone["CUDA1"] > 8 * GIB
    # The 8 parts (the output is one) by the sizes of the GPUs.
    assert 5 * GIB < spread["CUDA0"] < 6 * GIB
    assert 3 * GIB < spread["CUDA1"] < 4 * GIB


@pytest.mark.parametrize(
    ("keys", "devices"),
    [
        ({"extra": ("--device", "CUDA0")}, {"CUDA0"}),
        ({"extra": ("-ts", "1,1")}, BOTH),
        ({"extra": ("-sm", "layer")}, BOTH),
        ({"extra": ("-sm", "none", "-mg", "1")}, {"CUDA1"}),
        ({"env": {"LLAMA_ARG_DEVICE": "CUDA1"}}, {"CUDA1"}),
        ({"env": {"CUDA_VISIBLE_DEVICES": "1"}}, {"CUDA1"}),
        ({"env": {"CUDA_VISIBLE_DEVICES": "1"}, "extra": ("-dev", "CUDA0")}, {"CUDA1"}),
        ({"env": {"CUDA_VISIBLE_DEVICES": "0,1"}}, BOTH),
        ({"env": {"CUDA_VISIBLE_DEVICES": "GPU-4ab0"}}, {"CUDA0"}),
        ({"env": {"CUDA_VISIBLE_DEVICES": ""}}, set()),
        ({"extra": ("--rpc", "10.0.0.1:50052")}, {"RPC0", *BOTH}),
        ({"gpu_layers": 0}, set()),
        ({"extra": ("-dev", "none")}, set()),
        ({"known": {"--model": True}}, BOTH),
        ({"machine": Machine("", {"CUDA0": GIB})}, {"CUDA0"}),
        ({"machine": Machine("", {})}, set()),
        ({"machine": Machine()}, {"GPU"}),
    ],
)
def test_where_there_is_no_choice_nothing_is_said(keys: dict[str, Any], devices: set[str]) -> None:
    [(flags, used, _)] = where(placed(**keys))
    assert (flags, used) == ((), devices)


def test_the_layers_on_gpus_are_as_configured_in_each_place() -> None:
    for place in placed(gpu_layers=3):
        assert "--gpu-layers" not in place.need.flags
        assert sum(parts.weights for parts in place.estimate.devices.values()) == 8 * GIB + 100
        assert place.estimate.host.weights == 5 * GIB + 100


def test_as_many_layers_as_fit_are_tried_from_all_of_them_to_none() -> None:
    one = Machine("", {"CUDA0": 4 * GIB})
    found = where(placed(one, gpu_layers="auto"))
    layers = [flags for flags, _, _ in found]
    assert layers == [("--gpu-layers", str(count)) for count in range(LAYERS + 1, -1, -1)]
    assert [used for _, used, _ in found] == [{"CUDA0"}] * (LAYERS + 1) + [set()]
    groups = [group for _, _, group in found]
    assert groups == sorted({*groups}), "the more layers the better"
    first, *_, last = where(placed(gpu_layers="auto"))
    assert first == (("--gpu-layers", "8", "--device", "CUDA1"), {"CUDA1"}, 0)
    assert last[:2] == (("--gpu-layers", "0"), set())


def test_layers_that_the_user_counts_are_not_counted_again() -> None:
    assert all(
        "--gpu-layers" not in flags
        for flags, *_ in where(placed(gpu_layers="auto", extra=("-ngl", "2")))
    )


@pytest.mark.parametrize("gpus", [0, 1, 2, 15])
@pytest.mark.parametrize("layers", [0, 1, 40, 1000])
def test_there_are_never_too_many_places(gpus: int, layers: int) -> None:
    shape = replace(SHAPED, layers=(Layer(weights=GIB),) * layers)
    machine = Machine("", {f"CUDA{n}": GIB for n in range(gpus)})
    found = where(placed(machine, gpu_layers="auto", facts={"m.gguf": Facts("", (), shape=shape)}))
    assert 0 < len(found) <= MOST_PLACES
    assert len({flags for flags, *_ in found}) == len(found)
    counts = list(dict.fromkeys(int(flags[1]) for flags, *_ in found))
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (layers + 1 if gpus else 0, 0)
    assert len(counts) <= 17


def test_a_draft_model_goes_where_its_model_goes() -> None:
    found = placed(extra=("-md", "m.gguf"))
    assert [flags for flags, *_ in where(found)] == [
        ("--device", "CUDA1", "--spec-draft-device", "CUDA1"),
        ("--device", "CUDA0", "--spec-draft-device", "CUDA0"),
        (),
    ]
    assert found[0].need.devices["CUDA1"] > 16 * GIB
    told = placed(extra=("-md", "m.gguf", "-devd", "CUDA0"))
    assert where(told)[0][:2] == (("--device", "CUDA1"), BOTH)


def test_a_gpu_without_memory_of_its_own_is_the_host() -> None:
    mac = Machine("", {"Metal": 48 * GIB}, {"Metal": HOST})
    [place] = placed(mac)
    assert {*place.need.devices} == {HOST}
    assert place.need.devices[HOST] > 8 * GIB


def test_a_gpu_without_memory_of_its_own_is_used_only_where_there_is_no_other() -> None:
    both = Machine("", {"CUDA0": 8 * GIB, "Vulkan0": 60 * GIB}, {"Vulkan0": HOST})
    [(flags, used, _)] = where(placed(both))
    assert (flags, used) == ((), {"CUDA0"})
    [(_, told, _)] = where(placed(both, extra=("-dev", "Vulkan0")))
    assert told == set()


def test_the_first_place_is_told_with_the_others() -> None:
    first = elsewhere(placed(gpu_layers="auto"))
    assert first is not None
    assert first.elsewhere == ("on CUDA0", "on CUDA0 + CUDA1", "with fewer layers there")
    one = elsewhere(placed(gpu_layers=0))
    assert one is not None
    assert one.elsewhere == ()
    assert elsewhere([]) is None


def test_without_facts_there_is_no_place_unless_it_is_configured_what_it_takes() -> None:
    assert placed(facts={}) == []
    needs = [place.need for place in placed(facts={}, memory="7GiB")]
    assert [need.devices for need in needs[:2]] == [{"CUDA1": 7 * GIB}, {"CUDA0": 7 * GIB}]
    assert needs[2].devices == {"CUDA0": 3.5 * GIB, "CUDA1": 3.5 * GIB}
