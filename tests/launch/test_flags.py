"""Promises of llamagw.launch.flags: what is read off the command line that an engine gets."""

from __future__ import annotations

from typing import Any

import pytest

from llamagw.launch.command import command_line
from llamagw.launch.flags import asked, need
from llamagw.models import Facts, Flags, beside, draft, estimate
from tests.models.support import SHAPE
from tests.support.configs import local_model

KNOWN = {"--alias": True, "--threads": True}
MODEL = Facts("", (), 100, shape=SHAPE)


def flags(*extra: str, env: dict[str, str] | None = None, **keys: Any) -> Flags:
    model = local_model("m", extra_args=[*extra], **keys)
    return asked(command_line("llama-server", model, 0, ()), env or {}, KNOWN).flags


def test_a_models_own_keys_are_what_its_engine_gets() -> None:
    found = flags(context_size=77, batch_size=33, parallel=3, gpu_layers=2)
    assert found == Flags(context=77, batch=33, parallel=3, gpu_layers=2)
    assert flags(gpu_layers=-1).gpu_layers > 100, "all of them"


@pytest.mark.parametrize(
    ("extra", "changed"),
    [
        (["-c", "9"], {"context": 9}),
        (["--ctx_size", "9", "-c", "10"], {"context": 10}),
        (["-ub", "64"], {"ubatch": 64}),
        (["-ctk", "q8_0", "--cache-type-v", "q4_0"], {"keys": "q8_0", "values": "q4_0"}),
        (["-fa", "off"], {"flash": False}),
        (["-fa", "on"], {}),
        (["--no-kv-unified"], {"unified": False}),
        (["--swa-full"], {"full_window": True}),
        (["--reranking"], {"embeddings": True}),
        (["-nr", "-nkvo"], {"repack": False, "offload_kv": False}),
        (["-dev", "CUDA1,CUDA0", "-ts", "3,1"], {"devices": ("CUDA1", "CUDA0"), "split": (3, 1)}),
        (["-dev", "none"], {"devices": ()}),
        (["-ts", "3/1"], {"devices": ("GPU0", "GPU1"), "split": (3, 1)}),
        (["-ts", "3,1", "-sm", "none", "-mg", "1"], {"devices": ("GPU1",)}),
        (["-sm", "row"], {"rough": True}),
        (["-ot", "exps=CPU"], {"rough": True}),
        (["-ncmoe", "4"], {"cpu_moe": 4}),
        (["--no-mmap"], {"mapped": False}),
        (["--no-mmap", "--mmap"], {}),
        (["--mlock"], {"mapped": False}),
        (["-dio"], {"mapped": False}),
        (["--alias", "-c", "--threads", "2"], {}),
    ],
)
def test_extra_args_win(extra: list[str], changed: dict[str, Any]) -> None:
    usual = flags()
    for key in Flags.__struct_fields__:
        assert getattr(flags(*extra), key) == changed.get(key, getattr(usual, key)), key


def test_an_older_engine_divides_the_context_among_its_slots() -> None:
    model, old = local_model("m", context_size=512, parallel=3), {"--ctx-size", "--parallel"}
    found = asked(command_line("llama-server", model, 0, old), {}, {}).flags
    assert (found.context, found.parallel, found.unified) == (1536, 3, False)
    assert asked(["llama-server"], {}, {}).flags.unified, "its own choice of slots"


@pytest.mark.parametrize(
    "nonsense",
    [["-c", "x"], ["-c", "1" * 5000], ["-c", "-5"], ["-ctk", "q99"], ["-ts", "nan,inf"], ["-c"]],
)
def test_what_the_engine_will_refuse_breaks_nothing(nonsense: list[str]) -> None:
    estimate(SHAPE, flags(*nonsense))


def test_variables_count_where_no_flag_says_otherwise() -> None:
    env = {"LLAMA_ARG_CTX_SIZE": "9", "LLAMA_ARG_CACHE_TYPE_K": "q8_0"}
    assert (flags(env=env, context_size=5).context, flags(env=env).keys) == (5, "q8_0")
    env = {"LLAMA_ARG_EMBEDDINGS": "1", "LLAMA_ARG_REPACK": "off", "LLAMA_ARG_KV_UNIFIED": "0"}
    found = flags(env=env)
    assert (found.embeddings, found.repack, found.unified) == (True, False, True)
    for off in ({"LLAMA_ARG_MMAP": "0"}, {"LLAMA_ARG_NO_MMAP": "1"}, {"LLAMA_ARG_MLOCK": "1"}):
        assert not flags(env=off).mapped, off
    assert flags(env={"LLAMA_ARG_MMAP": "1", "LLAMA_ARG_MLOCK": "0"}).mapped


