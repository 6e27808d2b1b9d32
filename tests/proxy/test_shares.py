"""Promises of llamagw.proxy.shares: whose turn a request is while it waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llamagw.dialects import ROUTES
from llamagw.errors import BadRequest
from llamagw.fleet import ALIKE
from llamagw.gate import ANYBODY, Caller
from llamagw.proxy.shares import share_of

CHAT = b"/v1/chat/completions"
ALICE = Caller("alice", (), priority=10, share=2.0)


def request(path: bytes = CHAT, caller: Caller = ANYBODY, body: bytes = b"", **given: bytes) -> Any:
    headers = {name.replace("_", "-"): [value] for name, value in given.items()}
    encoded = {name.encode(): values for name, values in headers.items()}
    return SimpleNamespace(path=path, caller=caller, body=body, given=encoded)


def test_without_keys_and_wishes_all_are_alike() -> None:
    assert share_of(request()) is ALIKE


@pytest.mark.parametrize(
    "path", [b"/tokenize", b"/props", b"/slots", b"/upstream/m/v1/chat/completions", b"/none"]
)
def test_what_takes_no_slot_has_no_turn(path: bytes) -> None:
    assert share_of(request(path)) is None


@pytest.mark.parametrize(
    "path", [b"/v1/embeddings", b"/v1/rerank", b"/v1/messages", b"/v1/chat/%63ompletions"]
)
def test_what_takes_a_slot_has_a_turn_however_its_path_is_written(path: bytes) -> None:
    assert share_of(request(path)) is ALIKE


def test_every_operation_of_a_model_takes_a_slot() -> None:
    assert all(route.slot for route in ROUTES if route.operation)


def test_a_key_has_the_turns_of_its_share_by_what_it_asks() -> None:
    small, large = (share_of(request(caller=ALICE, body=b"x" * size)) for size in (40, 4000))
    assert small is not None
    assert large is not None
    assert (small.flow, small.priority, small.weight) == ("alice", 10, 2.0)
    assert large.cost - small.cost == 990


@pytest.mark.parametrize(
    ("caller", "wish", "priority"),
    [
        (ALICE, b"-5", -5),
        (ALICE, b"10", 10),
        (ALICE, b"100", 10),
        (ANYBODY, b"-100", -100),
        (ANYBODY, b"7", 0),
    ],
)
def test_a_request_may_lower_its_class_and_raise_it_to_that_of_its_key(
    caller: Caller, wish: bytes, priority: int
) -> None:
    share = share_of(request(caller=caller, X_Priority=wish))
    assert share is not None
    assert share.priority == priority


@pytest.mark.parametrize(
    "wish", [b"", b"high", b"1.5", b"101", b"-101", b"1" * 5000, b"+5", b"--5"]
)
def test_a_class_that_is_none_is_refused(wish: bytes) -> None:
    with pytest.raises(BadRequest, match="from -100 to 100"):
        share_of(request(X_Priority=wish))
