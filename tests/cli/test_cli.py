"""Promises of the `llamagw` command: what each command asks, says, and exits with."""

from __future__ import annotations

import datetime
import http.client
import http.server
import ipaddress
import json
import os
import re
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from llamagw import __version__
from llamagw.cli import remote, show, waiting
from llamagw.cli.client import Client, Failed, configured_url
from llamagw.cli.main import cli
from tests.models.support import gguf_bytes
from tests.support.fake_llama_server import GGUF_HEAD
from tests.whole.harness import DEADLINE, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from llamagw.cli.main import main; main()"]
TALKERS = ("ps", "load x", "unload x", "pin x", "unpin x", "logs x", "logs -f x")


def a_model(name: str, status: str = "unloaded", **more: Any) -> dict[str, Any]:
    """A model as `GET /models` tells it."""
    told = {"value": status, **more.pop("said", {})}
    common = {"aliases": [], "object": "model", "created": 0, "owned_by": "llamagw"}
    numbers = {"context_size": 4096, "size": 96576768, "port": None, "in_flight": 0, "waiting": 0}
    return {"id": name, **common, "status": told, **numbers, "last_used": None, **more}


MODELS = [
    a_model("cold", waiting=1, waiting_sec=131.5, waiting_for="room: `Qwen2.5-7B-Q4_K_M` is busy"),
    a_model(
        "broken",
        said={
            **{"failed": True, "exit_code": 1, "error": "out of\x1b memory"},
            "failed_at": 1_700_000_000.5,
        },
    ),
    a_model(
        "Qwen2.5-7B-Q4_K_M",
        "loaded",
        aliases=["qwen"],
        context_size=8192,
        size=4683073184,
        port=8081,
        in_flight=2,
        waiting=11,
        waiting_sec=12.7,
        waiting_for="its load",
        memory={"rss": 5 * 2**30, "anon": 2**30, "file": 4 * 2**30},
        last_used=1_700_000_000.5,
    ),
    a_model("far", "loaded", size="big", context_size=None),
]


class FakeGateway(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """The management API with answers from a table, on a free port or a unix socket."""

    daemon_threads = True

    def __init__(self, address: Any = ("127.0.0.1", 0), tls: ssl.SSLContext | None = None) -> None:
        self.address_family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        super().__init__(address, _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, Any]] = {
            "/health": (200, {"status": "ok"}),
            "/models": (200, {"object": "list", "data": MODELS}),
            "/models/load": (200, {"success": True}),
            "/models/unload": (200, {"success": True}),
            "/models/pin": (200, {"success": True}),
            "/models/logs": (200, "one\ntwo\nthree\n"),
        }
        #: What a followed log goes on with; None is its end, and it waits for more otherwise.
        self.to_come: list[str | None] = [None]
        self.more = threading.Event()
        #: The paths that are answered when `more` is set.
        self.late: set[str] = set()
        self.before_answer: Callable[[], object] = lambda: None
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)

    @property
    def url(self) -> str:
        if isinstance(self.server_address, str):
            return f"unix:{self.server_address}"
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are a part of these tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeGateway

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body))
        self.server.before_answer()
        where = urlsplit(self.path)
        if where.path in self.server.late:
            self.server.more.wait(DEADLINE)
        status, content = self.server.answers[where.path]
        for lines in parse_qs(where.query).get("lines", []):
            kept = content.splitlines(keepends=True)
            content = "".join(kept[max(len(kept) - int(lines), 0) :])
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        if "follow" in parse_qs(where.query) or (where.path == "/models/sse" and status == 200):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if data:  # or it would be the end
                self.chunk(data)
            for line in self.server.to_come:
                if line is None:
                    self.chunk(b"")
                    return
                self.chunk(line.encode())
            # Not the last chunk: the stream breaks off.
            self.server.more.wait(DEADLINE)
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    do_GET = do_POST = answer

    def log_message(self, *_: Any) -> None: ...

    def address_string(self) -> str:
        return ""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LLAMAGW_URL", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    with FakeGateway() as gateway:
        monkeypatch.setenv("LLAMAGW_URL", gateway.url)
        yield gateway
        gateway.more.set()
        gateway.shutdown()


def llamagw(command: str, status: int = 0, **options: Any) -> Result:
    done = CliRunner().invoke(cli, command.split(), **options)
    assert done.exit_code == status, done.output
    return done


def error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": code}}


# ---- All commands -----------------------------------------------------------------------------


def test_the_version_is_told() -> None:
    assert llamagw("--version").stdout == f"llamagw {__version__}\n"


@pytest.mark.parametrize("name", ["", *cli.commands])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help_with_examples(name: str, flag: str) -> None:
    said = llamagw(f"{name} {flag}", terminal_width=80).stdout
    assert "Examples:" in said
    assert f"llamagw {name}" in said.partition("Examples:")[2]
    assert max(map(len, said.splitlines())) <= 80


def test_a_wrong_call_is_2() -> None:
    for command in ("frobnicate", "load", "ps --frob", "logs -n x y", "init nowhere", "run x y"):
        assert llamagw(command, status=2).stderr