@pytest.mark.parametrize(
    ("words", "env", "cache"),
    [
        ([], {}, 8192),
        (["-cram", "100"], {}, 100),
        (["--cache-ram", "0"], {}, 0),
        (["--cache-ram", "-1"], {}, None),
        ([], {"LLAMA_ARG_CACHE_RAM": "7"}, 7),
        (["-cram", "100"], {"LLAMA_ARG_CACHE_RAM": "7"}, 100),
        (["-cram", "100", "--embeddings"], {}, 0),
    ],
)
def test_the_cache_of_earlier_prompts_is_what_the_engine_will_have(
    words: list[str], env: dict[str, str], cache: int | None
) -> None:
    found = asked(["engine", *words], env, {"--cache-ram": True}).cache
    assert found == (-1 if cache is None else cache * 2**20)
    if not words and not env:
        assert asked(["engine"], {}, {"--alias": True}).cache == 0, "an engine without one"


def test_a_projector_is_on_the_first_gpu_whichever_the_model_is_on() -> None:
    command = ["engine", "--model", "m", "--mmproj", "p", "-dev", "CUDA1"]
    gpus = ["CUDA0", "CUDA1"]
    assert asked(command, {}, {}, gpus).projector.devices == ("CUDA0",)
    env = {"MTMD_BACKEND_DEVICE": "CUDA1"}
    assert asked(command, env, {}, gpus).projector.devices == ("CUDA1",)
    assert asked(command, {}, {}).projector.devices == ("CUDA1",), "nobody knows of others"


def test_where_nothing_is_said_an_engine_uses_the_gpus_that_there_are() -> None:
    command = ["engine", "--model", "m"]
    assert asked(command, {}, {}, ["B", "A"]).flags.devices == ("B", "A")
    assert asked(command, {}, {}, []).flags.devices == ()
    remote = asked([*command, "--rpc", "10.0.0.1:1,10.0.0.2:1"], {}, {}, ["A"])
    assert remote.flags.devices == ("RPC0", "RPC1", "A")
    many = asked([*command, "-dev", "A"], {}, {}, ["B", "A"])
    assert many.flags.devices == ("A",)


def test_all_files_are_told() -> None:
    words = ["--model", "b", "--mmproj", "p", "--lora", "x,y", "-md", "d"]
    command = command_line("llama-server", local_model("m", extra_args=words), 0, ())
    assert asked(command, {}, {}).files.all == ["b", "p", "x", "y", "d"]


def test_what_is_loaded_beside_a_model_is_added() -> None:
    command = ["engine", "--model", "m", "--lora", "x", "-c", "64", "-ngl", "0"]
    asks = asked(command, {}, {})
    assert need(asks, {}) is None
    both = {"m": MODEL, "x": Facts("is no model", (), 7)}
    alone = estimate(SHAPE, asks.flags)
    found = need(asks, both)
    assert found is not None
    assert found.devices == (alone + beside(7, asks.flags, rough=False)).devices
    assert found.files == {"m": 100}, "an adapter is not mapped"
    missing = need(asks, {"m": MODEL})
    assert missing is not None
    assert missing.rough, "a file that was not read"
    drafting = asked([*command, "-md", "d", "-ctkd", "q8_0"], {}, {})
    assert drafting.draft.keys == "q8_0"
    added = need(drafting, {**both, "d": MODEL})
    assert added is not None
    both_models = alone + beside(7, asks.flags, rough=False) + draft(SHAPE, drafting.draft)
    assert added.devices == both_models.devices
    assert added.files == {"m": 100, "d": 100}
    itself = need(asked([*command, "-md", "m"], {}, {}), both)
    assert itself is not None
    assert itself.files == {"m": 100}, "two models of one file map it once"
    without = need(drafting, both)
    assert without is not None
    assert without.rough
    seeing = need(asked([*command, "--mmproj", "x"], {}, {}), both)
    assert seeing is not None
    assert seeing.rough, "what it computes with is not known"
    assert seeing.host.weights == 114
