"""What the fault tests share: a gateway in front of engines that misbehave as they are told.

The gateway is started as a user starts it; its engine is tests/support/fake_llama_server.py, whose
docstring lists what a script can say. A model's script is its model file; a request's is the
`fake` of its body.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.support.fake_llama_server import GGUF_HEAD
from tests.support.messages import Answer, answers
from tests.whole.harness import CHAT, DEADLINE, ROOT, Gateway, Stream, wait_until

FAKE = ROOT / "tests" / "support" / "fake_llama_server.py"
STOCK = "epoll" if sys.platform == "linux" else "select"

Script = Mapping[str, Any]


class Faulty(Gateway):
    """A gateway whose models are scripts.

    :param scripts: the models, by name
    :param files: the limit of open files that it is started with, as `ulimit` takes it
    """

    def __init__(
        self,
        scripts: Mapping[str, Script],
        reactor: str | None = None,
        files: str | None = None,
        **config: Any,
    ) -> None:
        models = [self.entry(name) for name in scripts]
        # Python may sleep through a SIGTERM that another of its threads was given.
        config = {"llama_server_path": str(FAKE), "stop_timeout_sec": 2, **config}
        super().__init__(models, reactor=reactor, **config)
        self.files = files
        self.record_path = self.folder / "record"
        self.tmp = self.folder / "tmp"
        self.tmp.mkdir()
        self.more_environ: dict[str, str] = {}
        for name, script in scripts.items():
            self.script(name, script)

    @staticmethod
    def entry(name: str, **more: Any) -> dict[str, Any]:
        """A model of the configuration."""
        return {"name": name, "model_path": f"{name}.json", **more}

    def script(self, name: str, script: Script) -> None:
        """What the model's engines do from the next start on."""
        content = GGUF_HEAD + json.dumps(script).encode()
        (self.folder / f"{name}.json").write_bytes(content)

    def once(self) -> str:
        """A file for a script's `once`."""
        return str(self.folder / f"once-{time.monotonic_ns()}")

    @property
    def environ(self) -> dict[str, str]:
        # The fake engine's python3 is ours, not a version manager's slow one; and what earlier
        # gateways left is looked for in a place where there were none.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return {
            **super().environ,
            "PATH": path,
            "TMPDIR": str(self.tmp),
            "FAKE_LLAMA": json.dumps({"record": str(self.record_path)}),
            **self.more_environ,
        }

    def command(self, *twistd: str) -> list[str]:
        command = super().command(*twistd)
        if self.files is None:
            return command
        return ["sh", "-c", f'ulimit {self.files}; exec "$@"', "sh", *command]

    def reload(self, **changes: Any) -> None:
        """Change the configuration, and return when the gateway has looked at it."""
        self.config.update(changes)
        self.write_config()
        self.hang_up()

    def hang_up(self) -> None:
        """SIGHUP, and until it has been heard."""
        before = self.log.count("reloaded")
        os.kill(self.pid, signal.SIGHUP)
        wait_until(lambda: self.log.count("reloaded") > before, "the configuration was read again")

    # What can be seen

    def records(self, event: str, model: str | None = None) -> list[dict[str, Any]]:
        """What engines have recorded, in order."""
        if not self.record_path.exists():
            return []
        # The last line may be on its way.
        whole = self.record_path.read_text().rpartition("\n")[0]
        found = [json.loads(line) for line in whole.splitlines()]
        return [line for line in found if line["event"] == event and model in (None, line["model"])]

    def recorded(self, event: str, model: str, count: int = 1) -> dict[str, Any]:
        """The last of so many, once there are."""
        wait_until(
            lambda: len(self.records(event, model)) >= count, f"{count} x {event} of {model}"
        )
        return self.records(event, model)[count - 1]

    def asked(self, model: str) -> list[dict[str, Any]]:
        """The requests of clients that have reached the model's engines."""
        return [r for r in self.records("request", model) if r["method"] == "POST"]

    def starts(self, model: str) -> int:
        return len(self.records("start", model))

    def pid_of(self, model: str) -> int:
        """The engine that was started last."""
        pid: int = self.records("start", model)[-1]["pid"]
        return pid

    def engines(self, model: str) -> list[int]:
        """Its living processes, whatever they record."""
        path = str(self.folder / f"{model}.json")
        return [p.pid for p in self.backends() if path in p.cmdline()]

    def fake(self, model: str, change: Script | None = None) -> Any:
        """What the fake engine itself says, after its script was changed, if asked for."""
        port = self.report(model)["port"]
        reply = self.ask("GET" if change is None else "POST", "/fake", change, port=port)
        assert reply.status == 200, reply
        return reply.json()

    def counts(self) -> tuple[int, int]:
        """In flight and waiting, all models together."""
        models = self.health()["models"]
        return sum(m["in_flight"] for m in models), sum(m["waiting"] for m in models)

    def until_nobody_is_left(self) -> None:
        wait_until(lambda: self.counts() == (0, 0), f"nobody is left: {self.counts()}", 10)

    @property
    def rss(self) -> int:
        rss: int = psutil.Process(self.pid).memory_info().rss
        return rss

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Meanwhile nothing is logged that an operator would have to look at."""
        begin = len(self.log)
        yield
        assert loud(self.log[begin:]) == []

    # Clients

    def raw(self, *says: bytes) -> Raw:
        """A client that speaks bytes."""
        return Raw(self.port, *says)


class Raw:
    """A client's bare connection."""

    def __init__(self, port: int, *says: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        for data in says:
            self.sock.sendall(data)

    def says(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hears(self, deadline: float = DEADLINE) -> bytes:
        """All that comes until the gateway closes the connection, which it must."""
        end, heard = time.monotonic() + deadline, b""
        while True:
            self.sock.settimeout(max(end - time.monotonic(), 0.001))
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                return heard
            except TimeoutError:
                raise AssertionError(f"the connection stays open; heard {heard!r}") from None
            if not data:
                return heard
            heard += data

    def answer(self, deadline: float = DEADLINE) -> Answer:
        """The only answer, and the connection's end."""
        [answer] = answers(self.hears(deadline))
        return answer

    def leaves(self, reset: bool = False) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@contextlib.contextmanager
def running(scripts: Mapping[str, Script], **more: Any) -> Iterator[Faulty]:
    """A gateway that runs meanwhile, ends in order after it, and leaves nothing in any case."""
    gateway = Faulty(scripts, **more)
    try:
        gateway.start()
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


def loud(log: str) -> list[str]:
    """The lines of a log that are above info."""
    marks = ("#warn]", "#error]", "#critical]", "Traceback", "Unhandled")
    return [line for line in log.splitlines() if any(mark in line for mark in marks)]


def code(answer: Any, open_to_all: bool = True) -> str:
    """OpenAI's error code of a reply or an answer, which must be an envelope.

    :param open_to_all: whether a page of any origin may read it
    """
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert answer.headers["Access-Control-Allow-Origin"] == ("*" if open_to_all else None)
    found: str = error["code"]
    return found


def message(answer: Any) -> str:
    found: str = answer.json()["error"]["message"]
    return found


def unchunked(raw: bytes) -> bytes:
    """The body of an only answer, which must be whole."""
    [answer] = answers(raw)
    assert answer.whole, raw[-300:]
    assert answer.status == 200, raw[:300]
    return answer.body


def sse(raw: bytes) -> list[str]:
    """The events of a whole stream, parsed as a browser does; `raw` is the answer."""
    events: list[str] = []
    data: list[str] = []
    for line in unchunked(raw).decode().split("\n"):
        if line.startswith("data: "):
            data.append(line.removeprefix("data: "))
        elif not line and data:
            events.append("\n".join(data))
            data = []
    return events


def assert_whole(stream: Stream) -> None:
    """It ends as a stream ends."""
    events = sse(stream.rest())
    assert events[-1] == "[DONE]", events[-2:]
    assert all("error" not in json.loads(event) for event in events[:-1])


def assert_broken_off(stream: Stream, *codes: str) -> None:
    """It ends with an error event that cannot be taken for an answer's end."""
    events = sse(stream.rest())
    assert "[DONE]" not in events
    assert json.loads(events[-1])["error"]["code"] in (codes or ("backend_lost",)), events[-1]


def refused(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) != 0


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def post(body: bytes | Mapping[str, Any], *headers: str, path: str = CHAT) -> bytes:
    """The bytes of a request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def plain(*names: str) -> dict[str, Script]:
    """Models that do as they should."""
    return {name: {} for name in names}


def asking(name: str, **more: Any) -> dict[str, Any]:
    """A request's body."""
    return {"model": name, "messages": [{"role": "user", "content": "hi"}], **more}


def took(call: Callable[[], Any]) -> float:
    """Seconds."""
    begin = time.monotonic()
    call()
    return time.monotonic() - begin