def in_a_fresh_python(code: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_loads_no_reactor() -> None:
    in_a_fresh_python(
        "import sys, llamagw.cli.main, llamagw.cli.init\n"
        "assert 'twisted.internet.reactor' not in sys.modules\n"
        "assert 'twisted' not in sys.modules\n"
    )


def test_the_gateway_loads_nothing_of_the_command() -> None:
    in_a_fresh_python(
        "import sys, twisted.plugins.llamagw_plugin, llamagw.tap, llamagw.service, llamagw.api\n"
        "import llamagw.proxy.relay, llamagw.fleet, llamagw.launch\n"
        "assert 'click' not in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('llamagw.cli')]\n"
    )


# ---- run and check ----------------------------------------------------------------------------


def write_config(**values: Any) -> Path:
    models = [{"name": "a", "model_path": "a.gguf"}]
    config = {"llama_server_path": sys.executable, "models": models, **values}
    path = Path("config.yaml").absolute()
    path.write_text(json.dumps(config))
    Path("a.gguf").write_bytes(GGUF_HEAD)
    return path


def command_line(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": os.getcwd()}
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )


def test_run_serves_until_sigterm_and_ends_with_0() -> None:
    port = free_port()
    write_config(listen_addr=f"127.0.0.1:{port}")
    Path("yaml.py").write_text("raise SystemExit('what lies in the folder is no module')")
    process = command_line("run", "--logfile", "the.log")
    try:

        def up() -> bool:
            assert process.poll() is None, process.communicate()
            # An answer, not only a connection: it listens before it minds signals.
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
            try:
                connection.request("GET", "/health")
                return connection.getresponse().status == 200
            except OSError:
                return False
            finally:
                connection.close()

        wait_until(up, "it serves")
        assert not list(Path().glob("*.pid"))
        process.terminate()
        said, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, "")
    log = Path("the.log").read_text()
    assert "Traceback" not in log
    assert sys.platform != "linux" or "uvloop" in log


def test_run_tells_faults_a_line_each_and_ends_with_1() -> None:
    path = write_config(nonsense=1, max_loaded_models="many")
    process = command_line("run", "config.yaml")
    said, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1
    lines = said.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(str(path)) for line in lines)


def test_check_says_what_twistd_says() -> None:
    path = write_config()
    done = llamagw("check")
    assert done.stdout.startswith(f"{path} is fine.")
    assert f"a: {path.parent / 'a.gguf'}" in done.stdout
    assert llamagw("check config.yaml").stdout == done.stdout
    assert llamagw("check -c config.yaml").stdout == done.stdout


def test_check_says_what_the_settings_have_come_to() -> None:
    models = [
        {"name": "a", "model_path": "a.gguf", "threads": 3, "context_size": 77},
        {"name": "b", "model_path": "a.gguf", "threads": 0, "gpu_layers": -1},
    ]
    write_config(models=models)
    said = llamagw("check").stdout
    assert "3 threads (of " in said
    assert "CPU only, a context of 77 tokens" in said
    assert "automatic threads, all layers on the GPU" in said
    assert "names no model" not in said
    write_config()
    assert llamagw("check").stdout.endswith("A request that names no model gets a.\n")


def test_check_tells_how_much_memory_a_model_takes_on_which_device() -> None:
    models = [
        {"name": "a", "model_path": "a.gguf", "context_size": 32768},
        {"name": "b", "model_path": "a.gguf", "gpu_layers": -1, "extra_args": ["-ot", "x=CPU"]},
    ]
    write_config(models=models)
    Path("a.gguf").write_bytes(gguf_bytes())
    # 2 layers, 2 heads of 16, a key and a value of 2 bytes
    kv = 2 * 2 * 16 * 2 * 2 * 32768 // 2**20
    host, *others = (one for one in llamagw("check").stdout.splitlines() if "estimate)" in one)
    assert re.fullmatch(
        rf"      KV {kv} \+ compute \d+ \+ process 26 = \d+ MiB in RAM \(estimate\)",
        host,
    )
    assert [one.partition(" MiB ")[2] for one in others] == [
        "in RAM (rough estimate)",
        "on GPU (rough estimate)",
    ]
    a, b = (one["memory"] for one in json.loads(llamagw("check --json").stdout)["models"])
    assert (a["from"], a["rough"], [*a["devices"]]) == ("estimate", False, ["host"])
    assert (b["rough"], [*b["devices"]]) == (True, ["host", "GPU"])
    parts = a["devices"]["host"]
    assert parts["kv"] == kv * 2**20
    assert parts.pop("total") == sum(parts.values())


def test_check_counts_a_file_that_is_no_model_as_a_fault_and_says_where() -> None:
    path = write_config()
    Path("a.gguf").write_bytes(b"<!doctype html>")
    done = llamagw("check", status=1)
    assert done.stdout == ""
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"{path}:1: models[0].model_path: {path.parent}/a.gguf is a web page")
    Path("a.gguf").unlink()
    assert "there is no file" in llamagw("check", status=1).stderr


