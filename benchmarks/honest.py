"""An honest client, for hostile.py: asks again and again, and says how long it was kept waiting.

    python benchmarks/honest.py PORT [MODEL]

One kept-alive connection asks ``/health`` every 5 ms; with a model, another one asks it for a short
chat every 20 ms. It goes on until its standard input ends, then prints one JSON object: waits in
milliseconds, how often it was refused or cut off, and how late the machine alone woke it up. It is
a process of its own, so that the attacker's work does not stand in its way.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import sys
import threading
import time

HEALTH_SEC, CHAT_SEC = 0.005, 0.020
#: Seconds after which a wait is given up and counted.
PATIENCE = 120


class Asker:
    """One kept-alive connection, and what it has seen."""

    def __init__(self, port: int, method: str, path: str, body: bytes | None, every: float) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._request = (method, path, body)
        self._every = every
        self._asked_at: float | None = None
        self.waits: list[float] = []
        self.refused = 0
        self.lateness = 0.0

    def run(self, over: threading.Event) -> None:
        """Until it is over."""
        while not over.is_set():
            began = self._asked_at = time.monotonic()
            try:
                self._connection.request(*self._request)
                answer = self._connection.getresponse()
                answer.read()
                self.refused += answer.status != 200
            except (OSError, http.client.HTTPException):
                self.refused += 1
                self._connection.close()
            now = time.monotonic()
            self._asked_at = None
            self.waits.append(now - began)
            time.sleep(self._every)
            self.lateness = max(self.lateness, time.monotonic() - now - self._every)

    def report(self) -> dict[str, float]:
        """What it has seen; a question that is still open counts with the time so far."""
        asked = self._asked_at
        waits = self.waits + ([time.monotonic() - asked] if asked is not None else [])
        return {
            "count": len(waits),
            "refused": self.refused,
            "median_ms": statistics.median(waits or [0.0]) * 1000,
            "longest_ms": max(waits, default=0.0) * 1000,
            "lateness_ms": self.lateness * 1000,
        }


def main() -> None:
    port, *models = sys.argv[1:]
    with contextlib.suppress(OSError):
        os.nice(-10)  # where it may: what is measured is the gateway, not the scheduler
    askers = {"health": Asker(int(port), "GET", "/health", None, HEALTH_SEC)}
    for model in models:
        chat = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
        body = json.dumps(chat).encode()
        askers["chat"] = Asker(int(port), "POST", "/v1/chat/completions", body, CHAT_SEC)
    over = threading.Event()
    for asker in askers.values():
        threading.Thread(target=asker.run, args=(over,), daemon=True).start()
    sys.stdin.read()
    over.set()
    print(json.dumps({name: asker.report() for name, asker in askers.items()}), flush=True)
    os._exit(0)  # an open question is not waited for


if __name__ == "__main__":
    main()
