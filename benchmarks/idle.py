"""
What an idle llama-server gives back of its memory.

    PYTHONPATH=. python benchmarks/idle.py

Starts the engine of the tests with SmolLM2 three times, sends prompts of 600 words that have
nothing in common, and prints RssAnon of the process: as it is left alone, with its slots erased,
and with the engine's own sleep. Needs Linux, and half a minute.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.whole.harness import engine, free_port, small_model, wait_until

WORDS = ["alpha", "river", "stone", "window", "garden", "silver", "paper", "candle", "winter"]
SLEEP_SEC = 2


class Engine:
    """A llama-server, as the gateway starts it."""

    def __init__(self, folder: str, *flags: str) -> None:
        self.port = free_port()
        command = [engine(), "--model", small_model(), "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--ctx-size", "8192", "--batch-size", "512"]
        command += ["--parallel", "4", "--kv-unified", "--gpu-layers", "0", "--fit", "off"]
        command += ["--slot-save-path", folder, *flags]
        env = {**os.environ, "LD_LIBRARY_PATH": str(engine().parent)}
        self.process = subprocess.Popen(
            list(map(str, command)), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env
        )
        wait_until(lambda: self.ask("/health") is not None, "the engine is ready")

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer to a GET, or to a POST of a body; None where it fails."""
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)
        except OSError:
            return None

    def prompt(self, number: int, words: int = 600) -> None:
        chosen = random.Random(number).choices(WORDS, k=words)
        body = {"prompt": f"{number} {' '.join(chosen)}", "n_predict": 2}
        assert self.ask("/completion", body) is not None

    def anon(self) -> float:
        """RssAnon in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s*(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024


def measure(folder: str, erase: bool = False, sleep: bool = False) -> list[float]:
    """RssAnon when it is ready, after six prompts, idle, and after one more."""
    running = Engine(folder, *(["--sleep-idle-seconds", str(SLEEP_SEC)] if sleep else []))
    try:
        found = [running.anon()]
        for number in range(6):
            running.prompt(number)
        found.append(running.anon())
        if erase:
            for slot in range(4):
                assert running.ask(f"/slots/{slot}?action=erase", {}) is not None
        time.sleep(2 * SLEEP_SEC)
        found.append(running.anon())
        running.prompt(99, words=1)
        return [*found, running.anon()]
    finally:
        running.process.terminate()
        running.process.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        columns = [measure(folder), measure(folder, erase=True), measure(folder, sleep=True)]
    print("| RssAnon, MiB | left alone | slots erased | `--sleep-idle-seconds` |")
    print("|---|---|---|---|")
    for what, *row in zip(
        ("ready", "after six prompts of 600 words", "idle", "after one more, of one word"),
        *columns,
        strict=True,
    ):
        print(f"| {what} | {' | '.join(f'{anon:.1f}' for anon in row)} |")


if __name__ == "__main__":
    main()