def test_check_tells_of_flags_that_the_engine_does_not_have() -> None:
    Path("engine").write_text("#!/bin/sh\necho '--model FNAME'; echo '--embeddings'\n")
    Path("engine").chmod(0o755)
    model = {"name": "a", "model_path": "a.gguf", "extra_args": ["--embedings"]}
    path = write_config(llama_server_path="./engine", models=[model])
    [line] = llamagw("check", status=1).stderr.splitlines()
    assert line == (
        f"{path}:1: models[0].extra_args[0]: --embedings is no flag of this llama-server; "
        "did you mean --embeddings?"
    )


def test_check_warns_of_an_engine_that_has_no_help() -> None:
    write_config()
    assert "--help failed, so its flags are taken for granted" in llamagw("check").stderr


def test_check_tells_faults_a_line_each_and_ends_with_1() -> None:
    path = write_config(nonsense=1, max_loaded_models="many")
    done = llamagw("check", status=1)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(str(path)) for line in lines)
    assert "nowhere.yaml: cannot be read" in llamagw("check -c nowhere.yaml", status=1).stderr


def test_check_knows_an_address_that_twisted_does_not() -> None:
    write_config(listen_addr="frob:x=1")
    done = llamagw("check", status=1)
    assert len(done.stderr.splitlines()) == 1
    assert "listen_addr" in done.stderr


def test_check_in_json() -> None:
    path = write_config(models=[{"name": "a", "model_path": "a.gguf", "threads": 3}])
    told = json.loads(llamagw("check --json").stdout)
    model = {
        **{"name": "a", "model_path": str(path.parent / "a.gguf"), "urls": []},
        **{"threads": 3, "default": True, "notes": [], "memory": None},
    }
    assert told == {"ok": True, "faults": [], "models": [model], "together": [], "notes": []}
    there = "http://10.0.0.5:8000"
    write_config(models=[{"name": "far", "url": there, "api_key": "secret"}])
    said = llamagw("check --json").stdout
    model = {
        **{"name": "far", "model_path": None, "urls": [there]},
        **{"threads": None, "default": True, "notes": [], "memory": None},
    }
    assert json.loads(said)["models"] == [model]
    assert "secret" not in said
    write_config(max_loaded_models="many")
    told = json.loads(llamagw("check --json", status=1).stdout)
    assert (told["ok"], told["models"]) == (False, [])
    [fault] = told["faults"]
    assert (fault["file"], fault["line"], fault["place"]) == (str(path), 1, "max_loaded_models")
    assert "many" in fault["message"]


# ---- ps -----------------------------------------------------------------------------------------


def test_ps_lists_what_is_in_memory_first(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_190.0)
    assert llamagw("ps").stdout == (
        "NAME               STATUS    SIZE      RSS      FILE     CONTEXT  PORT  ACTIVE  WAITING"
        "  LAST USED\n"
        "Qwen2.5-7B-Q4_K_M  loaded    4.4 GiB   5.0 GiB  4.0 GiB     8192  8081       2       11"
        "  3 min ago\n"
        "far                loaded    -         -        -              -     -       0        0"
        "  -\n"
        "cold               unloaded  92.1 MiB  -        -           4096     -       0        1"
        "  -\n"
        "broken             failed    92.1 MiB  -        -           4096     -       0        0"
        "  -\n"
        "\n"
        "Qwen2.5-7B-Q4_K_M: 11 wait, the first for 12 s, for its load\n"
        "cold: 1 waits for 2 min, for room: `Qwen2.5-7B-Q4_K_M` is busy\n"
        "broken failed 3 min ago: out of? memory\n"
    )


def test_ps_says_which_engines_have_a_socket_in_place_of_a_port(gateway: FakeGateway) -> None:
    told = {"object": "list", "data": [a_model("a", "loaded", socket="/run/1-1.sock")]}
    gateway.answers["/models"] = 200, told
    head, row = llamagw("ps").stdout.splitlines()
    at = head.index("PORT")
    assert row[at : at + 4] == "unix"


def test_ps_of_a_gateway_that_tells_less_leaves_that_out(gateway: FakeGateway) -> None:
    broken = a_model("broken", said={"failed": True, "error": "no"}, waiting=2)
    gateway.answers["/models"] = 200, {"object": "list", "data": [broken]}
    assert llamagw("ps").stdout.partition("\n\n")[2] == "broken: no\n"


def test_ps_tells_of_loads_under_way_idle_timeouts_and_pins(gateway: FakeGateway) -> None:
    data = [
        a_model("a", "loading", load_sec=3.2, usual_sec=11.7),
        a_model("b", "loading", load_sec=0.42),
        a_model("c", "loaded", load_sec=5.0, usual_sec=5.0, unloads_in_sec=130.0, pinned=True),
        a_model("d", usual_sec=5.0, pinned=True),
    ]
    gateway.answers["/models"] = 200, {"object": "list", "data": data}
    assert llamagw("ps").stdout.partition("\n\n")[2].splitlines() == [
        "a has been loading for 3 s, usually 12 s",
        "b has been loading for 0.4 s",
        "c will be unloaded in 2 min if it is not used",
        "pinned: c, d",
    ]


