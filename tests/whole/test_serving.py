"""What a user of a running gateway sees, over uvloop's transports and over Twisted's own.

One gateway for all tests of a reactor: room for one model, and five that want it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from llamagw import __version__
from tests.whole.harness import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Gateway,
    free_ports,
    in_threads,
    model,
    question,
    wait_until,
)

STOCK = "epoll" if sys.platform == "linux" else "select"


class Fresh(Gateway):
    """
    :ivar backends_at_start: how many it had before anybody asked for something
    :ivar lines_at_start: how many lines its log had then, requests of the harness left out
    """

    backends_at_start: int
    lines_at_start: int


@pytest.fixture(scope="module", params=[None, STOCK], ids=["uvloop", "stock"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Fresh]:
    """Started with nothing loaded, with the first port of its range taken by somebody else."""
    first = free_ports(8)
    with socket.create_server(("127.0.0.1", first)):
        gateway = Fresh(
            [
                model("smol"),
                model("other"),
                model("embed", extra_args=["--embeddings", "--pooling", "mean"]),
                model("missing", model_path="/nonexistent/nowhere.gguf"),
                model("corrupt", model_path="corrupt.gguf"),
            ],
            reactor=request.param,
            port_range_start=first,
            max_loaded_models=1,
            swap_after_sec=0.2,
            access_log=None,
        )
        (gateway.folder / "corrupt.gguf").write_bytes(b"this is no model" * 1000)
        try:
            gateway.start()
            gateway.backends_at_start = len(gateway.backends())
            lines = gateway.log.splitlines()
            gateway.lines_at_start = sum("[llamagw.access" not in line for line in lines)
            yield gateway
            gateway.stop()
        finally:
            gateway.clean_up()


def test_the_start_up_lines_say_what_is_served_and_where(gateway: Fresh) -> None:
    log, base = gateway.log, f"http://127.0.0.1:{gateway.port}"
    assert f"llamagw {__version__}" in log
    assert "5 models configured, at most 1 in memory" in log
    assert "model missing cannot be served: there is no file /nonexistent/nowhere.gguf" in log
    assert f"listening on 127.0.0.1:{gateway.port}; base URL: {base}/v1" in log
    assert gateway.lines_at_start <= 8


def test_it_runs_on_what_was_asked_for(gateway: Gateway) -> None:
    expected = "EPollReactor" if gateway.reactor == "epoll" else gateway.reactor or "uvloop"
    assert expected.lower() in gateway.log.partition("listening on")[0].lower()


def test_each_request_has_a_line_with_its_model_and_tokens(gateway: Fresh) -> None:
    reply = gateway.chat("smol")
    usage = reply.json()["usage"]
    told = f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens"
    wait_until(lambda: f"POST {CHAT} 200 smol, " in gateway.log, "there is a line")
    [line, *_] = [line for line in gateway.log.splitlines() if f"POST {CHAT} 200 smol, " in line]
    assert f" {told}, " in line, line
    assert line.endswith(f"[{reply.headers['X-Request-Id']}]"), line


def test_nothing_is_loaded_until_somebody_asks(gateway: Fresh) -> None:
    assert gateway.backends_at_start == 0
    assert gateway.chat("smol").status == 200
    assert len(gateway.backends()) == 1
    assert gateway.report("smol")["status"] == "loaded"


def test_a_taken_port_is_passed_over(gateway: Gateway) -> None:
    assert gateway.chat("smol").status == 200
    assert gateway.report("smol")["port"] > gateway.config["port_range_start"]


def test_a_chat_is_answered(gateway: Gateway) -> None:
    reply = gateway.chat("smol", tokens=5)
    assert reply.status == 200
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    found = reply.json()
    assert found["choices"][0]["message"]["content"]
    assert found["usage"]["completion_tokens"] == 5


def test_a_stream_arrives_bit_by_bit_and_ends_with_done(gateway: Gateway) -> None:
    stream = gateway.stream("smol", tokens=40)
    beginning = stream.read_events(3)
    assert b"[DONE]" not in beginning
    assert b"Content-Type: text/event-stream" in beginning
    whole = stream.rest()
    assert stream.reads > 8
    events = [line for line in whole.split(b"\n") if line.startswith(b"data: ")]
    assert events[-1] == b"data: [DONE]"
    assert len(events) > 40
    for event in events[:-1]:
        assert json.loads(event.removeprefix(b"data: "))["object"] == "chat.completion.chunk"


def test_a_completion_is_answered(gateway: Gateway) -> None:
    reply = gateway.ask(
        "POST", COMPLETIONS, {"model": "smol", "prompt": "The capital is", "max_tokens": 4}
    )
    assert reply.status == 200
    assert reply.json()["choices"][0]["text"]


def test_embeddings_are_answered(gateway: Gateway) -> None:
    reply = gateway.ask("POST", EMBEDDINGS, {"model": "embed", "input": ["a river", "a bridge"]})
    assert reply.status == 200
    vectors = [entry["embedding"] for entry in reply.json()["data"]]
    assert len(vectors) == 2
    assert len(vectors[0]) == len(vectors[1]) > 100
    assert vectors[0] != vectors[1]


def test_an_error_of_the_engine_arrives_unchanged(gateway: Gateway) -> None:
    assert gateway.chat("smol").status == 200
    wrong = {"model": "smol", "messages": "no list"}
    direct = gateway.ask_backend("smol", "POST", CHAT, wrong)
    through = gateway.ask("POST", CHAT, wrong)
    assert through.status == direct.status >= 400
    assert through.body == direct.body


def test_a_swap_never_has_two_backends_at_once(gateway: Gateway) -> None:
    with gateway.watched() as counts:
        for name in ("smol", "other", "smol"):
            assert gateway.chat(name, tokens=2).status == 200
            assert gateway.report(name)["status"] == "loaded"
    assert max(counts) == 1
    assert len(counts) > 20


def test_a_request_for_another_model_waits_for_a_stream_and_cuts_nothing(gateway: Gateway) -> None:
    stream = gateway.stream("smol", tokens=80)
    stream.read_events(2)
    with gateway.watched() as counts:
        results: list[Any] = in_threads(lambda: gateway.chat("other"), stream.rest)
    reply, whole = results
    assert whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert whole.count(b"data: {") >= 80
    assert b'"error"' not in whole
    assert reply.status == 200
    assert max(counts) == 1


def test_eight_at_once_are_decoded_at_once(gateway: Gateway) -> None:
    streams = [gateway.stream("smol", tokens=40) for _ in range(8)]
    for stream in streams:
        stream.read_events(1)
    wait_until(lambda: gateway.busy_slots("smol") == 8, "eight slots are busy")
    assert gateway.report("smol")["in_flight"] == 8
    for whole in in_threads(*[stream.rest for stream in streams]):
        assert b"data: [DONE]" in whole
    assert gateway.report("smol")["in_flight"] == 0


def test_a_client_that_leaves_frees_its_slot(gateway: Gateway) -> None:
    stream = gateway.stream("smol", tokens=1900)
    stream.read_events(3)
    assert gateway.busy_slots("smol") == 1
    stream.leave()
    wait_until(lambda: gateway.busy_slots("smol") == 0, "its slot is free", deadline=3)
    assert gateway.report("smol")["in_flight"] == 0


def test_a_client_that_leaves_the_queue_is_forgotten(gateway: Gateway) -> None:
    stream = gateway.stream("smol", tokens=1900)
    stream.read_events(1)
    waiting = gateway.stream("other")
    wait_until(lambda: gateway.report("other"), "somebody waits for it")
    waiting.leave()
    wait_until(lambda: not gateway.report("other"), "nobody waits for it", deadline=3)
    stream.leave()
    assert gateway.chat("smol").status == 200


def test_a_backend_killed_in_a_stream_leaves_an_error_and_the_next_is_answered(
    gateway: Gateway,
) -> None:
    stream = gateway.stream("smol", tokens=1900)
    stream.read_events(3)
    killed = gateway.backend()
    os.kill(killed.pid, signal.SIGKILL)
    whole = stream.rest()
    last = [line for line in whole.split(b"\n") if line.startswith(b"data: ")][-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "backend_lost"
    assert b"[DONE]" not in whole
    reply = gateway.chat("smol")
    assert reply.status == 200, reply
    assert gateway.backend().pid != killed.pid


def test_a_file_that_is_no_model_is_told_and_no_engine_is_started_for_it(gateway: Gateway) -> None:
    reply = gateway.chat("corrupt")
    assert reply.status == 503
    path = gateway.folder / "corrupt.gguf"
    assert f"{path} is not a GGUF file" in reply.json()["error"]["message"]
    assert f"model corrupt cannot be served: {path} is not a GGUF file" in gateway.log
    assert "starting corrupt" not in gateway.log
    assert int(reply.headers["Retry-After"]) >= 1
    error = reply.json()["error"]
    assert error["code"] == "model_unavailable"
    assert "corrupt" in error["message"]
    again = gateway.chat("corrupt")
    assert (again.status, again.json()["error"]["code"]) == (503, "model_unavailable")
    assert gateway.chat("smol").status == 200


def test_a_model_whose_file_is_missing_is_told_and_the_others_go_on(gateway: Gateway) -> None:
    reply = gateway.chat("missing")
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) >= 1
    assert "/nonexistent/nowhere.gguf" in reply.json()["error"]["message"]
    assert gateway.chat("smol").status == 200
    statuses = {m["id"]: m["status"] for m in gateway.get("/v1/models")["data"]}
    assert statuses["smol"] == "loaded"
    assert statuses["missing"] == "failed"


def test_an_unknown_model_is_told_with_those_that_exist(gateway: Gateway) -> None:
    reply = gateway.chat("smoll")
    assert reply.status == 404
    assert "Did you mean `smol`?" in reply.json()["error"]["message"]


def test_a_long_body_arrives(gateway: Gateway) -> None:
    """Several reads long, and over the 100 kB at which Twisted would use a file."""
    reply = gateway.ask("POST", CHAT, question("smol", 2, padding="x" * 3_000_000))
    assert reply.status == 200
