"""A soak: for a while, everything that can happen happens at random, and every request is counted.

    python benchmarks/soak.py [--seconds 600] [--seed N] [--real]

One gateway, started as a user starts it; three models and room for one. Clients stream, ask
plainly, leave, stall and talk nonsense, all at random, while backends are killed, stopped and
refuse to end, configurations are changed under SIGHUP, and now and then the gateway itself is ended
and started again. The seed decides what each client and each trouble does; when they do it is up to
the machine.

At the end each request is one of: answered whole; refused, with a status and a reason; broken off,
openly; left by its client. Anything else is a failure, as are a lease that is still out, a process
or a descriptor more than at the start, memory that has grown, and a traceback in the log.

The engine is tests/support/fake_llama_server.py, whose docstring lists its faults; with --real it
is llama-server with SmolLM2 under three names.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# The tests' own gateway and engine; not by `import`, as tests are no package to be checked here.
support: Any = importlib.import_module("tests.faults.support")
harness: Any = importlib.import_module("tests.whole.harness")
Faulty, asking, loud, post = support.Faulty, support.asking, support.loud, support.post
engine, small_model, wait_until = harness.engine, harness.small_model, harness.wait_until

NAMES = ("a", "b", "c")
CLIENTS = 12
#: Seconds after which a client that hears nothing counts as left hanging. It may wait its time in
#: the queue, for a backend to be found hung, and in the queue again.
HANGS = 100.0
#: How much a gateway may have grown from warm to the end, in bytes.
GROWTH = 8 * 2**20

#: What can become of a request, in the order of the table. The last ones must not occur.
FATES = {
    "whole": "answered whole",
    "refused": "refused with a status and a reason",
    "told": "stream broken off, with an error event and no [DONE]",
    "incomplete": "plain answer broken off, seen to be incomplete",
    "left": "left by its client",
    "gone": "gateway ended or its connections were closed before it was read",
    "MANGLED": "an answer that is not what was asked for",
    "HANGING": "no answer",
    "SILENT": "connection closed without an answer",
}
BAD = ("MANGLED", "HANGING", "SILENT")


class Soak:
    """One run."""

    def __init__(self, seconds: float, seed: int, real: bool) -> None:
        self.seconds, self.seed, self.real = seconds, seed, real
        self.over = threading.Event()
        self.fates: collections.Counter[str] = collections.Counter()
        self.reasons: collections.Counter[str] = collections.Counter()
        self.troubles: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.lock = threading.Lock()
        #: Held while the gateway is down; a client that meets that counts as "gone".
        self.down = threading.Event()
        self.restarts = 0
        self.errors_in_log = 0
        self.grown: list[int] = []
        self.warm = 0
        self.gateway = self.make()

    # The gateway

    def make(self) -> Any:
        config: dict[str, Any] = {
            "max_loaded_models": 1,
            "swap_after_sec": 0.3,
            "health_check_sec": 1,
            "stop_timeout_sec": 1,
            "drain_sec": 2,
            "client_stall_sec": 3,
            "request_timeout_sec": 5,
            "queue_timeout_sec": 20,
            "max_queue": 50,
        }
        if self.real:
            gateway: Any = Faulty(support.plain(*NAMES), llama_server_path=str(engine()), **config)
        else:
            gateway = Faulty(support.plain(*NAMES), **config)
            # A record of every event would be the largest file of it all.
            gateway.more_environ["FAKE_LLAMA"] = "{}"
        gateway.config["models"] = [self.entry(name) for name in NAMES]
        return gateway

    def entry(self, name: str, **more: Any) -> dict[str, Any]:
        if not self.real:
            return dict(Faulty.entry(name, **more))
        common = {"context_size": 2048, "threads": 2, "extra_args": ["--no-warmup"]}
        return {"name": name, "model_path": str(small_model()), **common, **more}

    def run(self) -> bool:
        """To its end; whether all is well."""
        self.say(f"seed {self.seed}, {self.seconds:g} s, {'real' if self.real else 'fake'} engine")
        before = len(psutil.Process().children(recursive=True)), descriptors()
        try:
            self.gateway.start()
            self.files_at_start = psutil.Process(self.gateway.pid).num_fds()
            self.work()
            self.settle()
            self.gateway.terminate()
            status = self.gateway.wait()
            self.expect(status == 0, f"the gateway ended with {status}")
            self.look_at_log()
            left = self.gateway._ours()
            self.expect(not left, f"processes are left: {left}")
        finally:
            self.gateway.clean_up()
        after = len(psutil.Process().children(recursive=True)), descriptors()
        self.expect(after == before, f"children, descriptors: {before} before, {after} after")
        self.report()
        return not self.faults

    def work(self) -> None:
        threads = [
            threading.Thread(target=self.client, args=(random.Random(f"{self.seed}/{n}"),))
            for n in range(CLIENTS)
        ]
        threads.append(threading.Thread(target=self.trouble))
        for thread in threads:
            thread.start()
        self.over.wait(self.seconds)
        self.over.set()
        for thread in threads:
            thread.join(HANGS + 30)
            self.expect(not thread.is_alive(), "a client does not come to its end")

    def settle(self) -> None:
        """Nobody asks any more: nothing may be left of those who did."""
        with self.checked("leases are still out, or somebody waits"):
            self.gateway.until_nobody_is_left()
        self.gateway.reload(models=[self.entry(name) for name in NAMES])
        for name in NAMES:
            with self.checked(f"{name} is not served in the end"):
                self.gateway.script(name, {})
                wait_until(lambda name=name: self.gateway.chat(name).status == 200, name, 70)
        process = psutil.Process(self.gateway.pid)
        room = 4  # the backend's pipes, a connection to it, and one to ask by
        with self.checked("descriptors are left"):
            wait_until(
                lambda: process.num_fds() <= self.files_at_start + room,
                f"{process.num_fds()} descriptors, {self.files_at_start} at the start",
                10,
            )
        self.measure()

    def measure(self) -> None:
        if self.warm:
            grown = self.gateway.rss - self.warm
            self.grown.append(grown)
            self.expect(grown < GROWTH, f"the gateway has grown by {grown / 2**20:.1f} MB")
        self.warm = 0

    def look_at_log(self) -> None:
        for line in loud(self.gateway.log):
            self.errors_in_log += "#error]" in line
            if "Traceback" in line or "Unhandled" in line:
                self.expect(False, f"in the log: {self.gateway.log[-3000:]}")
                break

    @contextlib.contextmanager
    def checked(self, what: str) -> Iterator[None]:
        try:
            yield
        except (AssertionError, OSError) as error:
            self.expect(False, f"{what}: {error}")

    def expect(self, truth: object, what: str) -> None:
        if not truth:
            with self.lock:
                self.faults.append(what)
            self.say(f"FAILURE: {what}")

    def say(self, what: str) -> None:
        print(what, flush=True)

    # Clients

    def client(self, chance: random.Random) -> None:
        while not self.over.is_set():
            kind = chance.choices(
                [self.asks, self.leaves, self.stalls, self.talks_nonsense, self.looks],
                [60, 25, 1, 7, 7],
            )[0]
            restarts = self.restarts
            try:
                fate = kind(chance)
            except (ConnectionError, TimeoutError) as error:
                fate = "HANGING" if isinstance(error, TimeoutError) else "SILENT"
            # A gateway that is ended closes connections on which no answer is under way.
            if fate == "SILENT" and (self.down.is_set() or restarts != self.restarts):
                fate = "gone"
                self.over.wait(0.1)
            with self.lock:
                self.fates[fate] += 1
            if fate == "refused":
                self.over.wait(chance.uniform(0, 0.4))  # most clients try again later
            if fate in BAD:
                self.expect(False, f"{kind.__name__}: {fate}")

    def body(self, chance: random.Random) -> dict[str, Any]:
        name = chance.choices([*NAMES, "nobody"], [60, 25, 14, 1])[0]
        events = chance.choice([1, 3, 8, 30])
        more: dict[str, Any] = {"stream": chance.random() < 0.6, "max_tokens": events}
        if self.real:
            return dict(asking(name, temperature=0, ignore_eos=True, **more))
        script: dict[str, Any] = {"rate": chance.choice([0, 0, 50, 200])}
        if chance.random() < 0.1:
            script["delay"] = chance.uniform(0, 0.5)
        if chance.random() < 0.02:
            script |= {
                "fault": chance.choice(["kill", "segv", "exit", "close", "reset"]),
                "when": chance.choice(["before_head", "after_head", "mid_body", "between_events"]),
                "at": 0,
            }
        return dict(asking(name, fake=script, **more))

    def open(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.gateway.port), timeout=HANGS)

    def asks(self, chance: random.Random) -> str:
        """One who wants an answer, and looks whether it is whole."""
        body = self.body(chance)
        with self.open() as sock:
            sock.sendall(post(body, "Connection: close"))
            try:
                return self.judge(body, hear(sock))
            except TimeoutError:
                self.say(f"{time.strftime('%X')}: no answer for {HANGS:g} s to {body}")
                self.say(json.dumps(self.gateway.health(), indent=1))
                self.say("".join(self.gateway.log.splitlines(True)[-200:]))
                raise

    def judge(self, body: dict[str, Any], heard: bytes) -> str:
        head, _, rest = heard.partition(b"\r\n\r\n")
        if not rest:
            return "SILENT" if not head else "incomplete"
        status = int(head.split(b" ")[1])
        framed = b"transfer-encoding: chunked" in head.lower()
        content, ended = unchunk(rest) if framed else (rest, length(head) == len(rest))
        if status != 200:
            code = json.loads(content)["error"]["code"] if ended else None
            with self.lock:
                self.reasons[f"{status} {code}"] += 1
            return "refused" if code else "MANGLED"
        if not ended:
            return "incomplete" if not body["stream"] else "MANGLED"
        if not body["stream"]:
            answer = json.loads(content)
            right = answer["usage"]["completion_tokens"] == body["max_tokens"]
            return "whole" if right else "MANGLED"
        events = [e for e in content.decode().split("\n\n") if e.strip()]
        if events[-1] == "data: [DONE]":
            return "whole" if len(events) > body["max_tokens"] else "MANGLED"
        told = json.loads(events[-1].removeprefix("data: "))["error"]
        with self.lock:
            self.reasons[f"event {told['code']}"] += 1
        return "told"

    def leaves(self, chance: random.Random) -> str:
        """One who goes away, at any moment, in one way or the other."""
        data = post(self.body(chance))
        if chance.random() < 0.2:
            data = data[: chance.randrange(len(data))]
        with self.open() as sock:
            sock.sendall(data)
            self.over.wait(chance.uniform(0, 0.5))
            if chance.random() < 0.5:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return "left"

    def stalls(self, chance: random.Random) -> str:
        """One who asks for much and does not read it; it is for the gateway to end that."""
        body = self.body(chance)
        if not self.real:
            body["fake"] = {"raw": chance.choice(["flood", "flood_plain"])}
        with self.open() as sock:
            sock.sendall(post(body))
            self.over.wait(chance.uniform(1, 6))
        return "left"

    def talks_nonsense(self, chance: random.Random) -> str:
        """One who does not speak HTTP, or not of this world; an answer is due all the same."""
        data = chance.choice(
            [
                b"nonsense\r\n\r\n",
                post(b"{", "Connection: close"),
                post(b"[]", "Connection: close"),
                post({"model": 1}, "Connection: close"),
                post({"model": "a"}, "Content-Length: 3"),
                post({"model": "a"}, "X : y"),
                post({"model": "a"}).replace(b"\r\n", b"\n"),
                b"GET /nowhere HTTP/1.1\r\nConnection: close\r\n\r\n",
                b"PATCH /health HTTP/1.1\r\nConnection: close\r\n\r\n",
            ]
        )
        with self.open() as sock:
            sock.sendall(data)
            heard = hear(sock)
        if not heard:
            return "SILENT"
        with self.lock:
            self.reasons[f"{int(heard.split(b' ')[1])} nonsense"] += 1
        return "refused" if heard.startswith(b"HTTP/1.1 4") else "MANGLED"

    def looks(self, chance: random.Random) -> str:
        """One who looks how things are."""
        path = chance.choice([b"/health", b"/v1/models", b"/v1/models/a"])
        with self.open() as sock:
            sock.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path)
            head, _, content = hear(sock).partition(b"\r\n\r\n")
        if not head:
            return "SILENT"
        return "whole" if length(head) == len(content) else "MANGLED"

    # Troubles

    def trouble(self) -> None:
        chance = random.Random(f"{self.seed}/trouble")
        restart_at = time.monotonic() + chance.uniform(25, 45)
        warm_at = time.monotonic() + 10
        kinds: dict[Callable[[random.Random], None], int] = {
            self.kill: 4, self.stop: 1, self.spoil: 3, self.reload: 5, self.spoil_config: 2,
        }  # fmt: skip
        while not self.over.wait(chance.uniform(0.3, 2.5)):
            now = time.monotonic()
            if not self.warm and now > warm_at:
                self.warm = self.gateway.rss
            try:
                if now > restart_at:
                    self.restart()
                    warm_at = time.monotonic() + 10
                    restart_at = time.monotonic() + chance.uniform(25, 45)
                else:
                    kind = chance.choices(list(kinds), list(kinds.values()))[0]
                    kind(chance)
                    self.troubles[kind.__name__] += 1
            except (AssertionError, OSError) as error:
                self.expect(False, f"trouble: {error!r}")

    def kill(self, chance: random.Random) -> None:
        for process in self.gateway.backends():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def stop(self, chance: random.Random) -> None:
        for process in self.gateway.backends()[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def spoil(self, chance: random.Random) -> None:
        """The next starts of a model go another way."""
        if self.real:
            return
        scripts: list[dict[str, Any]] = [
            {}, {}, {"load_sec": 0.5}, {"sigterm": "ignore"}, {"sigterm": "linger"},
            {"once": self.gateway.once(), "fail": "bad_model"},
            {"once": self.gateway.once(), "fail": "oom", "fail_after_sec": 0.1},
            {"once": self.gateway.once(), "fail": "port"},
            {"keepalive_sec": 0.1}, {"keepalive_max": 3},
        ]  # fmt: skip
        self.gateway.script(chance.choice(NAMES), chance.choice(scripts))

    def reload(self, chance: random.Random) -> None:
        models = [self.entry(name) for name in NAMES]
        changed = chance.randrange(3)
        if chance.random() < 0.5:
            models[changed]["batch_size"] = chance.choice([64, 128, 256])
        if chance.random() < 0.1:
            del models[changed]
        self.gateway.reload(
            models=models,
            max_loaded_models=chance.choice([1, 1, 1, 2]),
            swap_after_sec=chance.choice([0.1, 0.3, 1, "auto"]),
            max_queue=chance.choice([5, 50]),
            stream_keepalive_sec=chance.choice([0, 0, 0.2]),
        )

    def spoil_config(self, chance: random.Random) -> None:
        path = self.gateway.write_config()
        path.write_text(chance.choice(["models: [", "max_queue: many", ""]))
        self.gateway.hang_up()
        self.gateway.write_config()

    def restart(self) -> None:
        """SIGTERM, and a new one in its place; the port is the same."""
        self.measure()
        self.down.set()
        try:
            self.gateway.config["models"] = [self.entry(name) for name in NAMES]
            self.gateway.terminate()
            status = self.gateway.wait()
            self.expect(status == 0, f"the gateway ended with {status}")
            self.expect(not self.gateway._ours(), "a backend outlives the gateway")
            self.look_at_log()
            self.gateway.start()
            self.files_at_start = psutil.Process(self.gateway.pid).num_fds()
            self.restarts += 1
        finally:
            self.down.clear()

    # The end

    def report(self) -> None:
        rows = [("requests", str(sum(self.fates.values())))]
        rows += [(FATES[fate], str(self.fates[fate])) for fate in FATES]
        rows += [(f"- {reason}", str(count)) for reason, count in sorted(self.reasons.items())]
        rows += [(f"trouble: {kind}", str(n)) for kind, n in sorted(self.troubles.items())]
        rows.append(("trouble: restart", str(self.restarts)))
        grown = ", ".join(f"{size / 2**20:+.1f}" for size in self.grown)
        rows.append(("growth of each gateway, MB", grown))
        rows.append(("failures", str(len(self.faults))))
        print(f"\n| seed {self.seed}, {self.seconds:g} s | |\n|---|---|")
        for what, count in rows:
            print(f"| {what} | {count} |")


def descriptors() -> int:
    return psutil.Process().num_fds()


def hear(sock: socket.socket) -> bytes:
    """All that comes until the other side closes; a reset after some of it is an end too."""
    heard = b""
    try:
        while data := sock.recv(65536):
            heard += data
    except ConnectionError:
        if not heard:
            raise
    return heard


def length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return -1


def unchunk(data: bytes) -> tuple[bytes, bool]:
    """What is inside, and whether its last chunk has come."""
    content = b""
    while True:
        line, mark, data = data.partition(b"\r\n")
        if not mark or not line:
            return content, False
        size = int(line, 16)
        if size == 0:
            return content, data == b"\r\n"
        if len(data) < size + 2:
            return content + data[:size], False
        content, data = content + data[:size], data[size + 2 :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--real", action="store_true", help="llama-server and SmolLM2")
    given = parser.parse_args()
    # Ctrl-C ends it early, with all that is due at the end.
    soak = Soak(given.seconds, given.seed, given.real)
    signal.signal(signal.SIGINT, lambda *_: soak.over.set())
    return 0 if soak.run() else 1


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    raise SystemExit(main())