def test_ps_breaks_long_texts_between_words_on_a_terminal(gateway: FakeGateway) -> None:
    error = f"The model `broken` cannot be loaded: {'/a/path' * 15} {'is wrong ' * 200}"
    broken = a_model("broken", said={"failed": True, "error": error})
    gateway.answers["/models"] = 200, {"object": "list", "data": [broken]}
    notes = on_a_terminal(80, NO_COLOR="1").partition("\r\n\r\n")[2].splitlines()
    assert all(line.startswith("  ") for line in notes[1:])
    assert [line for line in notes if len(line) > 80] == [f"  {'/a/path' * 15}"]
    assert (len(notes), notes[-1].endswith(" …")) == (show.NOTE_LINES, True)
    assert error.rstrip() in llamagw("ps").stdout


def test_ps_in_json_is_what_the_gateway_said(gateway: FakeGateway) -> None:
    assert json.loads(llamagw("ps --json").stdout) == {"object": "list", "data": MODELS}


def on_a_terminal(columns: int, command: str = "ps", status: int = 0, **environ: str) -> str:
    """What a command of llamagw shows there."""
    import pty

    main, other = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *command.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": str(columns), **environ},
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    said = b""
    try:
        while data := os.read(main, 4096):
            said += data
    except OSError:
        pass  # Linux: the other end is closed
    finally:
        os.close(main)
    assert process.wait(DEADLINE) == status, said
    return said.decode()


def test_ps_fits_a_terminal_of_80_columns(gateway: FakeGateway) -> None:
    said = on_a_terminal(80)
    assert "\x1b[32m" in said  # loaded is green
    lines = re.sub(r"\x1b\[\d*m", "", said).splitlines()
    assert max(map(len, lines)) <= 80
    assert "PORT" not in lines[0]
    assert lines[1].startswith("Qwen2.5-7B-Q4_K_M ")


def test_an_error_is_told_whole_and_fits_a_terminal_of_80_columns(gateway: FakeGateway) -> None:
    words = [f"reason{number}" for number in range(100)]
    gateway.answers["/models/load"] = 503, error(" ".join(words), "insufficient_memory")
    told = on_a_terminal(80, "load --no-wait a", status=1)
    assert told.split() == ["Error:", *words]
    assert 70 < max(map(len, told.splitlines())) <= 80


def test_ps_shortens_names_where_that_is_not_enough(gateway: FakeGateway) -> None:
    lines = re.sub(r"\x1b\[\d*m", "", on_a_terminal(60)).splitlines()
    assert lines[1].startswith("Qwen")
    assert "…" in lines[1]
    assert max(map(len, lines[:5])) <= 60


def an_account(device: str, **sizes: int) -> dict[str, Any]:
    """The memory of a device as ``GET /health`` tells it; sizes in MiB."""
    told = {"total": 24576, "budget": 23552, "reserve": 1024, "ours": 0, "others": 0, "free": 0}
    return {"device": device, **{key: size * 2**20 for key, size in {**told, **sizes}.items()}}


@pytest.fixture
def counting(gateway: FakeGateway) -> FakeGateway:
    """One that counts memory, with a model in RAM and on a GPU, and one that is not loaded."""
    charges = {"host": 741 * 2**20, "CUDA0": 5734 * 2**20, "CUDA1": 0}
    loaded = a_model(
        "Qwen2.5-7B-Q4_K_M",
        "loaded",
        port=8081,
        memory={"rss": 2**30, "file": 2**29},
        charge=charges,
        charge_from="learned",
        last_used=1_700_000_000.5,
    )
    gateway.answers["/models"] = 200, {"object": "list", "data": [loaded, a_model("cold")]}
    accounts = [
        an_account("host", ours=741, others=4096, free=19739),
        an_account("CUDA0", ours=5734, others=2048, free=16794),
    ]
    memory = {account["device"]: account for account in accounts}
    gateway.answers["/health"] = 200, {"status": "ok", "memory": memory}
    return gateway


def test_ps_tells_what_is_counted_and_who_has_what_of_each_device(counting: FakeGateway) -> None:
    table, _, notes = llamagw("ps").stdout.partition("\n\n")
    rows = [re.split("  +", line) for line in table.splitlines()]
    assert [row[5] for row in rows] == ["CHARGE", "741 MiB + 5.6 GiB CUDA0", "-"]
    assert notes.splitlines() == [
        "host: 741 MiB of 23.0 GiB charged, 19.3 GiB free; others hold 4.0 GiB",
        "CUDA0: 5.6 GiB of 23.0 GiB charged, 16.4 GiB free; others hold 2.0 GiB",
    ]


def test_ps_tells_of_the_devices_before_anything_is_loaded(counting: FakeGateway) -> None:
    counting.answers["/models"] = 200, {"object": "list", "data": [a_model("cold")]}
    said = llamagw("ps").stdout
    assert "  CHARGE  " in said
    assert "\nhost: 741 MiB of 23.0 GiB charged" in said


