"""Promises of llamagw.gate.caller: which models the holder of a key may use."""

from __future__ import annotations

import pytest

from llamagw.dialects import Scope
from llamagw.gate import ANYBODY, Caller


def may(models: list[str], *names: str) -> bool:
    return Caller("alice", (Scope.INFER,), models).may_use(*names)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["*"], ["anything"]),
        (["qwen"], ["qwen"]),
        (["small", "qwen"], ["own", "qwen"]),  # an alias is enough
        (["qwen*"], ["qwen-7b"]),
        (["a", "qwen-?b"], ["own", "qwen-7b"]),
        (["[qr]*"], ["r1"]),
        (["gpt-*"], ["own", "gpt-*"]),  # the pattern of a model's alias is one of its names
        (["org/*"], ["org/a/b"]),
    ],
)
def test_a_name_or_a_pattern_gives_the_right(models: list[str], names: list[str]) -> None:
    assert may(models, *names)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        ([], ["qwen"]),
        (["qwen"], ["Qwen"]),
        (["qwen"], ["qwen "]),
        (["qwen"], ["qwen\n"]),
        (["qwen"], ["qwen\0"]),
        (["qwen*"], ["Qwen-7b"]),
        (["qwen*"], ["my-qwen"]),
        (["*qwen"], ["qwen-7b"]),
        (["a*", "b*"], ["ca", "cb"]),
        (["qwen-?b"], ["qwen-17b"]),
        (["q.en"], ["qwen"]),  # no regular expression
        (["qwen|gpt*"], ["gpt-4"]),
        (["qwen"], ["ｑwen"]),  # what only looks like it, or is it after normalization
        (["qwen"], ["qwеn"]),
        (["qwen"], ["qwen\u200b"]),
        (["caf\u00e9"], ["cafe\u0301"]),
    ],
)
def test_nothing_else_does(models: list[str], names: list[str]) -> None:
    assert not may(models, *names)


def test_a_star_is_every_model_and_a_pattern_that_fits_all_today_is_not() -> None:
    assert Caller("alice", (), ["a", "*"]).every_model
    assert not Caller("alice", (), ["**", "?*"]).every_model


def test_anybody_may_do_everything() -> None:
    assert (ANYBODY.scopes, ANYBODY.every_model, ANYBODY.name) == (frozenset(Scope), True, "")


def test_a_thousand_patterns_are_no_slow_ones() -> None:
    assert not may([f"{'a*' * 20}{n}" for n in range(1000)], "a" * 256)
