"""
What models in turn cost their clients: six clients, three models, room for one; the real engine.

    PYTHONPATH=. python benchmarks/swaps.py [--load-sec 0 5 10] [--seconds 60] [--rounds 2]

Each client thinks, sends a short request that is streamed, waits for its answer, and thinks again;
which model it asks, it chooses anew each time (``--turns 1``), or now and then. The wait is the
time to the first byte of the answer: the engine needs a few milliseconds of it. Two gateways,
`swap_after_sec: auto` and a number, take turns; both see the same clients.

All three models are SmolLM2, which loads in a second or less. ``--load-sec`` has each load take so
much longer, by a script that sleeps before it becomes the engine: so does a large model that is
read from a disk. benchmarks/swaps_simulated.py has more loads in less time.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from pathlib import Path
from random import Random

from coldstart import find_engine
from processes import BenchError, Processes, free_port, healthy
from swaps_simulated import CLIENTS, MODELS, ROOM, Client, Result, ratio
from targets import gateway_command

#: What the gateway starts: notes each start that is not for ``--help``, sleeps, and is the engine.
SCRIPT = """#!/bin/sh
case "$*" in
*--port*)
    echo started >> '{log}'
    sleep {sleep}
    ;;
esac
LD_LIBRARY_PATH='{folder}'"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}" exec '{engine}' "$@"
"""
MESSAGES = [{"role": "user", "content": "Say one word."}]
DEADLINE = 600.0


class Asker(threading.Thread):
    """One client, until a moment on the monotonic clock."""

    def __init__(self, port: int, client: Client, think: float, tokens: int, until: float) -> None:
        super().__init__(daemon=True)
        self.port, self.client, self.until = port, client, until
        self.think, self.tokens = think, tokens
        self.waits: list[float] = []
        self.failed = ""

    def run(self) -> None:
        try:
            while time.monotonic() < self.until:
                time.sleep(self.client.thinks(self.think))
                wait = self._ask(self.client.model)
                if time.monotonic() < self.until:
                    self.waits.append(wait)
        except (OSError, http.client.HTTPException, BenchError) as error:
            self.failed = f"{type(error).__name__}: {error}"

    def _ask(self, model: str) -> float:
        request = {"model": model, "stream": True, "max_tokens": self.tokens, "messages": MESSAGES}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            began = time.monotonic()
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(request), headers)
            answer = connection.getresponse()
            answer.read(1)
            wait = time.monotonic() - began
            if b"[DONE]" not in answer.read():
                raise BenchError(f"status {answer.status}, and no whole answer")
            return wait
        finally:
            connection.close()


def measure(
    swap_after: float | str, load_sec: float, seed: int, options: argparse.Namespace
) -> Result:
    """One gateway, and its clients for a while."""
    found = find_engine()
    if found is None:
        raise BenchError("the engine and the model of `make run` are not installed")
    engine, model = found
    with Processes() as running:
        starts = running.folder / "starts"
        script = running.folder / "engine.sh"
        script.write_text(
            SCRIPT.format(log=starts, sleep=load_sec, folder=engine.parent, engine=engine)
        )
        script.chmod(0o755)
        port = free_port()
        config = running.folder / "config.yaml"
        config.write_text(json.dumps(configuration(port, script, model, swap_after)))
        command, env = gateway_command(config)
        gateway = running.start("llamagw", command, env)
        running.wait_until(lambda: healthy(port), "llamagw", gateway, "llamagw")
        until = time.monotonic() + options.seconds
        askers = [
            Asker(
                port,
                Client(Random(seed + number), MODELS[number % len(MODELS)], options.turns),
                options.think,
                options.tokens,
                until,
            )
            for number in range(CLIENTS)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(options.seconds + DEADLINE)
        for asker in askers:
            if asker.failed:
                raise BenchError(f"a client failed: {asker.failed}")
        waits = [wait for asker in askers for wait in asker.waits]
        return Result.of(waits, len(starts.read_text().splitlines()), options.seconds)


def configuration(
    port: int, engine: Path, model: Path, swap_after: float | str
) -> dict[str, object]:
    return {
        "listen_addr": f"127.0.0.1:{port}",
        "llama_server_path": str(engine),
        "port_range_start": free_port(),
        "max_loaded_models": ROOM,
        "swap_after_sec": swap_after,
        "models": [
            {"name": name, "model_path": str(model), "threads": 1, "context_size": 2048}
            for name in MODELS
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Models in turn, with the real engine.")
    parser.add_argument("--load-sec", type=float, nargs="+", default=[0, 5], metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=60, help="of each run (default: 60)")
    parser.add_argument("--rounds", type=int, default=2, help="of both (default: 2)")
    parser.add_argument("--think", type=float, default=0.3, help="seconds, on average (0.3)")
    parser.add_argument("--turns", type=float, default=1, help="how likely another model is (1)")
    parser.add_argument("--tokens", type=int, default=4, help="of an answer (default: 4)")
    parser.add_argument("--swap-after", type=float, default=10, help="what auto is compared with")
    options = parser.parse_args()
    print(f"{'loads':>10} {'swap_after_sec':>15}", end="")
    print(f" {'req/h':>8} {'p50':>6} {'p95':>6} {'max':>6} {'loads/h':>8}")
    for load_sec in options.load_sec:
        results: dict[float | str, list[Result]] = {options.swap_after: [], "auto": []}
        for seed in range(options.rounds):
            for swap_after, so_far in results.items():
                so_far.append(measure(swap_after, load_sec, seed, options))
        means = []
        for swap_after, each in results.items():
            one = Result(*(sum(values) / len(each) for values in zip(*each, strict=True)))
            means.append(one)
            print(f"{f'+{load_sec:g} s':>10} {swap_after!s:>15} {one.requests:8.0f}", end="")
            print(f" {one.p50:6.2f} {one.p95:6.2f} {one.longest:6.2f} {one.loads:8.0f}")
        old, new = means
        print(f"{'':10} {'compared':>15} {new.requests / old.requests:7.2f}x", end="")
        print(f" {ratio(new.p50, old.p50)}  {ratio(new.p95, old.p95)}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BenchError as error:
        sys.exit(f"benchmarks/swaps.py: {error}")
