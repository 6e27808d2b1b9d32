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
    assert need(asks, both) == alone + beside(7, asks.flags, rough=False)
    missing = need(asks, {"m": MODEL})
    assert missing is not None
    assert missing.rough, "a file that was not read"
    drafting = asked([*command, "-md", "d", "-ctkd", "q8_0"], {}, {})
    assert drafting.draft.keys == "q8_0"
    added = need(drafting, {**both, "d": MODEL})
    assert added == alone + beside(7, asks.flags, rough=False) + draft(SHAPE, drafting.draft)
    without = need(drafting, both)
    assert without is not None
    assert without.rough
    seeing = need(asked([*command, "--mmproj", "x"], {}, {}), both)
    assert seeing is not None
    assert seeing.rough, "what it computes with is not known"
    assert seeing.host.weights == 114