def test_ps_with_charges_fits_a_terminal_of_80_columns(counting: FakeGateway) -> None:
    lines = on_a_terminal(80, NO_COLOR="1").splitlines()
    assert max(map(len, lines)) <= 80
    assert "741 MiB + 5.6 GiB CUDA0" in lines[1]
    assert lines[1].startswith("Qwen2.5-7B-Q4_K_M  loaded")


@pytest.mark.parametrize(
    "memory",
    [[], "much", {"host": 1}, {"host": {"ours": "a"}}, {"host": an_account("host", free=-1)}],
)
def test_ps_leaves_out_figures_that_are_none(counting: FakeGateway, memory: Any) -> None:
    counting.answers["/health"] = 200, {"status": "ok", "memory": memory}
    said = llamagw("ps").stdout
    assert "Qwen2.5-7B-Q4_K_M  loaded" in said
    assert "CHARGE" not in said
    assert "charged" not in said


def test_ps_bounds_what_it_tells_of_devices(counting: FakeGateway) -> None:
    names = [f"\x1b{'D' * 500}{number}" for number in range(1000)]
    memory = {name: an_account(name) for name in names}
    counting.answers["/health"] = 200, {"status": "ok", "memory": memory}
    notes = llamagw("ps").stdout.partition("\n\n")[2]
    assert len(notes) < 2000
    assert "\x1b" not in notes


def test_no_color_means_no_colour(gateway: FakeGateway) -> None:
    assert "\x1b" not in on_a_terminal(80, NO_COLOR="1")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "just now"), (59, "59 s ago"), (60, "1 min ago"), (7199, "1 h ago"), (200000, "2 d ago")],
)
def test_times_are_told_roughly(seconds: float, shown: str) -> None:
    assert show.ago(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (2**20, "1.0 MiB"), (200 * 2**20, "200 MiB"),
     (2**41, "2048 GiB")],
)  # fmt: skip
def test_sizes_are_told_roughly(count: int, shown: str) -> None:
    assert show.size(count) == shown


@given(st.lists(st.text(max_size=60), min_size=1), st.integers(1, 200))
def test_a_table_is_aligned_and_as_narrow_as_asked(names: list[str], width: int) -> None:
    rows = [[name, "x", "12"] for name in names]
    table = show.table(("NAME", "A", "B"), rows, width, dispensable=("A",))
    lines = [show.GAP.join(row) for row in table]
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= max(width, 12 + 2 + 2)


# ---- load and unload ----------------------------------------------------------------------------


def test_load_waits_and_says_how_long_it_took(gateway: FakeGateway) -> None:
    assert re.fullmatch(r"org/a is loaded \(\d+\.\d s\)\n", llamagw("load org/a").stdout)
    assert gateway.asked == [("POST", "/models/load", {"model": "org/a", "wait": True})]


def test_a_load_is_asked_for_though_it_does_not_fit_if_that_is_said(gateway: FakeGateway) -> None:
    llamagw("load --anyway a")
    llamagw("load --anyway --no-wait a")
    assert [body for _, _, body in gateway.asked] == [
        {"model": "a", "wait": True, "anyway": True},
        {"model": "a", "anyway": True},
    ]


def test_unload_waits_and_says_how_long_it_took(gateway: FakeGateway) -> None:
    assert re.fullmatch(r"a is unloaded \(\d+\.\d s\)\n", llamagw("unload a").stdout)
    llamagw("unload --force a")
    assert [body for _, _, body in gateway.asked] == [
        {"model": "a", "force": False},
        {"model": "a", "force": True},
    ]


def test_load_and_unload_in_json(gateway: FakeGateway) -> None:
    for command in ("load", "unload"):
        told = json.loads(llamagw(f"{command} --json a").stdout)
        assert (told["model"], told["status"]) == ("a", f"{command}ed")
        assert isinstance(told["seconds"], float)


def test_a_load_that_is_not_waited_for_is_only_asked_for(gateway: FakeGateway) -> None:
    assert llamagw("load --no-wait a").stdout == "a is asked for\n"
    assert gateway.asked == [("POST", "/models/load", {"model": "a"})]


def test_pin_and_unpin_say_so(gateway: FakeGateway) -> None:
    assert llamagw("pin a").stdout == "a is pinned\n"
    assert llamagw("unpin a").stdout == "a is not pinned\n"
    assert json.loads(llamagw("pin --json a").stdout) == {"model": "a", "status": "pinned"}
    assert [body["pinned"] for _, _, body in gateway.asked] == [True, False, True]


def progress(**told: Any) -> str:
    """An event of `/models/sse`, for the model `a`."""
    return f"data: {json.dumps({'model': 'a', 'event': 'progress', 'data': told})}\n\n"


LOADING = {"state": "loading", "elapsed_sec": 3.0, "usual_sec": 12.0, "waiting_for": "its load"}
IN_LINE = {
    **{"state": "waiting", "usual_sec": 12.0, "position": 2},
    "waiting_for": "room: `b\x1b` is busy",
}


@pytest.fixture
def slow(gateway: FakeGateway) -> FakeGateway:
    """A gateway that has a load under way, which ends when `more` is set."""
    gateway.answers["/v1/models/x"] = 200, {"id": "x", "alias_of": "a"}
    gateway.answers["/models/sse"] = 200, ""
    gateway.late = {"/models/load"}
    return gateway


