"""
What a collector of OpenTelemetry gets of real requests, and what it can do to the gateway.

How a record becomes spans is for tests/observe/test_otel.py. The collector is a real one, Rotel (in
Rust), which PyPI has as a binary. It decodes what the gateway exports, and sends it on, encoded
anew, to tests/support/collector.py, which decodes that by OpenTelemetry's own messages.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.parts import missing
from tests.whole.harness import (
    CHAT,
    COMPLETIONS,
    DEADLINE,
    ROOT,
    Gateway,
    free_port,
    model,
    question,
    wait_until,
)

TRACE, PARENT = "a" * 32, "b" * 16


class Collector:
    """A collector in a process of its own, and what it has passed on to another one."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.find_spec("rotel")
        if spec is None or spec.origin is None:
            missing("there is no Rotel here; pip install rotel==0.0.1a15 (Linux on x86_64)")
        self.port, behind, grpc = free_port(), free_port(), free_port()
        self.path, self.log = folder / "telemetry", folder / "log"
        self.path.touch()
        self._processes: list[subprocess.Popen[bytes]] = []
        decoder = [sys.executable, "-m", "tests.support.collector", str(behind), str(self.path)]
        self._run(decoder, behind)
        binary = Path(spec.origin).with_name("rotel-agent")
        options = {
            "otlp-http-endpoint": f"127.0.0.1:{self.port}",
            "otlp-grpc-endpoint": f"127.0.0.1:{grpc}",
            "exporter": "otlp",
            "otlp-exporter-endpoint": f"http://127.0.0.1:{behind}",
            "otlp-exporter-protocol": "http",
        }
        self._run([str(binary), "start", *(f"--{k}={v}" for k, v in options.items())], self.port)

    def _run(self, command: list[str], port: int) -> None:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._processes.append(process)

        def listens() -> bool:
            assert process.poll() is None, self.log.read_text()
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens, f"{command[0]} listens")

    def got(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def end(self) -> None:
        """End the collector, which sends on what it has; then the other."""
        while self._processes:
            process = self._processes.pop()
            process.terminate()
            process.wait(DEADLINE)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    collector = Collector(tmp_path)
    try:
        yield collector
    finally:
        collector.end()


def children(spans: list[dict[str, Any]], own: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {span["span"]: span for span in spans if span["parent"] == own["id"]}
    for span in found.values():
        assert span["trace"] == own["trace"]
        assert own["begin"] <= span["begin"] <= span["end"] <= own["end"]
    return found


def test_a_collector_gets_the_spans_and_metrics_of_real_requests(collector: Collector) -> None:
    gateway = Gateway([model("a")], otel={"endpoint": f"http://127.0.0.1:{collector.port}"})
    begun = time.time_ns()
    try:
        gateway.start()
        parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        streamed = question("a", 8, stream=True)
        assert gateway.ask("POST", CHAT, streamed, headers=parent).status == 200
        plain = {"model": "a", "prompt": "Hi", "max_tokens": 3}
        assert gateway.ask("POST", COMPLETIONS, plain).status == 200
        assert gateway.chat("no").status == 404
        gateway.stop()
    finally:
        gateway.clean_up()
    ended = time.time_ns()
    collector.end()
    got = collector.got()
    spans = [one for one in got if "span" in one]
    chat, completion, refused = (one for one in spans if one["kind"] == "server")

    assert (chat["span"], chat["trace"], chat["parent"]) == ("chat a", TRACE, PARENT)
    assert begun < chat["begin"] < chat["end"] < ended
    parts = children(spans, chat)
    assert [*parts] == ["queue", "load", "upstream"]
    assert parts["queue"]["end"] <= parts["upstream"]["begin"] + 1_000_000
    assert parts["upstream"]["begin"] < parts["upstream"]["events"]["first_byte"] < chat["end"]
    known = chat["attributes"]
    assert known["gen_ai.usage.output_tokens"] == known["gen_ai.request.max_tokens"] == 8
    assert known["gen_ai.usage.input_tokens"] > 8
    assert known["gen_ai.response.finish_reasons"] == ["length"]
    assert known["gen_ai.response.id"].startswith("chatcmpl-")
    assert 0 < known["gen_ai.response.time_to_first_chunk"] < (chat["end"] - chat["begin"]) / 1e9
    assert known["llamagw.queue_position"] == 1
    assert "river" not in json.dumps(got), "prompts are not exported"

    assert completion["span"] == "text_completion a"
    assert (completion["parent"], completion["trace"] == TRACE) == ("", False)
    assert [*children(spans, completion)] == ["upstream"]
    assert (refused["span"], refused["attributes"]["error.type"]) == ("chat", "model_not_found")
    assert children(spans, refused) == {}

    metrics = {one["metric"]: one["points"] for one in got if "metric" in one}
    statuses = [one["attributes"]["status"] for one in metrics["llamagw_requests_total"]]
    assert sorted(statuses) == ["200", "200", "404"]
    [output] = [
        one
        for one in metrics["gen_ai.client.token.usage"]
        if one["attributes"]["gen_ai.operation.name"] == "chat"
        and one["attributes"]["gen_ai.token.type"] == "output"
    ]
    assert (output["count"], output["sum"]) == (1, 8)


def test_a_collector_that_hangs_delays_neither_requests_nor_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # It accepts, by its backlog, and never answers.
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        gateway = Gateway([model("a")], otel={"endpoint": endpoint})
        try:
            os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "100"
            try:
                gateway.start()
            finally:
                del os.environ["OTEL_BSP_SCHEDULE_DELAY"]
            gateway.chat("a")
            for _ in range(5):
                begun = time.monotonic()
                assert gateway.chat("a", 1).status == 200
                assert time.monotonic() - begun < 5
            begun = time.monotonic()
            gateway.terminate()
            assert gateway.wait() == 0
            assert time.monotonic() - begun < 6
            assert "OpenTelemetry" in gateway.log
            assert "are lost" in gateway.log
            gateway.stop()
        finally:
            gateway.clean_up()
