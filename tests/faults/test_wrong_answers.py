"""Fault 5: a backend that does not speak HTTP as it should. Relayed properly or refused, never a
hang, and the next request is none the worse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.support import STOCK, Faulty, Raw, asking, code, post, running
from tests.support.messages import Answer
from tests.whole.harness import in_threads

GOOD = b'{"raw":"a whole answer"}'

#: Legal, if rare: the client gets the whole answer.
RELAYED = (
    "continue", "early_hints", "http10", "no_length", "trailers", "long_body", "second_answer",
    "stale", "slow",
)  # fmt: skip
#: No answer can be made of these.
REFUSED = (
    "garbage", "empty", "endless_header", "endless_line", "two_lengths", "length_chunked",
    "switching", "space_colon", "nul_header",
)  # fmt: skip
#: The client sees that it is not whole, or a refusal, if its beginning came in the same read.
CUT = ("cut_chunk", "cut_chunks", "bad_chunk", "short_body")
#: A body that must not be there: the client gets the head alone.
BODILESS = {"after_204": 204, "after_304": 304}
#: Readers differ; both a whole answer and a refusal are proper.
EITHER = ("bare_lf", "obs_fold")


@pytest.fixture(scope="module", params=[None, STOCK], ids=["uvloop", "stock"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Faulty]:
    with running({"m": {}}, reactor=request.param) as gateway:
        yield gateway


def ask(gateway: Faulty, raw: str) -> Answer:
    script: dict[str, Any] = {"raw": raw, "byte_sec": 0.001}
    return Raw(gateway.port, post(asking("m", fake=script), "Connection: close")).answer(20)


def assert_none_the_worse(gateway: Faulty) -> None:
    """The next ones, one after another and at once, get their own answer and a whole one."""
    pids = {gateway.chat("m", fake={"echo": True}).json()["pid"] for _ in range(3)}
    calls = [lambda: gateway.chat("m", fake={"echo": True}).json()["pid"]] * 4
    assert pids.union(in_threads(*calls)) == {gateway.pid_of("m")}
    assert gateway.starts("m") == 1, "a wrong answer costs no backend its life"


@pytest.mark.parametrize("raw", RELAYED)
def test_an_answer_that_is_rare_but_legal_arrives(gateway: Faulty, raw: str) -> None:
    answer = ask(gateway, raw)
    assert (answer.status, answer.body, answer.whole) == (200, GOOD, True)
    assert_none_the_worse(gateway)


def test_a_header_of_100_kb_arrives(gateway: Faulty) -> None:
    heard = Raw(
        gateway.port, post(asking("m", fake={"raw": "big_header"}), "Connection: close")
    ).hears()
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nX-Big: " + b"b" * 100_000 + b"\r\n" in heard
    assert heard.endswith(GOOD)
    assert_none_the_worse(gateway)


@pytest.mark.parametrize("raw", REFUSED)
def test_what_is_no_answer_is_told_as_502(gateway: Faulty, raw: str) -> None:
    answer = ask(gateway, raw)
    assert (answer.status, code(answer)) == (502, "backend_lost")
    assert_none_the_worse(gateway)


@pytest.mark.parametrize("raw", CUT)
def test_an_answer_that_ends_in_the_middle_is_incomplete_to_the_client(
    gateway: Faulty, raw: str
) -> None:
    answer = ask(gateway, raw)
    if answer.status == 200:
        assert not answer.whole
        assert (GOOD * 2).startswith(answer.body)
    else:
        assert (answer.status, code(answer)) == (502, "backend_lost")
    assert_none_the_worse(gateway)


@pytest.mark.parametrize("raw", BODILESS)
def test_a_body_that_must_not_be_there_is_not_passed_on(gateway: Faulty, raw: str) -> None:
    answer = ask(gateway, raw)
    assert (answer.status, answer.body) == (BODILESS[raw], b"")
    assert_none_the_worse(gateway)


@pytest.mark.parametrize("raw", EITHER)
def test_what_readers_differ_about_is_understood_or_refused(gateway: Faulty, raw: str) -> None:
    answer = ask(gateway, raw)
    if answer.status == 200:
        assert (answer.body, answer.whole) == (GOOD, True)
    else:
        assert (answer.status, code(answer)) == (502, "backend_lost")
    assert_none_the_worse(gateway)


def test_an_answer_before_the_request_was_read_arrives_or_is_visibly_lost(gateway: Faulty) -> None:
    body = asking("m", padding="x" * 3_000_000)
    early = post(body, "Connection: close", 'X-Fake: {"early": true, "status": 400, "body": "no"}')
    answer = Raw(gateway.port, early).answer()
    # The engine closes on a body that it has not read, so its answer, or the end of it, may be lost
    # on the way.
    if not answer.whole:
        assert (answer.status, answer.body) in ((400, b""), (400, b"n"))
    elif answer.status != 400:
        assert code(answer) == "backend_lost"
    else:
        assert answer.body == b"no"
    assert_none_the_worse(gateway)


def test_the_fake_knows_no_wrong_answer_that_is_not_tried_here() -> None:
    from tests.support import fake_llama_server

    tried = {*RELAYED, *REFUSED, *CUT, *BODILESS, *EITHER, "big_header"}
    endless = {"flood", "flood_plain"}  # test_clients_that_stall.py
    assert tried | endless == set(fake_llama_server.RAW)