def ends_when(gateway: FakeGateway, said: Callable[[], bool], what: str) -> None:
    """Have the load end when the command has said what it is to say."""

    def end() -> None:
        wait_until(said, what)
        gateway.more.set()

    threading.Thread(target=end, daemon=True).start()


def test_who_waits_on_a_pipe_is_told_in_lines(
    slow: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    echo = click.echo

    def heard(text: str, **more: Any) -> None:
        told.append(text)
        echo(text, **more)

    monkeypatch.setattr(click, "echo", heard)
    monkeypatch.setattr(waiting, "BEGIN", 0.01)
    slow.to_come = [
        "data: {}\n\n",
        progress(**IN_LINE),
        progress(**LOADING),
        progress(**LOADING),
    ]
    ends_when(slow, lambda: any("loading" in line for line in told), "the load is told")
    done = llamagw("load x")
    assert re.fullmatch(r"x is loaded \(\d+\.\d s\)\n", done.stdout)
    assert [re.sub(r"\d\.\d s", "T", line) for line in done.stderr.splitlines()] == [
        "x: waiting for T (position 2), for room: `b?` is busy; its load usually takes 12 s",
        "x: loading for 3 s, usually 12 s",
    ]


def test_a_gateway_without_events_is_waited_for_all_the_same(
    slow: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BEGIN", 0.01)
    slow.answers["/models/sse"] = 404, error("nothing there", "path_not_found")
    ends_when(slow, lambda: len(slow.asked) == 3, "it was asked for events")
    assert "x is loaded" in llamagw("load x").stdout


def test_a_load_that_fails_while_it_is_shown_is_one_line_and_1(
    slow: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BEGIN", 0.01)
    slow.answers["/models/load"] = 503, error("out of memory", "model_unavailable")
    ends_when(slow, lambda: len(slow.asked) == 3, "it was asked for events")
    done = llamagw("load x", status=1)
    assert (done.stdout, done.stderr.splitlines()[-1]) == ("", "Error: out of memory")


@pytest.mark.parametrize(
    ("told", "farewell"),
    [
        (LOADING, "Stopped waiting: a goes on loading."),
        (IN_LINE, "Stopped waiting: the order to load a is withdrawn."),
    ],
)
def test_ctrl_c_ends_the_wait_with_130_and_says_what_becomes_of_the_load(
    slow: FakeGateway, told: dict[str, Any], farewell: str
) -> None:
    slow.answers["/v1/models/a"] = 200, {"id": "a"}
    slow.to_come = [progress(**told)]
    process = subprocess.Popen(
        [*COMMAND, "load", "a"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while told["state"] not in (line := process.stderr.readline()):
        assert line, "it ended"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=DEADLINE)
    assert (process.returncode, stdout, stderr) == (130, "", f"{farewell}\n")


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (LOADING, "a: loading [######------------------] 3 s of usually 12 s"),
        ({**LOADING, "done": 0.5}, "a: loading [############------------] 3 s of usually 12 s"),
        ({**LOADING, "elapsed_sec": 99}, f"a: loading [{'#' * 23}-] 1 min of usually 12 s"),
        ({**LOADING, "usual_sec": None}, "a: loading for 3 s"),
        ({**LOADING, "usual_sec": 0.4, "elapsed_sec": 0.1}, "] 0.1 s of usually 0.4 s"),
        ({"state": "waiting", "waiting_for": "its restart in 3 s"}, ", for its restart in 3 s"),
        ({"state": "loaded"}, "a: asked for 0.0 s ago"),
        ({"state": 5, "usual_sec": "x"}, "a: asked for 0.0 s ago"),
        ([], "a: asked for 0.0 s ago"),
    ],
)
def test_what_is_told_is_shown_in_a_line(told: Any, shown: str) -> None:
    display = waiting.Display("a")
    display.progress(told)
    assert display.text(display._at, waiting.BAR).endswith(shown)


def test_a_load_may_take_longer_than_an_answer_at_hand(gateway: FakeGateway) -> None:
    late = threading.Event()
    gateway.before_answer = lambda: late.wait(DEADLINE)
    client = Client(gateway.url, patience=0.05)
    with pytest.raises(Failed, match=r"no answer .* for 0\.05 s"):
        client.models()  # which shows that the patience is over by then
    done: list[str] = []

    def load() -> None:
        client.load("a")
        done.append("loaded")

    thread = threading.Thread(target=load)
    thread.start()
    wait_until(lambda: len(gateway.asked) == 2, "it is asked")
    with pytest.raises(Failed):
        client.models()
    assert thread.is_alive()
    late.set()
    thread.join(DEADLINE)
    assert done == ["loaded"]


def test_the_gateway_s_error_is_told_and_the_status_is_1(gateway: FakeGateway) -> None:
    for command in ("load", "unload"):
        said = error("a cannot be loaded: out of memory", "model_unavailable")
        gateway.answers[f"/models/{command}"] = (503, said)
        done = llamagw(f"{command} a", status=1)
        assert done.stdout == ""
        assert done.stderr == "Error: a cannot be loaded: out of memory\n"
        done = llamagw(f"{command} a --json", status=1)
        assert json.loads(done.stdout) == said


# ---- logs ---------------------------------------------------------------------------------------


def test_logs_prints_the_last_lines(gateway: FakeGateway) -> None:
    assert llamagw("logs org/a&b").stdout == "one\ntwo\nthree\n"
    assert gateway.asked[-1][1] == "/models/logs?model=org%2Fa%26b"
    assert llamagw("logs -n 2 a").stdout == "two\nthree\n"
    assert llamagw("logs -n 0 a").stdout == ""
    assert llamagw("logs -n 9 a").stdout == "one\ntwo\nthree\n"


def test_logs_prints_nothing_that_a_terminal_would_act_upon(gateway: FakeGateway) -> None:
    # A gateway writes them out itself; one of an earlier version does not.
    gateway.answers["/models/logs"] = (200, "\x1b]0;t\x07 one\ttwo \u202e\n")
    gateway.to_come = ["\x1b[2Jthree\n", None]
    plain = "\\x1b]0;t\\x07 one\ttwo \\u202e\n"
    assert llamagw("logs a").stdout == plain
    assert llamagw("logs -f a").stdout == plain + "\\x1b[2Jthree\n"


def test_logs_follows_until_the_gateway_ends_it(gateway: FakeGateway) -> None:
    gateway.to_come = ["four\nfi", "ve\nsix", None]
    assert llamagw("logs -f a").stdout == "one\ntwo\nthree\nfour\nfive\nsix\n"
    assert llamagw("logs -f -n 1 a").stdout == "three\nfour\nfive\nsix\n"
    assert llamagw("logs -f -n 0 a").stdout == "four\nfive\nsix\n"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("logs a", "a has not run yet: llamagw load a\n"),
        ("logs -f a", "a has not run yet: its log follows when it does\n"),
        ("logs -n 0 a", ""),
    ],
)
def test_that_a_model_never_ran_is_told_and_no_failure(
    gateway: FakeGateway, command: str, said: str
) -> None:
    gateway.answers["/models/logs"] = (200, "")
    done = llamagw(command)
    assert (done.stdout, done.stderr) == ("", said)


