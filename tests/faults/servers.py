"""
Servers that are none of the gateway's, and gateways whose models they have.

Each server is a process of its own (tests/support/fake_llama_server.py), which the gateway has not
started and cannot stop.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.faults.support import FAKE, Faulty, asking, post
from tests.whole.harness import CHAT, DEADLINE, free_port, wait_until

#: Answers that come as slowly as nobody waits for, and soon enough.
SLOW = {"rate": 20, "events": 1000}


class Server:
    """A server that is none of the gateway's.

    :param folder: for its script and what it records
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.model = folder / f"{name}.json"
        self.record_path = folder / f"{name}.record"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **script: Any) -> Server:
        """Returns when it answers."""
        self.model.write_text(json.dumps({"record": str(self.record_path), **script}))
        flags = ["-m", str(self.model), "--port", str(self.port), "--parallel", "64"]
        self.process = subprocess.Popen(
            [sys.executable, "-S", str(FAKE), *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._is_up, f"{self.name} is up")
        return self

    def _is_up(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """At once, and until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(DEADLINE)
            self.process = None

    def answers(self, **script: Any) -> None:
        """From now on, each request like this."""
        self.tell(request=script)

    def tell(self, **script: Any) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as sock:
            sock.sendall(post(script, "Connection: close", path="/fake"))
            while sock.recv(65536):
                pass

    def asked(self) -> int:
        """How many requests of clients have come."""
        if not self.record_path.exists():
            return 0
        whole = self.record_path.read_text().rpartition("\n")[0]
        found = [json.loads(line) for line in whole.splitlines()]
        return sum(line["event"] == "request" and line["method"] == "POST" for line in found)


class Far(Faulty):
    """A gateway whose models live elsewhere."""

    def __init__(self, models: Sequence[dict[str, Any]], **more: Any) -> None:
        super().__init__({}, **more)
        self.config["models"] = list(models)
        del self.config["llama_server_path"]

    def status(self, name: str = "far") -> str:
        found: str = self.report(name)["status"]
        return found

    def until(self, status: str, name: str = "far") -> None:
        wait_until(lambda: self.status(name) == status, f"{name} is {status}")

    def said(self, what: str) -> int:
        """In how many lines of the log."""
        return sum(what in line for line in self.log.splitlines())

    def has_said(self, what: str, times: int) -> bool:
        return self.said(what) == times


@contextlib.contextmanager
def servers(tmp_path: Path, *names: str, **script: Any) -> Iterator[list[Server]]:
    """So many, all the same, that run meanwhile."""
    found = [Server(tmp_path, name) for name in names]
    try:
        yield [server.start(**script) for server in found]
    finally:
        for server in found:
            server.kill()


@contextlib.contextmanager
def gateway(*models: dict[str, Any], **more: Any) -> Iterator[Far]:
    """One that runs meanwhile, and ends in order after it."""
    found = Far(models, **{"health_check_sec": 0.5, **more})
    try:
        found.start()
        yield found
        found.stop()
    finally:
        found.clean_up()


def far(servers: Sequence[Server], name: str = "far") -> dict[str, Any]:
    return {"name": name, "url": [server.url for server in servers]}


def ask(found: Far, **fake: Any) -> Any:
    return found.ask("POST", CHAT, asking("far", fake=fake))
