"""Loading, unloading and watching the models of a running gateway, with the real engine."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.fake_llama_server import GGUF_HEAD
from tests.whole.harness import (
    DEADLINE,
    Gateway,
    Stream,
    in_threads,
    model,
    question,
    small_model,
    until_it_says,
    wait_until,
)

#: What the engine says of a GGUF file with nothing in it.
NO_MODEL = "unknown model architecture"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    one = {"parallel": 2, "context_size": 512}
    gateway = Gateway(
        [
            model("first", preload=True, pinned=True, aliases=["gpt-4o", "gpt-*"], **one),
            model("second", env={"LLAMAGW_TEST_SECRET": "s3cret", "OMP_NUM_THREADS": 1}, **one),
            model(
                "third",
                idle_unload_sec=0.5,
                set_params={"max_tokens": 3},
                default_params={"logprobs": True},
                strip_params=["n"],
                **one,
            ),
            model("corrupt", model_path="corrupt.gguf", **one),
        ],
        max_loaded_models=2,
        default_model="gpt-4o",
    )
    (gateway.folder / "corrupt.gguf").write_bytes(GGUF_HEAD)
    try:
        gateway.start()
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


def status(gateway: Gateway, name: str) -> str:
    found = {m["id"]: m["status"]["value"] for m in gateway.get("/models")["data"]}
    return str(found[name])


def order(gateway: Gateway, what: str, name: str, **more: Any) -> Any:
    return gateway.ask("POST", f"/models/{what}", {"model": name, **more})


class Following:
    """An answer of the gateway's that goes on, read line by line."""

    def __init__(self, gateway: Gateway, path: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=DEADLINE)
        self._connection.request("GET", path)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200

    def line(self) -> str:
        return self._answer.readline().decode().rstrip("\n")

    def until(self, wanted: str) -> list[str]:
        """All lines up to the first that has this in it."""
        lines = [self.line()]
        while wanted not in lines[-1]:
            lines.append(self.line())
        return lines

    def leave(self) -> None:
        self._connection.close()


def test_what_is_to_be_preloaded_is_loaded_without_being_asked_for(gateway: Gateway) -> None:
    wait_until(lambda: status(gateway, "first") == "loaded", "it is loaded")


def test_a_request_that_names_no_model_goes_to_the_default_one(gateway: Gateway) -> None:
    answer = gateway.ask("POST", "/v1/completions", {"prompt": "One,", "max_tokens": 2})
    assert (answer.status, answer.json()["model"]) == (200, "first")


def test_an_alias_and_a_pattern_are_names_too(gateway: Gateway) -> None:
    for name in ("gpt-4o", "gpt-5-turbo"):
        assert gateway.chat(name, tokens=2).json()["model"] == "first"
    assert gateway.get("/v1/models/gpt-4o")["meta"]["n_ctx"] == 512


def test_a_load_that_is_waited_for_is_done_when_it_is_answered(gateway: Gateway) -> None:
    assert order(gateway, "load", "second", wait=True).json() == {"success": True}
    assert status(gateway, "second") == "loaded"
    described = {m["id"]: m for m in gateway.get("/v1/models")["data"]}
    assert described["second"]["meta"]["n_params"] > 100_000_000
    assert described["second"]["size"] == small_model().stat().st_size
    report = gateway.report("second")
    assert 0.05 < report["load_sec"] < DEADLINE
    assert abs(report["usual_sec"] - report["load_sec"]) < 0.5, "it was loaded once"


def test_the_environment_is_the_engine_s_and_not_its_command_line_s(gateway: Gateway) -> None:
    order(gateway, "load", "second", wait=True)
    [engine] = [p for p in gateway.backends() if "second" in p.cmdline()]
    assert engine.environ()["LLAMAGW_TEST_SECRET"] == "s3cret"
    assert engine.environ()["OMP_NUM_THREADS"] == "1"
    assert not any("s3cret" in word for word in engine.cmdline())
    assert "s3cret" not in gateway.log


def test_a_get_loads_nothing_unless_it_says_so(gateway: Gateway) -> None:
    order(gateway, "unload", "third")
    for path in ("/props?model=third", "/slots?model=third", "/upstream/third/health"):
        answer = gateway.ask("GET", path)
        assert (answer.status, answer.json()["error"]["code"]) == (409, "model_not_loaded")
    assert status(gateway, "third") == "unloaded"
    answer = gateway.ask("GET", "/props?model=third&autoload=true")
    assert (answer.status, answer.json()["model_alias"]) == (200, "third")


def test_a_pinned_model_stays_and_the_other_makes_room(gateway: Gateway) -> None:
    order(gateway, "load", "second", wait=True)
    order(gateway, "load", "third", wait=True)
    assert (status(gateway, "first"), status(gateway, "second")) == ("loaded", "unloaded")