def test_logs_that_break_off_are_not_taken_for_whole(gateway: FakeGateway) -> None:
    gateway.to_come = ["four\n"]
    gateway.more.set()
    done = llamagw("logs -f a", status=1)
    assert done.stdout.endswith("four\n")
    assert "broke off" in done.stderr


def test_logs_prints_lines_as_they_come_and_ctrl_c_ends_it_with_130(gateway: FakeGateway) -> None:
    gateway.to_come = ["four\n"]
    process = command_line("logs", "-f", "-n", "1", "a", bufsize=1)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["three\n", "four\n"]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert (process.returncode, rest.strip()) == (130, "")


# ---- Which gateway ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", TALKERS)
def test_a_gateway_that_is_not_there_is_one_line(command: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = llamagw(f"{command} --url {url}", status=1)
    assert (done.stdout, done.stderr) == (
        "",
        f"Error: cannot reach llamagw at {url}: connection refused; is it running? (llamagw run)\n",
    )


def test_a_gateway_that_is_not_there_is_json_too() -> None:
    done = llamagw(f"ps --json --url http://127.0.0.1:{free_port()}", status=1)
    assert "connection refused" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("unix:nowhere.sock", "no such file"),
        ("http://nowhere.invalid", "cannot reach llamagw at http://nowhere.invalid: "),
        ("http://a..b", "cannot reach llamagw at http://a..b: "),
    ],
)
def test_places_that_cannot_be_reached_are_one_line(url: str, said: str) -> None:
    [line] = llamagw(f"ps --url {url}", status=1).stderr.splitlines()
    assert said in line


@pytest.mark.parametrize(
    "url",
    ["x:y", ":8000", "ftp://x", "http://", "http://x:99999", "x:99999", "unix:", "x", "http://[x"],
)
def test_what_is_no_url_is_a_wrong_call(url: str) -> None:
    done = llamagw(f"ps --url {url}", status=2)
    assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("command", TALKERS)
def test_another_server_there_is_told(gateway: FakeGateway, command: str) -> None:
    for path in gateway.answers:
        gateway.answers[path] = (404, "<html>")
    done = llamagw(command, status=1)
    assert "answered 404 Not Found; is it llamagw that runs there?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", ["<html>", "[1]", "", '{"data": 1}', '{"data": [{"id": 1}]}'])
def test_an_answer_of_another_kind_is_told(gateway: FakeGateway, content: str) -> None:
    gateway.answers["/models"] = (200, content)
    [line] = llamagw("ps", status=1).stderr.splitlines()
    assert "did not answer as llamagw does" in line


def test_a_unix_socket_can_be_asked() -> None:
    with FakeGateway("gateway.sock") as gateway:
        assert "cold" in llamagw("ps --url unix:gateway.sock").stdout
        write_config(listen_addr="unix:gateway.sock:mode=600")
        assert "cold" in llamagw("ps").stdout
        gateway.shutdown()


