"""Promises of llamagw.launch.together: which models fit together, and which never do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from llamagw.config import Config, LocalModel
from llamagw.launch import Need, Note
from llamagw.launch.together import MOST_MODELS, Together, problems, taken, together
from llamagw.models import HOST
from tests.support.configs import configuration, local_model, remote_model

GIB = 2**30
#: Bytes of a KV cache, for a token.
TOKEN = 2**17
TOTALS = {HOST: 17 * GIB, "CUDA0": 9 * GIB, "CUDA1": 9 * GIB}


def counted(*models: Any, **keys: Any) -> Config:
    """A configuration that leaves 1 GiB of each device to others."""
    config = configuration(*models, **keys)
    return replace(config, memory=config.memory or {}, memory_reserve=GIB, max_loaded_models=None)


def on_host(**sizes: float) -> Callable[[LocalModel], list[Need]]:
    """Of each model so many GiB in RAM."""
    return lambda model: [Need(devices={HOST: int(sizes[model.name] * GIB)})]


def local(*names: str, **keys: Any) -> list[LocalModel]:
    return [local_model(name, **keys) for name in names]


def sets(found: Together | None) -> list[str]:
    assert found is not None
    return [" + ".join(one.names) for one in found.sets]


def said(config: Config, needs_of: Callable[[LocalModel], Sequence[Need]]) -> list[str]:
    return [f"{n.grade}: {n.place} {n.message}" for n in problems(config, needs_of, TOTALS)]


# ---- Which fit together --------------------------------------------------------------------------


def test_sets_are_those_to_which_no_model_can_be_added() -> None:
    needs_of = on_host(a=6, b=6, c=6, d=12)
    found = together(counted(*local("a", "b", "c", "d")), needs_of, TOTALS)
    assert sets(found) == ["a + b", "a + c", "b + c", "d"]
    assert found is not None
    assert found.sets[0].taken == {HOST: 12 * GIB}
    assert found.budget[HOST] == 16 * GIB
    assert (found.least, found.most, found.of) == (1, 2, 4)


def test_what_the_configuration_gives_is_the_budget_to_the_byte() -> None:
    config = replace(counted(*local("a", "b")), memory={HOST: 12 * GIB})
    assert sets(together(config, on_host(a=6, b=6), TOTALS)) == ["a + b"]
    config = replace(config, memory={HOST: 12 * GIB - 1})
    assert sets(together(config, on_host(a=6, b=6), TOTALS)) == ["a", "b"]


def test_pinned_models_are_in_every_set() -> None:
    config = counted(*local("a", "b"), local_model("p", pinned=True))
    assert sets(together(config, on_host(a=6, b=6, p=6), TOTALS)) == ["a + p", "b + p"]


def test_no_set_has_more_than_max_loaded_models() -> None:
    config = replace(counted(*local("a", "b", "c")), max_loaded_models=2)
    found = together(config, on_host(a=1, b=1, c=1), TOTALS)
    assert sets(found) == ["a + b", "a + c", "b + c"]
    assert found is not None
    assert found.most == 2


def test_models_are_put_where_they_leave_each_other_room() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        either = [Need(devices={"CUDA0": 6 * GIB}), Need(devices={"CUDA1": 6 * GIB})]
        return either if model.name == "a" else either[:1]

    config = counted(*local("a", "b"))
    found = together(config, needs_of, TOTALS)
    assert sets(found) == ["a + b"]
    assert found is not None
    assert found.sets[0].taken == {"CUDA0": 6 * GIB, "CUDA1": 6 * GIB}


def test_a_file_that_two_models_map_counts_once() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        return [Need(devices={HOST: GIB}, files={"8:1": 12 * GIB})]

    assert taken([*needs_of(local_model("a")), *needs_of(local_model("b"))]) == {HOST: 14 * GIB}
    assert sets(together(counted(*local("a", "b")), needs_of, TOTALS)) == ["a + b"]


def test_a_device_that_is_not_known_has_no_limit() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        return [Need(devices={"GPU": 900 * GIB})]

    config = counted(*local("a"))
    assert sets(together(config, needs_of, TOTALS)) == ["a"]
    assert said(config, needs_of) == []


def test_of_many_models_only_numbers_are_told() -> None:
    names = [f"m{number}" for number in range(MOST_MODELS + 1)]
    sizes = dict.fromkeys(names, 3.0) | {"m0": 14.0}
    found = together(counted(*local(*names)), on_host(**sizes), TOTALS)
    assert found is not None
    assert (found.sets, found.most, found.least) == ([], 5, 1)


def test_many_places_do_not_take_long() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        return [Need(devices={f"CUDA{number}": 5 * GIB}) for number in range(8)]

    names = [f"m{number}" for number in range(MOST_MODELS)]
    totals = {f"CUDA{number}": 9 * GIB for number in range(8)}
    begun = time.process_time()
    found = together(counted(*local(*names)), needs_of, totals)
    assert time.process_time() - begun < 5
    assert found is not None
    assert found.most == 8


def test_nothing_is_told_where_nothing_is_counted() -> None:
    off = replace(counted(*local("a")), memory=None)
    assert together(off, on_host(a=1), TOTALS) is None
    assert together(counted(remote_model("far")), on_host(), TOTALS) is None
    assert together(counted(*local("a")), lambda model: [], TOTALS) is None


# ---- Which never fit -----------------------------------------------------------------------------


def test_what_fits_alone_is_no_fault() -> None:
    assert said(counted(*local("a", "b")), on_host(a=16, b=15)) == []


def test_a_context_that_would_fit_is_told() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        return [Need(devices={HOST: 4 * GIB + TOKEN * model.context_size})]

    config = counted(remote_model("far"), local_model("a", context_size=131072))
    assert said(config, needs_of) == [
        "fault: models[1].context_size is 131072, with which it takes 20.0 GiB in RAM (llamagw may "
        "use 16.0 GiB); 98304 would fit"
    ]


def test_a_context_of_the_extra_args_is_their_fault() -> None:
    [told] = said(counted(*local("a", context_size=8192)), on_host(a=17))
    assert told.startswith("fault: models[0].extra_args or variables give it a context")


def test_fewer_layers_that_would_fit_are_told() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        assert isinstance(model.gpu_layers, int)
        layers = 40 if model.gpu_layers == -1 else min(model.gpu_layers, 40)
        sizes = {HOST: (40 - layers) * GIB // 4, "CUDA0": layers * GIB // 4}
        sizes[HOST] += model.context_size
        return [Need(devices=sizes)]

    for layers in (-1, 40):
        [told] = said(counted(*local("a", gpu_layers=layers, context_size=4096)), needs_of)
        assert told == (
            f"fault: models[0].gpu_layers is {layers}, with which it takes 10.0 GiB on CUDA0 "
            "(llamagw may use 8.0 GiB); 32 would fit"
        )


def test_a_cache_of_prompts_that_is_too_large_is_named() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        cache = 256 if model.prompt_cache_mb is None else model.prompt_cache_mb
        return [Need(devices={HOST: 8 * GIB + cache * 2**20 + model.context_size * TOKEN})]

    large = local_model("m", context_size=4096, prompt_cache_mb=20_000)
    [at_fault] = said(counted(large), needs_of)
    assert at_fault.startswith("fault: models[0].prompt_cache_mb is 20000, with which it takes 28")
    assert at_fault.endswith("0 would fit")
    [at_fault] = said(counted(replace(large, context_size=2**20)), needs_of)
    assert "65536 would fit with `prompt_cache_mb: 0`" in at_fault


def test_weights_that_are_too_large_are_told() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        return [Need(devices={HOST: 20 * GIB + model.context_size})]

    [told] = said(counted(*local("a", context_size=4096)), needs_of)
    assert told.startswith("fault: models[0].model_path is too large: it takes 20.0 GiB in RAM")


def test_a_figure_of_the_configuration_is_its_own_fault() -> None:
    config = counted(*local("a", memory="20GiB"))
    assert said(config, on_host(a=20)) == [
        "fault: models[0].memory says that it takes 20.0 GiB in RAM (llamagw may use 16.0 GiB)"
    ]


def test_a_rough_figure_is_a_warning() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        return [Need(devices={HOST: 20 * GIB}, rough=True)]

    [told] = said(counted(*local("a", context_size=512)), needs_of)
    assert told.startswith("warning: ")


def test_one_place_that_is_large_enough_suffices() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        return [Need(devices={"CUDA0": 12 * GIB}), Need(devices={"CUDA0": GIB, "CUDA1": 8 * GIB})]

    assert said(counted(*local("a")), needs_of) == []


def test_a_model_that_pinned_ones_keep_out_is_a_fault() -> None:
    config = counted(local_model("p", pinned=True), *local("a", "b"))
    assert said(config, on_host(p=10, a=8, b=6)) == [
        "fault: models[1].name never fits beside p, which is pinned: together they take 18.0 GiB "
        "in RAM (llamagw may use 16.0 GiB); unpin it"
    ]


def test_a_context_that_would_fit_beside_pinned_ones_is_told() -> None:
    def needs_of(model: LocalModel) -> list[Need]:
        return [Need(devices={HOST: 6 * GIB + TOKEN * model.context_size})]

    pinned = local_model("p", pinned=True, context_size=8192)
    [told] = said(counted(pinned, *local("a", context_size=65536)), needs_of)
    assert told.endswith("unpin it, or give it a context_size of 24576")


def test_pinned_models_that_do_not_fit_together_are_one_fault() -> None:
    config = counted(*local("p", "q", pinned=True), *local("a"))
    assert said(config, on_host(p=10, q=8, a=8)) == [
        "fault: models[1].pinned is one too many: p, q take 18.0 GiB in RAM (llamagw may use "
        "16.0 GiB); pin fewer"
    ]


@pytest.mark.parametrize("count", [3000])
def test_thousands_of_faults_are_told_in_part(count: int) -> None:
    names = [f"m{number}" for number in range(count)]
    config = counted(*local(*names, context_size=512))
    found: list[Note] = [*problems(config, on_host(**dict.fromkeys(names, 20.0)), TOTALS)]
    assert len(found) == 100