def test_one_that_nobody_uses_is_unloaded_though_somebody_looks_at_it(gateway: Gateway) -> None:
    order(gateway, "load", "third", wait=True)

    def gone() -> bool:
        gateway.ask("GET", "/slots?model=third")
        return status(gateway, "third") == "unloaded"

    wait_until(gone, "it is unloaded")


def test_what_is_set_for_a_model_is_what_its_engine_gets(gateway: Gateway) -> None:
    answer = gateway.chat("third", tokens=50, n=2).json()
    assert answer["usage"]["completion_tokens"] == 3
    [only] = answer["choices"]
    assert len(only["logprobs"]["content"]) == 3
    [quiet] = gateway.chat("third", logprobs=False).json()["choices"]
    assert "logprobs" not in quiet


def test_an_unload_waits_for_running_answers_and_its_newcomers_get_theirs(gateway: Gateway) -> None:
    stream = gateway.stream("second", tokens=60)
    stream.read_events(3)
    [old] = [p for p in gateway.backends() if "second" in p.cmdline()]

    def newcomer() -> int:
        # Whether it comes before the unload or after, it gets its answer.
        return gateway.chat("second", tokens=2).status

    unloaded, answered, whole = in_threads(
        lambda: order(gateway, "unload", "second").status, newcomer, lambda: stream.rest()
    )
    assert (unloaded, answered) == (200, 200)
    assert b"data: [DONE]" in whole
    assert not old.is_running()


def test_one_by_force_is_immediate_and_its_streams_end_with_an_error(gateway: Gateway) -> None:
    stream = gateway.stream("second", tokens=400)
    stream.read_events(3)
    assert order(gateway, "unload", "second", force=True).json() == {"success": True}
    assert status(gateway, "second") == "unloaded"
    rest = stream.rest()
    assert b'data: {"error":' in rest
    assert b"[DONE]" not in rest


def test_a_stream_of_messages_that_breaks_off_ends_with_anthropics_error(gateway: Gateway) -> None:
    body = question("second", 400, stream=True)
    stream = Stream(gateway.port, "/v1/messages", body)
    stream.read_until(b"content_block_delta")
    order(gateway, "unload", "second", force=True)
    rest = stream.rest()
    name, data = rest.split(b"\n\n")[-2].rpartition(b"event: error\n")[1:]
    assert name == b"event: error\n"
    error = json.loads(data.removeprefix(b"data: "))
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")
    assert b"message_stop" not in rest


def test_a_load_that_fails_says_why_and_so_do_the_list_and_the_log(gateway: Gateway) -> None:
    answer = until_it_says(
        NO_MODEL,
        lambda: order(gateway, "load", "corrupt", wait=True),
        lambda answer: str(answer.json()["error"]["message"]),
    )
    assert answer.status == 503
    log = gateway.ask("GET", "/models/logs?model=corrupt").body.decode()
    assert NO_MODEL in log
    [entry] = [m for m in gateway.get("/models")["data"] if m["id"] == "corrupt"]
    assert entry["status"]["value"] == "unloaded"
    assert entry["status"]["exit_code"] == 1


#: A change of that model; how far its load is, is told in between.
SECOND = '"model":"second","event":"status_change"'


def test_each_change_is_told_as_it_happens(gateway: Gateway) -> None:
    order(gateway, "unload", "second")
    changes = Following(gateway, "/models/sse")
    first = [json.loads(changes.until("data: ")[-1][6:]) for _ in range(4)]
    assert [e["model"] for e in first] == ["first", "second", "third", "corrupt"]
    assert {e["event"] for e in first} == {"model_status"}
    order(gateway, "load", "second")
    for wanted in ("loading", "loaded"):
        event = json.loads(changes.until(SECOND)[-1][6:])
        assert (event["event"], event["data"]) == ("status_change", {"status": wanted})
    order(gateway, "unload", "second")
    for data in ({"status": "stopping"}, {"status": "unloaded", "exit_code": 0}):
        assert json.loads(changes.until(SECOND)[-1][6:])["data"] == data
    changes.leave()


def test_a_log_is_followed_from_one_life_of_its_engine_to_the_next(gateway: Gateway) -> None:
    order(gateway, "load", "second", wait=True)
    log = Following(gateway, "/models/logs?model=second&follow=true")
    log.until("listening on")
    order(gateway, "unload", "second")
    order(gateway, "load", "second")
    assert any("loading model" in line for line in log.until("listening on"))
    log.leave()


def test_what_goes_on_ends_when_the_gateway_stops() -> None:
    gateway = Gateway([model("only")]).start()
    try:
        changes = Following(gateway, "/models/sse")
        changes.until("model_status")
        log = Following(gateway, "/models/logs?model=only&follow=true")
        gateway.terminate()
        assert gateway.wait() == 0
        assert (changes._answer.read().strip(), log._answer.read()) == (b"", b"")
    finally:
        gateway.clean_up()