def test_https_is_asked_when_its_certificate_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate())
    with FakeGateway(tls=context) as gateway:
        url = gateway.url.replace("http", "https")
        said = llamagw(f"ps --url {url}", status=1).stderr
        assert "its certificate is not trusted (self" in said
        monkeypatch.setenv("SSL_CERT_FILE", "both.pem")
        assert "cold" in llamagw(f"ps --url {url}").stdout
        gateway.shutdown()


def _certificate() -> str:
    """A file with the key and the certificate of 127.0.0.1, signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    Path("both.pem").write_bytes(secret + certificate.public_bytes(pem))
    return "both.pem"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_base_url_of_a_client_will_do(gateway: FakeGateway, suffix: str) -> None:
    llamagw(f"ps --url {gateway.url}{suffix}")
    assert gateway.asked[0][1] == "/models"


@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
def test_a_host_and_a_port_will_do(gateway: FakeGateway, suffix: str) -> None:
    llamagw(f"ps --url {gateway.url.removeprefix('http://')}{suffix}")
    assert gateway.asked[0][1] == "/models"
    assert Client("[::1]:8000").url == "http://[::1]:8000"


def test_a_prefix_of_the_path_is_kept(gateway: FakeGateway) -> None:
    for path in ("/models", "/health"):
        gateway.answers[f"/llm{path}"] = gateway.answers[path]
    llamagw(f"ps --url {gateway.url}/llm/v1")
    assert gateway.asked[0][1] == "/llm/models"


def test_the_url_comes_from_the_nearest_that_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured_url(None) == "http://localhost:8000"

    def asked(command: str) -> str:
        found = re.search(r"cannot reach llamagw at (\S+):", llamagw(command, status=1).stderr)
        assert found is not None
        return found[1]

    Path("home/llamagw").mkdir(parents=True)
    Path("home/llamagw/config.yaml").write_text("listen_addr: 127.0.0.1:5")
    assert asked("ps") == "http://127.0.0.1:5"
    Path("other.yaml").write_text("listen_addr: 127.0.0.1:2")
    Path("config.yaml").write_text("listen_addr: 127.0.0.1:1")
    assert asked("ps") == "http://127.0.0.1:1"
    monkeypatch.setenv("LLAMAGW_URL", "http://127.0.0.1:3")
    assert asked("ps") == "http://127.0.0.1:3"
    assert asked("ps -c other.yaml") == "http://127.0.0.1:2"
    assert asked("ps -c other.yaml --url http://127.0.0.1:4") == "http://127.0.0.1:4"
    monkeypatch.delenv("LLAMAGW_URL")
    Path("config.yaml").write_text("max_loaded_models: 2")
    assert configured_url(None) == "http://localhost:8000"


@pytest.mark.parametrize("content", ["- 1", "a: [", "listen_addr: 7", "listen_addr: x:y:z", "\0"])
def test_a_configuration_that_does_not_say_it_is_told(content: str) -> None:
    Path("config.yaml").write_text(content)
    said = llamagw("ps", status=2).stderr.splitlines()[-1]
    assert said.startswith("Error: config.yaml does not say where llamagw is")
    assert "--url" in said


# ---- Completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    said = llamagw(f"completion {shell}").stdout
    assert f"_LLAMAGW_COMPLETE={shell}_complete" in said
    llamagw("completion tcsh", status=2)


def completed(*words: str) -> list[str]:
    """What bash would offer for the last word, as its script asks for it."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COMP_WORDS": "\n".join(("llamagw", *words))}
    environ |= {"COMP_CWORD": str(len(words)), "_LLAMAGW_COMPLETE": "bash_complete"}
    code = "import sys; sys.argv = ['llamagw']; from llamagw.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.stderr == ""
    return [line.split(",", 1)[1] for line in done.stdout.splitlines() if line]


def test_names_of_models_are_completed_from_the_gateway(gateway: FakeGateway) -> None:
    assert completed("load", "") == ["cold", "broken", "Qwen2.5-7B-Q4_K_M", "qwen", "far"]
    assert completed("unload", "q") == ["qwen"]
    assert completed("un") == ["unload", "unpin"]
    assert completed("logs", "--fo") == ["--follow"]


def test_names_are_completed_from_the_gateway_that_is_named(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMAGW_URL", f"http://127.0.0.1:{free_port()}")
    assert completed("load", "--url", gateway.url, "c") == ["cold"]


def test_without_a_gateway_nothing_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMAGW_URL", f"http://127.0.0.1:{free_port()}")
    assert completed("load", "") == []
    monkeypatch.setenv("LLAMAGW_URL", "nonsense")
    assert completed("load", "") == []


def test_a_gateway_that_does_not_answer_does_not_hang_completion(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    gateway.before_answer = lambda: never.wait(DEADLINE)
    assert remote.COMPLETION_PATIENCE <= 0.5
    assert completed("load", "") == []
    assert len(gateway.asked) == 1
    never.set()
