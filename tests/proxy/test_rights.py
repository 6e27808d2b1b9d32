"""Promises of llamagw.proxy.rights: which models a caller may use, and what is told of others."""

from __future__ import annotations

import pytest

from llamagw.dialects import Scope
from llamagw.errors import ModelNotFound, NotPermitted
from llamagw.fleet import Catalogue
from llamagw.gate import ANYBODY, Caller
from llamagw.proxy import check_all, check_model, reason_for, sees
from tests.support.bench import Bench
from tests.support.configs import local_model


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    bench = Bench(
        [
            local_model("qwen", aliases=["chat", "qwen-*"]),
            local_model("secret", aliases=["gpt-4", "gpt-*"]),
        ],
        loaded=False,
    )
    return bench.dispatcher.catalogue


def caller(*models: str) -> Caller:
    return Caller("alice", (Scope.INFER,), models)


def check(by: Caller, catalogue: Catalogue, name: str) -> None:
    check_model(by, catalogue, name, name)


@pytest.mark.parametrize(
    ("models", "name"),
    [
        (["qwen"], "qwen"),
        (["qwen"], "chat"),  # the right is to the model, whatever it is called
        (["qwen"], "qwen-7b"),
        (["chat"], "qwen"),
        (["chat"], "qwen-7b"),
        (["qwen-*"], "chat"),
        (["q*"], "chat"),
        (["gpt-4*"], "gpt-4o"),  # by a name that leads to a model, and to no other one
        (["gpt-4"], "secret"),
    ],
)
def test_a_model_may_be_used_by_each_of_its_names(
    catalogue: Catalogue, models: list[str], name: str
) -> None:
    check(caller(*models), catalogue, name)


@pytest.mark.parametrize(
    ("models", "name"),
    [
        ([], "qwen"),
        (["qwen"], "secret"),
        (["qwen"], "gpt-4"),
        (["qwen"], "gpt-99"),
        (["chat"], "gpt-4"),
        (["qwen"], "Qwen"),
        (["qwen"], "qwen/"),
        (["gpt-5"], "gpt-4"),
        (["gpt-4o"], "secret"),  # a name that leads to it is not all of its names
        (["s?cre"], "secret"),
    ],
)
def test_others_may_not_be_used(catalogue: Catalogue, models: list[str], name: str) -> None:
    with pytest.raises(NotPermitted) as caught:
        check(caller(*models), catalogue, name)
    said = f"The API key `alice` may not use a model called `{name}`."
    assert (caught.value.message, caught.value.param) == (said, "model")


def test_what_is_hidden_is_refused_like_what_there_is_not(catalogue: Catalogue) -> None:
    told = []
    for name in ("secret", "nothing", "gpt-4", "none"):
        with pytest.raises(NotPermitted) as caught:
            check(caller("qwen"), catalogue, name)
        told.append((type(caught.value), caught.value.message.replace(name, "…")))
    assert len(set(told)) == 1


def test_of_the_default_model_the_name_is_not_told(catalogue: Catalogue) -> None:
    with pytest.raises(NotPermitted, match="may not use the default model") as caught:
        check_model(caller("qwen"), catalogue, None, "secret")
    assert "secret" not in caught.value.message


def test_who_may_use_a_name_that_leads_nowhere_is_told_of_the_models_of_its_own(
    catalogue: Catalogue,
) -> None:
    with pytest.raises(ModelNotFound) as caught:
        check(caller("qwen", "sec"), catalogue, "sec")
    assert "`qwen`" in caught.value.message
    assert "`chat`" in caught.value.message
    assert "secret" not in caught.value.message
    assert "gpt" not in caught.value.message


def test_who_may_use_every_model_is_not_asked(catalogue: Catalogue) -> None:
    for by in (ANYBODY, caller("*"), caller("qwen", "*")):
        check(by, catalogue, "nothing")
        check_all(by)
        assert sees(by, catalogue, "no such model any more")


def test_a_pattern_that_fits_all_is_not_all(catalogue: Catalogue) -> None:
    with pytest.raises(NotPermitted, match="`alice` is for some models"):
        check_all(caller("qwen", "?*"))


def test_who_sees_a_model_that_is_not_configured_any_more_may_use_its_name(
    catalogue: Catalogue,
) -> None:
    assert sees(caller("old*"), catalogue, "old")
    assert not sees(caller("qwen"), catalogue, "old")


def test_a_name_in_a_refusal_is_harmless(catalogue: Catalogue) -> None:
    with pytest.raises(NotPermitted) as caught:
        check(caller("qwen"), catalogue, "\x1b[31m\r\n" + "x" * 1000)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (None, None),
        ("its load", "its load"),
        ("room: `secret` is busy", "room"),
        ("its next load: it makes room for others first", "its next load"),
    ],
)
def test_what_it_waits_for_is_told_without_names(reason: str | None, told: str | None) -> None:
    assert reason_for(caller("qwen"), reason) == told
    assert reason_for(caller("*"), reason) == reason
