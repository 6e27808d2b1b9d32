"""Promises of llamagw.launch.advice: what is said of models before one is started."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from llamagw.config import LocalModel
from llamagw.launch.advice import (
    MOST_FAULTS,
    Note,
    device_faults,
    flag_faults,
    key_notes,
    notes,
    socket_faults,
)
from llamagw.launch.command import Flags
from llamagw.launch.listing import Listed
from llamagw.models import HOST, Estimate, Facts, Parts
from llamagw.models.facts import Kind
from tests.support.configs import configuration, local_model, remote_model

GIB = 2**30
MODEL = Facts("", (), size=GIB, kind="text", trained=8192)
#: Bytes of its KV cache, for a token.
TOKEN = 2**17
KNOWN = {"--ctx-size": True, "-c": True, "--embeddings": False, "--no-warmup": False, "-fa": True}


def need(model: LocalModel) -> Estimate:
    """As of a model with 1 GiB of weights; -c in the ``extra_args`` wins."""
    extra = dict(pairwise(model.extra_args))
    context = int(extra.get("-c", model.context_size))
    return Estimate({HOST: Parts(weights=GIB, kv=TOKEN * context)}, rough="-ot" in extra)


def said(
    facts: Facts = MODEL,
    memory: int = 8 * GIB,
    needs: Callable[[LocalModel], Estimate | None] = need,
    **keys: Any,
) -> list[Note]:
    model = local_model("m", **keys)
    return notes(configuration(model), {model.model_path: facts}, memory, needs)


def flags(*arguments: str, known: dict[str, bool] = KNOWN) -> list[str]:
    config = configuration(remote_model("far"), local_model("m", extra_args=[*arguments]))
    found = flag_faults(replace(config, path="c.yaml"), known)
    return [str(fault) for fault in found]


def test_flags_that_the_engine_has_are_right() -> None:
    assert flags("--embeddings", "-c", "-1", "--ctx-size", "8", "--ctx_size", "8") == []


def test_a_flag_that_it_does_not_have_is_a_fault_and_the_nearest_is_told() -> None:
    assert flags("--no-warmup", "--embedings") == [
        "c.yaml: models[1].extra_args[1]: --embedings is no flag of this llama-server; "
        "did you mean --embeddings?"
    ]
    for short, meant in (("--ctx", "--ctx-size"), ("-f", "-fa"), ("--no-warm-up", "--no-warmup")):
        [fault] = flags(short)
        assert fault.endswith(f"did you mean {meant}?")
    [fault] = flags("--zzzzzzzz")
    assert fault.endswith("--zzzzzzzz is no flag of this llama-server; leave it out")


def test_a_value_may_look_like_a_flag() -> None:
    assert flags("-fa", "--nonsense") == []
    assert len(flags("--embeddings", "--nonsense")) == 1


@pytest.mark.parametrize("joined", ["--ctx-size=s3cret", "--ctx-size s3cret"])
def test_a_flag_and_its_value_in_one_text_are_told_apart_and_the_value_is_not_shown(
    joined: str,
) -> None:
    [fault] = flags(joined)
    assert fault.endswith("--ctx-size takes its value as a text of its own: [--ctx-size, …]")


def test_when_the_flags_are_not_known_none_is_wrong() -> None:
    assert flags("--nonsense", known={}) == []


def test_of_very_many_wrong_flags_some_are_told() -> None:
    assert len(flags(*["--nonsense"] * 1000)) == MOST_FAULTS


def test_a_sound_model_is_not_mentioned_nor_one_that_was_not_read_or_is_elsewhere() -> None:
    assert said() == []
    config = configuration(local_model("m"), remote_model("far"))
    assert notes(config, {}, GIB, need) == []


def test_a_file_that_is_no_model_is_a_fault() -> None:
    assert said(Facts("x.gguf is empty")) == [
        Note("fault", "m", "models[0].model_path", "x.gguf is empty")
    ]


def test_a_context_beyond_what_it_was_trained_for_is_a_warning_with_the_figure() -> None:
    [note] = said(context_size=8193)
    assert (note.grade, note.key) == ("warning", "context_size")
    assert note.message.startswith("is 8193, and the model was trained for 8192")
    assert said(context_size=8192) == []
    for stretched in (["--rope-scaling", "yarn"], ["--yarn_orig_ctx", "8192"]):
        assert said(context_size=8193, extra_args=stretched) == []
    assert said(MODEL._replace(trained=0), context_size=8193) == []


def test_a_context_beyond_the_machines_memory_by_far_is_a_fault_with_the_figures() -> None:
    wide = MODEL._replace(trained=10**6)
    # 7.5 GiB of weights and cache fit twice; 15 GiB of cache and 1 of weights do just so.
    most = 15 * GIB // 2**17
    assert said(wide, context_size=most) == []
    [note] = said(wide, context_size=most + 1)
    assert (note.grade, note.key) == ("fault", "context_size")
    assert note.message == (
        f"is {most + 1}, whose KV cache takes 15.0 GiB beside 1.0 GiB of weights, and this "
        f"machine has 8.0 GiB of memory; {7 * GIB // 2**17} would fit"
    )
    [_, note] = said(context_size=most + 1)
    assert note.message.endswith("; 8192 would fit"), "no more than it was trained for"
    [_, note] = said(memory=GIB // 2, context_size=2**20)
    assert note.message.endswith("0.5 GiB of memory"), "no context makes the weights fit"


def test_a_context_that_is_given_elsewhere_is_told_there() -> None:
    assert said(context_size=8192, extra_args=["-c", "512"]) == []
    [note] = said(context_size=512, extra_args=["-c", str(2**20)])
    assert (note.grade, note.key) == ("fault", "extra_args")
    assert note.message == (
        "or variables give it a context whose KV cache takes 128.0 GiB beside 1.0 GiB of weights, "
        "and this machine has 8.0 GiB of memory"
    )


def test_of_what_is_rough_or_not_known_no_context_is_too_large() -> None:
    wide = MODEL._replace(trained=10**9)
    assert said(wide, context_size=10**8, extra_args=["-ot", "x=CPU"]) == []
    assert said(wide, context_size=10**8, needs=lambda _: None) == []


def test_weights_beyond_the_memory_are_a_warning_since_they_are_read_from_the_disk() -> None:
    [note] = said(needs=lambda _: Estimate({HOST: Parts(weights=17 * GIB)}))
    assert (note.grade, note.key) == ("warning", "model_path")
    assert "17.0 GiB of weights" in note.message


def test_what_is_on_a_gpu_is_not_held_against_the_machines_memory() -> None:
    away = Estimate({HOST: Parts(weights=GIB), "GPU": Parts(weights=17 * GIB)})
    assert said(needs=lambda _: away) == []


def test_a_model_for_another_use_is_a_hint() -> None:
    kinds: list[tuple[Kind, str]] = [("embeddings", "--embeddings"), ("ranking", "--reranking")]
    for kind, flag in kinds:
        facts = MODEL._replace(kind=kind)
        [note] = said(facts)
        assert (note.grade, note.key) == ("hint", "extra_args")
        assert note.message.startswith(f"have no {flag}: the model is for {kind}")
        assert said(facts, extra_args=[flag]) == []
        [reverse] = said(extra_args=[flag])
        assert reverse.grade == "hint"
        said_so = f"have {flag}, and nothing in its file says that the model is made for {kind}"
        assert reverse.message == said_so
    assert said(MODEL._replace(kind="embeddings"), env={"LLAMA_ARG_EMBEDDINGS": "1"}) == []


def test_a_budget_for_a_device_that_there_is_not_is_a_fault() -> None:
    config = configuration(local_model("a"), memory={"host": "8GB", "CUDA1": "8GB"})
    listed = [Listed("CUDA0", "A card", 2**30), Listed("Metal", "Apple", 2**30, unified=True)]
    [fault] = device_faults(config, listed)
    assert fault.place == "memory.CUDA1"
    assert "host and CUDA0" in fault.message
    assert device_faults(config, None) == [], "nothing was listed"
    assert device_faults(configuration(local_model("a"), memory="auto"), listed) == []


def test_an_engine_that_knows_no_keys_is_warned_of_once() -> None:
    far, own = remote_model("far"), local_model("own", env={"LLAMA_API_KEY": "k"})
    config = configuration(far, own, local_model("a"), local_model("b"))
    [note] = key_notes(config, {"--model"})
    assert (note.grade, note.model, note.place) == ("warning", "", "llama_server_path")
    assert note.message.startswith("knows no API keys (--api-key): other users of this machine")


def test_one_that_knows_keys_or_needs_none_of_ours_is_not() -> None:
    config = configuration(local_model("a"))
    assert key_notes(config, {"--model", "--api-key"}) == []
    assert key_notes(config, {}) == [], "its flags are not known"
    far, own = remote_model("far"), local_model("own", extra_args=["--api_key", "k"])
    assert key_notes(configuration(far, own), {"--model"}) == []


def flags_of_help(sockets: bool) -> Flags:
    found = Flags({"--host": True})
    found.sockets = sockets
    return found


def test_an_engine_that_cannot_listen_on_sockets_is_a_fault_where_it_is_to() -> None:
    unix = configuration(local_model("a"), backend_socket="unix")
    [fault] = socket_faults(unix, flags_of_help(False), "/tmp/x")
    assert fault.place == "backend_socket"
    assert fault.message.startswith("this llama-server cannot listen on UNIX sockets")
    assert socket_faults(unix, flags_of_help(True), "/tmp/x") == []
    assert socket_faults(unix, Flags(), "/tmp/x") == [], "it is not known"
    tcp = configuration(local_model("a"))
    far = configuration(remote_model("far"), backend_socket="unix")
    for config in (tcp, far):
        assert socket_faults(config, flags_of_help(False), "/" + "a" * 100) == []


def test_so_is_a_folder_with_too_long_a_path() -> None:
    unix = configuration(local_model("a"), backend_socket="unix")
    [fault] = socket_faults(unix, flags_of_help(True), "/" + "a" * 100)
    assert (fault.place, "of at most 100 bytes" in fault.message) == ("backend_socket", True)


def test_where_nobody_else_reaches_the_engines_keys_are_not_missed() -> None:
    assert key_notes(configuration(local_model("a"), backend_socket="unix"), {"--model"}) == []
