#!/usr/bin/env -S python3 -S
"""A stand-in for llama-server that needs no model and misbehaves on command.

It takes llama-server's flags (unknown ones are accepted and ignored), loads, answers and logs as
build 10068 of the real one does, and starts as fast as Python does (therefore `-S`, and only the
standard library). It serves raw sockets, a thread each, so that it can be wrong in every byte. What
it does not do: run a model. Its tests are in test_fake_llama_server.py.

A *script* is a JSON object. The process's script is FAKE_LLAMA (environment), then the model
file's content on top (`-m`: a small text file, empty or a JSON object, behind the head of a GGUF
file or without one; a file of anything else is a corrupt model, as a missing one is missing, except
that a real GGUF is an empty script). A
request's script is the process's `request` key, then the body's `fake`, then the header `X-Fake`.
`POST /fake` merges an object into the process's script while it runs; `GET /fake` tells pid, port,
script and the requests in flight with the bytes sent so far. Neither is blocked, counted or wants a
key; where there are keys (`--api-key`, LLAMA_API_KEY), the rest does, as the real one's.

Every script may say `once: PATH` (with `times: N`, default 1): it is used by the first N processes
or requests that meet that file, after which it counts as empty. So "the first start fails, the next
one works" is {"fail": "exit", "once": "/tmp/x/first"}.

The process's script:

  key               default   what it does
  ----------------  --------  ------------------------------------------------------------------
  load_sec          0         time from start to ready; until then everything answers 503
  load_progress     output    meanwhile: `output` (log lines), `cpu` (burns CPU time, silent),
                              `read` (reads a file over and over, silent), `none` (silent, idle)
  bind              early     `early`: answers 503 while loading; `late`: refuses until loaded
  fail              -         fails to load. `exit`: with `exit_code` (1) and the `stderr` lines;
                              the real one's words and status: `missing_model`, `bad_model`,
                              `truncated_model`, `port`, `flag`, `library` (127), `cuda_memory`;
                              `oom` (SIGKILL to itself), `segv`, `hang` (SIGSTOP to itself),
                              `never` (503 for ever)
  fail_after_sec    0         how far into the load it fails; 0: at once, before the port is bound
  exit_code, stderr 1, []     for fail `exit`
  crash_after_sec   -         SIGKILL to itself this long after it was ready
  blocked           -         (POST /fake) true: no handler answers any more; false: new ones do
  health            ok        /health of a ready server: `ok`, `hang`, `close`, or a status number
  sigterm           exit      `exit` with 0; `ignore`; `linger`: streams stop, they get a `:` ping
                              now and then, exit with 0 after `sigterm_sec` (30): what the real one
                              does when a stream is open
  keepalive_sec     5         an idle connection is closed after this
  keepalive_max     100       requests on one connection
  log               -         at start: {"lines": N, "width": W, "newline": true, "binary": false,
                              "to": "stderr"}; a request's script may have it too
  grandchild_sec    -         a child of its own holds stdout and stderr open for so long
  unknown_flags     []        these are not in --help and are refused as the real one does
  help              ok        --help: `ok`, `fail` (status 1), `hang`
  record            -         a file; one JSON line for each event: `start` (pid, argv, port,
                              library_path), `grandchild`, `listening`, `ready`, `sigterm`,
                              `connected`, `closed`, `request` (id, connection, method, path,
                              headers, body_len, body_sha256), `finish` (id, sent), `disconnect`
                              (id, sent: its client left before the answer was whole), `fault`
                              (id, fault, sent: it did as the script said); each with pid, model, t
  request           {}        the script of requests that bring none (not of GETs)

A request's script:

  key               default   what it does
  ----------------  --------  ------------------------------------------------------------------
  delay             0         seconds before the first byte of the answer
  events            8         content events of a stream (also: `max_tokens` of the body). Before
                              them comes chat's role event, after them the finish event, usage if
                              asked for, and [DONE]
  rate              0         content events a second; 0: as fast as they go
  text              -         the content of every event; without it "t0 ", "t1 ", ...
  status            200       with `body` (a string, or JSON), `content_type`, `headers` ([[k, v]]):
                              that answer, whatever was asked
  framing           length    of `status` and `echo` answers: `length`, `chunked`, `close`
  echo              false     answers with what it received: method, path, headers, body_len,
                              body_sha256, pid, port, connection, served (on that connection)
  read_rate         -         bytes a second at which the body is read (X-Fake or `request` only)
  early             false     answers without having read the body, then closes (as read_rate)
  fault             -         `kill`, `segv`, `exit` (`exit_code`), `hang` (SIGSTOP): the process;
                              `block`: no handler answers any more, nor /health;
                              `close`, `reset`: this connection only;
                              `stall`: this request only, for `stall_sec` (for ever), then goes on:
                              a long prompt, while /health answers
  when              before_head  the fault strikes: `before_head`, `after_head`, `mid_body` (half of
                              a plain body; half of an event), `between_events`
  at                2         events of a stream that are whole before the fault
  raw               -         wrong (or rare) bytes, one of:
                              garbage            no HTTP at all, then closes
                              empty              closes without a byte
                              endless_header     headers that never end, 100 each `byte_sec` (0.001)
                              endless_line       a header line that never ends, likewise
                              two_lengths        two Content-Lengths that differ
                              length_chunked     Content-Length and Transfer-Encoding together
                              continue           100 Continue before the answer
                              early_hints        two 103s before the answer
                              switching          101 that nobody asked for
                              http10             HTTP/1.0, no length, ends by close
                              no_length          HTTP/1.1, no length, ends by close
                              cut_chunk          closes inside a chunk
                              cut_chunks         closes between chunks, no last chunk
                              bad_chunk          a chunk size that is no number
                              trailers           chunk extensions and trailers, all legal
                              short_body         closes before Content-Length is reached
                              long_body          more bytes than Content-Length
                              after_204          a body after 204
                              after_304          a body after 304
                              second_answer      a whole answer that nobody asked for follows
                              stale              good answer, then closes, without having said so
                              bare_lf            lines end with a bare LF
                              obs_fold           a folded header
                              space_colon        a space before a header's colon
                              nul_header         a NUL in a header's value
                              big_header         a header line of 100 kB
                              slow               good answer, a byte each `byte_sec` (0.01)
                              flood              an event stream without end, as fast as it goes
                              flood_plain        the same as a plain body, chunks of 64 KiB

For example: {"load_sec": 0.3, "sigterm": "ignore"} in the model file, and a request with
{"fake": {"fault": "kill", "when": "mid_body", "at": 3}} in its body.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

Script = dict[str, Any]
Headers = list[tuple[str, str]]

STARTED = time.monotonic()
FINGERPRINT = "b1-571d0d5"
JSON_TYPE = "application/json; charset=utf-8"
REASONS = {
    200: "OK", 204: "No Content", 304: "Not Modified", 400: "Bad Request", 401: "Unauthorized",
    404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error",
    501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip
LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
WRONG_KEY = {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}
NOT_FOUND = {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}
PUBLIC = ("/health", "/models", "/", "/index.html", "/favicon.ico")  # without a key
INFERENCE = ("/chat/completions", "/completions", "/completion", "/embeddings", "/rerank")

# Flags as --help shows them; a flag that takes a value names it.
HELP = """\
----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-t,    --threads N                      number of CPU threads to use during generation
                                        (default: -1)
                                        (env: LLAMA_ARG_THREADS)
-c,    --ctx-size N                     size of the prompt context (default: 0)
                                        (env: LLAMA_ARG_CTX_SIZE)
-b,    --batch-size N                   logical maximum batch size (default: 2048)
                                        (env: LLAMA_ARG_BATCH)
-ub,   --ubatch-size N                  physical maximum batch size (default: 512)
                                        (env: LLAMA_ARG_UBATCH)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use (default: 'auto')
                                        (env: LLAMA_ARG_FLASH_ATTN)
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
                                        (default: auto)
                                        (env: LLAMA_ARG_N_GPU_LAYERS)
-m,    --model FNAME                    model path to load
                                        (env: LLAMA_ARG_MODEL)


----- example-specific params -----

-kvu,  --kv-unified, -no-kvu, --no-kv-unified
                                        use single unified KV buffer shared across all
                                        sequences (default: enabled if slots are auto)
                                        (env: LLAMA_ARG_KV_UNIFIED)
--pooling {none,mean,cls,last,rank}     pooling type for embeddings
                                        (env: LLAMA_ARG_POOLING)
-np,   --parallel N                     number of server slots (default: -1, -1 = auto)
                                        (env: LLAMA_ARG_N_PARALLEL)
-a,    --alias STRING                   set model name aliases, comma-separated
                                        (env: LLAMA_ARG_ALIAS)
--host HOST                             ip address to listen (default: 127.0.0.1)
                                        (env: LLAMA_ARG_HOST)
--port PORT                             port to listen (default: 8080)
                                        (env: LLAMA_ARG_PORT)
--reuse-port                            allow multiple sockets to bind to the same port
                                        (default: disabled)
                                        (env: LLAMA_ARG_REUSE_PORT)
--api-key KEY                           API key to use for authentication, multiple keys can
                                        be provided as a comma-separated list (default: none)
                                        (env: LLAMA_API_KEY)
--embedding, --embeddings               restrict to only support embedding use case; use
                                        only with dedicated embedding models
                                        (env: LLAMA_ARG_EMBEDDINGS)
--metrics                               enable prometheus compatible metrics endpoint
                                        (env: LLAMA_ARG_ENDPOINT_METRICS)
--slots, --no-slots                     expose slots monitoring endpoint
                                        (env: LLAMA_ARG_ENDPOINT_SLOTS)
"""

# The real engine's last words, by fault; {m} is the model's path, {p} the port.
_EXITING = ["srv    operator(): operator(): cleaning up before exit..."]
_NOT_LOADED = [
    "llama_model_load_from_file_impl: failed to load model",
    "cmn  common_init_: failed to load model '{m}'",
    "srv    load_model: failed to load model, '{m}'",
    *_EXITING,
    "srv  llama_server: exiting due to model loading error",
]
_CUDA = "ggml_backend_cuda_buffer_type_alloc_buffer: "
_CUT_SHORT = (
    "tensor 'token_embd.weight' data is not within the file bounds, "
    "model is corrupted or incomplete"
)
_LOAD_FAILED = "llama_model_load: error loading model: "
LAST_WORDS: dict[str, list[str]] = {
    "missing_model": [
        "gguf_init_from_file: failed to open GGUF file '{m}' (No such file or directory)",
        _LOAD_FAILED + "llama_model_loader: failed to load model from {m}",
        *_NOT_LOADED,
    ],
    "bad_model": [
        "gguf_init_from_reader: invalid magic characters: 'garb', expected 'GGUF'",
        _LOAD_FAILED + "llama_model_loader: failed to load model from {m}",
        *_NOT_LOADED,
    ],
    "truncated_model": [
        _LOAD_FAILED + _CUT_SHORT,
        *_NOT_LOADED,
    ],
    "cuda_memory": [
        _CUDA + "allocating 15000.00 MiB on device 0: cudaMalloc failed: out of memory",
        "alloc_tensor_range: failed to allocate CUDA0 buffer of size 15728640000",
        _LOAD_FAILED + "unable to allocate CUDA0 buffer",
        *_NOT_LOADED,
    ],
    "port": [
        "srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: {p}",
        *_EXITING,
        "srv  llama_server: exiting due to HTTP server error",
    ],
}


class Gone(Exception):
    """The peer has left."""


class Close(Exception):
    """The script says that this connection is closed now."""


def log(line: str, level: str = "I") -> None:
    micro = int((time.monotonic() - STARTED) * 1e6)
    stamp = f"{micro // 60_000_000}.{micro // 1_000_000 % 60:02}"
    stamp += f".{micro // 1000 % 1000:03}.{micro % 1000:03}"
    with suppress(OSError):  # who reads it may be gone
        os.write(2, f"{stamp} {level} {line}\n".encode())


def log_much(script: Script) -> None:
    fd = 1 if script.get("to") == "stdout" else 2
    fill = b"\xff\xfe\x00" if script.get("binary") else b"log "
    width = script.get("width", 80)
    line = (fill * (width // len(fill) + 1))[:width]
    if script.get("newline", True):
        line += b"\n"
    for _ in range(script.get("lines", 1)):
        left = line
        while left:
            left = left[os.write(fd, left) :]


def current(script: Script) -> Script:
    """The script, or what counts as empty when its `once` has been used up."""
    path = script.get("once")
    if path is None:
        return script
    with open(path, "ab") as used:
        fcntl.flock(used, fcntl.LOCK_EX)
        if used.tell() < script.get("times", 1):
            used.write(b".")
            return script
    return {key: script[key] for key in ("record",) if key in script}


#: The head of a GGUF file without keys and tensors: before a script, it makes a file that the
#: gateway takes for a model.
GGUF_HEAD = struct.pack("<4sIQQ", b"GGUF", 3, 0, 0)


def parse(text: bytes | str) -> Script:
    found = json.loads(text) if text.strip() else {}
    if isinstance(found, dict):
        return found
    raise ValueError("a script is a JSON object")


class Server:
    """The process: its flags, its script, its load, its end."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.model, self.host, self.port, self.alias, self.slots = "", "127.0.0.1", 8080, "", 4
        self.context = 4096
        self.embeddings = self.metrics = self.reuse_port = False
        self.keys: list[str] = []
        self.ready = threading.Event()
        self.blocked = threading.Event()
        self.lingering = threading.Event()
        self.lock = threading.Lock()
        self.busy: set[int] = set()  # slots
        self.active: dict[int, Connection] = {}  # by request
        self.requests = self.connections = 0
        self.listener: socket.socket | None = None
        self.script = parse(os.environ.get("FAKE_LLAMA", ""))
        if "--api-key" not in self.script.get("unknown_flags", []):
            self.add_keys(os.environ.get("LLAMA_API_KEY", ""))

    # -- flags ------------------------------------------------------------------------------

    def read_flags(self) -> None:
        values: dict[str, Callable[[str], None]] = {}

        def takes(attribute: str, kind: type, *flags: str) -> None:
            for flag in flags:
                values[flag] = lambda value: setattr(self, attribute, kind(value))

        takes("model", str, "-m", "--model")
        takes("host", str, "--host")
        takes("port", int, "--port")
        takes("alias", str, "-a", "--alias")
        takes("slots", int, "-np", "--parallel")
        takes("context", int, "-c", "--ctx-size")
        values["--api-key"] = self.add_keys
        left = list(self.argv)
        while left:
            flag = left.pop(0)
            if flag in self.script.get("unknown_flags", []):
                os.write(2, f"error: invalid argument: {flag}\n".encode())
                os._exit(1)
            if flag in ("-h", "--help", "--usage"):
                self.show_help()
            elif flag == "--version":
                os.write(2, b"version: 1 (571d0d5)\nbuilt with a fake for tests\n")
                os._exit(0)
            elif flag in ("--embedding", "--embeddings"):
                self.embeddings = True
            elif flag == "--metrics":
                self.metrics = True
            elif flag == "--reuse-port":
                self.reuse_port = True
            elif left and not (left[0].startswith("-") and not left[0][1:2].isdigit()):
                value = left.pop(0)  # of a flag that is not known here, it is dropped
                if flag in values:
                    values[flag](value)
        self.slots = max(self.slots, 1)

    def add_keys(self, keys: str) -> None:
        self.keys += filter(None, keys.split(","))

    def show_help(self) -> NoReturn:
        how = self.script.get("help", "ok")
        if how == "hang":
            threading.Event().wait()
        missing = self.script.get("unknown_flags", [])
        shown = [
            line
            for line in HELP.splitlines(keepends=True)
            if not any(flag in line.replace(",", " ").split() for flag in missing)
        ]
        if how != "fail":
            os.write(1, "".join(shown).encode())
        os._exit(how == "fail")

    # -- what tests can see -----------------------------------------------------------------

    def record(self, event: str, **fields: object) -> None:
        path = self.script.get("record")
        if path is None:
            return
        line = {"event": event, "pid": os.getpid(), "model": self.alias or self.model}
        line |= {"t": time.monotonic(), **fields}
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(fd, json.dumps(line).encode() + b"\n")
        os.close(fd)

    # -- loading ----------------------------------------------------------------------------

    def read_model(self) -> str | None:
        """Puts the model file's script over the environment's; the fault that it is, or None."""
        try:
            with open(self.model, "rb") as file:
                content = file.read(65536)
        except OSError:
            return "missing_model"
        if content.startswith(b"GGUF") and not content.startswith(GGUF_HEAD):
            return None
        try:
            self.script |= current(parse(content.removeprefix(GGUF_HEAD)))
        except ValueError:
            return "bad_model"
        return None

    def run(self) -> NoReturn:
        self.read_flags()
        self.script = current(self.script)
        fault = self.read_model() or self.script.get("fail")
        self.record(
            "start",
            argv=self.argv,
            port=self.port,
            library_path=os.environ.get("LD_LIBRARY_PATH") or os.environ.get("DYLD_LIBRARY_PATH"),
        )
        signal.signal(signal.SIGTERM, self.on_sigterm)
        signal.signal(signal.SIGINT, self.on_sigterm)
        if "grandchild_sec" in self.script:
            self.leave_grandchild(self.script["grandchild_sec"])
        log("cmn  common_param: common_params_print_info: verbosity = 3")
        if "log" in self.script:
            log_much(self.script["log"])
        fail_at = self.script.get("fail_after_sec", 0)
        if fault and fault != "never" and not fail_at and not fault.endswith("_model"):
            self.fail(fault)
        early = self.script.get("bind", "early") == "early"
        if early:
            self.listen()
        log(f"srv    load_model: loading model '{self.model}'")
        self.progress(fail_at if fault else self.script.get("load_sec", 0))
        if fault and fault != "never":
            self.fail(fault)
        if not early:
            self.listen()
        if not fault:
            self.become_ready()
        while True:
            # Signal handlers run here, when this wakes up: another thread may get the signal.
            threading.Event().wait(0.05)

    def listen(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.reuse_port:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self.listener.bind((self.host, self.port))
        except OSError:
            self.fail("port")
        self.listener.listen(512)
        self.port = self.listener.getsockname()[1]
        self.record("listening", port=self.port)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # out of descriptors
                threading.Event().wait(0.01)
                continue
            self.connections += 1
            connection = Connection(self, sock, self.connections)
            threading.Thread(target=connection.run, daemon=True).start()

    def progress(self, seconds: float) -> None:
        how = self.script.get("load_progress", "output")
        end = time.monotonic() + seconds
        lines = 0
        while (left := end - time.monotonic()) > 0:
            if how == "cpu":
                hashlib.sha256(bytes(200_000))
            elif how == "read":
                with open(sys.executable, "rb") as file:
                    file.read(200_000)
                threading.Event().wait(min(left, 0.01))
            else:
                if how == "output":
                    lines += 1
                    log(f"load_tensors: loading tensors, {lines} done")
                threading.Event().wait(min(left, 0.02))

    def become_ready(self) -> None:
        log("srv  llama_server: model loaded")
        log(f"srv  llama_server: listening on http://{self.host}:{self.port}")
        self.ready.set()
        self.record("ready")
        if "crash_after_sec" in self.script:
            threading.Event().wait(self.script["crash_after_sec"])
            self.end("kill")

    def fail(self, fault: str) -> NoReturn:
        code = 1
        if fault in ("oom", "segv", "hang"):
            self.end(fault)
        elif fault == "library":
            os.write(
                2,
                b"llama-server: error while loading shared libraries: libllama.so: cannot open "
                b"shared object file: No such file or directory\n",
            )
            code = 127
        elif fault == "flag":
            os.write(2, b"error: invalid argument: --frobnicate\n")
        elif fault == "exit":
            for line in self.script.get("stderr", []):
                os.write(2, line.encode() + b"\n")
            code = self.script.get("exit_code", 1)
        else:
            for line in LAST_WORDS[fault]:
                level = "I" if line in _EXITING else "E"
                log(line.format(m=self.model, p=self.port), level)
        os._exit(code)

    def end(self, how: str) -> None:
        """By a signal to itself; from SIGSTOP it returns when somebody sends SIGCONT."""
        number = {"segv": signal.SIGSEGV, "hang": signal.SIGSTOP}.get(how, signal.SIGKILL)
        # To this thread: one sent to the process may leave this thread running for a moment.
        signal.pthread_kill(threading.get_ident(), number)

    def leave_grandchild(self, seconds: float) -> None:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            threading.Event().wait(seconds)
            os._exit(0)
        self.record("grandchild", grandchild=pid)

    def on_sigterm(self, *_: object) -> None:
        how = self.script.get("sigterm", "exit")
        self.record("sigterm")
        if how == "ignore":
            return
        log("srv    operator(): operator(): cleaning up before exit...")
        if how == "linger" and not self.lingering.is_set():
            self.lingering.set()
            threading.Event().wait(self.script.get("sigterm_sec", 30))
        os._exit(0)


class Connection:
    """One client: requests one after another, until either side has enough."""

    def __init__(self, server: Server, sock: socket.socket, number: int) -> None:
        self.server, self.sock, self.number = server, sock, number
        self.pending = b""
        self.served = 0
        self.request = 0
        self.sent = 0
        self.byte_sec: float | None = None
        self.method = self.path = ""
        self.headers: Headers = []
        self.body = b""
        self.json: dict[str, Any] = {}
        self.script: Script = {}
        self.closing = False

    def run(self) -> None:
        self.server.record("connected", connection=self.number)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while not self.closing:
                self.serve()
        except (Gone, Close, OSError):
            pass
        finally:
            self.sock.close()
            self.server.record("closed", connection=self.number, served=self.served)

    # -- receiving --------------------------------------------------------------------------

    def receive(self, timeout: float | None) -> None:
        self.sock.settimeout(timeout)
        try:
            data = self.sock.recv(65536)
        except OSError as error:  # a timeout is one too
            raise Gone from error
        finally:
            self.sock.settimeout(None)
        if not data:
            raise Gone
        self.pending += data

    def read_head(self) -> None:
        timeout = self.server.script.get("keepalive_sec", 5)
        while b"\r\n\r\n" not in self.pending:
            if len(self.pending) > 1_000_000:
                raise Close
            self.receive(60 if self.pending else timeout)
        head, self.pending = self.pending.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        try:
            self.method, self.path, version = first.split(" ")
            self.headers = []
            for line in lines:
                name, colon, value = line.partition(":")
                if not colon or not name or name != name.strip():
                    raise ValueError(line)
                self.headers.append((name, value.strip()))
            if version not in ("HTTP/1.0", "HTTP/1.1"):
                raise ValueError(version)
        except ValueError:
            self.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nServer: llama.cpp\r\n")
            self.send(b"Connection: close\r\n\r\n")
            self.server.record("bad_request", connection=self.number, head=head.decode("latin-1"))
            raise Close from None
        connection = self.header("connection").lower()
        limit = self.server.script.get("keepalive_max", 100)
        self.closing = connection == "close" or self.served + 1 >= limit
        if version == "HTTP/1.0" and connection != "keep-alive":
            self.closing = True

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def take(self, size: int) -> bytes:
        rate = self.script.get("read_rate")
        taken = b""
        while len(taken) < size:
            if rate:
                threading.Event().wait(0.02)
                if not self.pending:
                    self.receive(60)
            elif len(self.pending) < size - len(taken):
                self.receive(60)
            amount = min(size - len(taken), int(rate * 0.02) + 1 if rate else len(self.pending))
            taken, self.pending = taken + self.pending[:amount], self.pending[amount:]
        return taken

    def read_body(self) -> bytes:
        if self.header("expect").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.header("transfer-encoding").lower() != "chunked":
            return self.take(int(self.header("content-length") or 0))
        body = b""
        while True:
            while b"\r\n" not in self.pending:
                self.receive(60)
            size, self.pending = self.pending.split(b"\r\n", 1)
            chunk = self.take(int(size.split(b";")[0], 16) + 2)[:-2]  # no trailers are read
            if not chunk:
                return body
            body += chunk

    # -- sending ----------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        try:
            if self.byte_sec is not None:
                for index in range(len(data)):
                    self.sent += self.sock.send(data[index : index + 1])
                    self.wait(self.byte_sec)
                return
            view = memoryview(data)
            while view:
                amount = self.sock.send(view)
                self.sent += amount
                view = view[amount:]
        except OSError as error:
            raise Gone from error

    def wait(self, seconds: float | None) -> None:
        """So long (None: for ever), but no longer than the peer stays."""
        end = None if seconds is None else time.monotonic() + seconds
        watch = select.poll()
        watch.register(self.sock, select.POLLIN)
        while end is None or time.monotonic() < end:
            left = None if end is None else (end - time.monotonic()) * 1000
            if watch.poll(left):
                self.receive(None)  # more requests than answered; or its end

    def head(self, status: int, headers: Headers) -> bytes:
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}"]
        lines.append("Connection: close" if self.closing else self.keep_alive())
        lines += [f"{name}: {value}" for name, value in headers]
        lines += ["Server: llama.cpp", "Access-Control-Allow-Origin: ", "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def keep_alive(self) -> str:
        script = self.server.script
        timeout, most = script.get("keepalive_sec", 5), script.get("keepalive_max", 100)
        return f"Keep-Alive: timeout={timeout}, max={most}"

    def answer(
        self,
        status: int,
        body: bytes | str | dict[str, Any] | list[Any],
        content_type: str = JSON_TYPE,
        headers: Headers | None = None,
    ) -> None:
        """A whole answer, with the script's framing and faults."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body, separators=(",", ":"))
        data = body.encode() if isinstance(body, str) else body
        fields: Headers = [("Content-Type", content_type), *(headers or [])]
        framing = self.script.get("framing", "length")
        if framing == "length":
            fields.append(("Content-Length", str(len(data))))
        elif framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
            data = chunk(data) + b"0\r\n\r\n"
        else:
            self.closing = True
        self.strike("before_head")
        self.send(self.head(status, fields))
        self.strike("after_head")
        half = len(data) // 2
        self.send(data[:half])
        self.strike("mid_body")
        self.send(data[half:])

    def strike(self, when: str, event: int | None = None) -> None:
        """Does the script's fault if this is its moment."""
        fault = self.script.get("fault")
        if fault is None or self.script.get("when", "before_head") != when:
            return
        if event is not None and event != self.script.get("at", 2):
            return
        self.server.record("fault", id=self.request, fault=fault, sent=self.sent)
        if fault in ("close", "reset"):
            if fault == "reset":
                linger = struct.pack("ii", 1, 0)
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raise Close
        if fault == "exit":
            os._exit(self.script.get("exit_code", 1))
        elif fault == "block":
            self.server.blocked.set()
            self.wait(None)
        elif fault == "stall":
            self.wait(self.script.get("stall_sec"))
        else:
            self.server.end(fault)

    # -- one request ------------------------------------------------------------------------

    def serve(self) -> None:
        server = self.server
        self.read_head()
        self.served += 1
        self.sent = 0
        self.script = {}
        route = self.path.split("?")[0].removeprefix("/v1")
        if route == "/fake":
            self.control(self.read_body())
            return
        with server.lock:
            server.requests += 1
            self.request = server.requests
            server.active[self.request] = self
        try:
            self.receive_and_answer(route)
        except Gone:
            server.record("disconnect", id=self.request, sent=self.sent)
            raise
        finally:
            with server.lock:
                del server.active[self.request]
        server.record("finish", id=self.request, sent=self.sent)

    def receive_and_answer(self, route: str) -> None:
        server = self.server
        plain = self.method == "GET"
        base = {} if plain else server.script.get("request", {})
        self.script = base | parse(self.header("x-fake"))
        early = bool(self.script.get("early"))
        self.body = b"" if early else self.read_body()
        try:
            self.json = parse(self.body)
        except ValueError:
            self.json = {}
        self.script = current(base | self.json.get("fake", {}) | parse(self.header("x-fake")))
        self.closing = self.closing or early
        server.record(
            "request",
            id=self.request,
            connection=self.number,
            method=self.method,
            path=self.path,
            headers=self.headers,
            body_len=len(self.body),
            body_sha256=hashlib.sha256(self.body).hexdigest(),
        )
        if "log" in self.script:
            log_much(self.script["log"])
        if server.blocked.is_set():
            self.wait(None)
        if not server.ready.is_set():
            self.answer(503, LOADING)
        elif not self.may_ask(route):
            self.answer(401, WRONG_KEY)
        elif self.method == "POST" and (route in INFERENCE or self.script):
            self.infer(route)
        elif self.script:
            self.scripted(route)
        else:
            self.look(route)

    def may_ask(self, route: str) -> bool:
        key = self.header("authorization").removeprefix("Bearer ") or self.header("x-api-key")
        return not self.server.keys or route in PUBLIC or key in self.server.keys

    def look(self, route: str) -> None:
        """What the engine tells about itself."""
        server = self.server
        name = server.alias or server.model
        if self.method != "GET":
            self.answer(404, NOT_FOUND)
        elif route == "/health":
            health = server.script.get("health", "ok")
            if health == "hang":
                self.wait(None)
            elif health == "close":
                raise Close
            elif health == "ok":
                self.answer(200, {"status": "ok"})
            else:
                self.answer(int(health), {"error": {"code": int(health), "message": "sick"}})
        elif route == "/slots":
            slots = [
                {"id": n, "n_ctx": server.context, "is_processing": n in server.busy}
                for n in range(server.slots)
            ]
            self.answer(200, slots)
        elif route == "/props":
            settings = {"n_ctx": server.context, "params": {}}
            self.answer(
                200,
                {
                    "default_generation_settings": settings,
                    "total_slots": server.slots,
                    "model_alias": name,
                    "model_path": server.model,
                },
            )
        elif route == "/models":
            entry = {"id": name, "object": "model", "created": 0, "owned_by": "llamacpp"}
            self.answer(200, {"object": "list", "data": [entry]})
        elif route == "/metrics" and not server.metrics:
            self.refuse("metrics endpoint", "--metrics")
        elif route == "/metrics":
            text = "# TYPE llamacpp:requests_processing gauge\n"
            text += f"llamacpp:requests_processing {len(server.busy)}\n"
            self.answer(200, text, "text/plain; version=0.0.4")
        else:
            self.answer(404, NOT_FOUND)

    def refuse(self, what: str, flag: str) -> None:
        message = f"This server does not support {what}. Start it with `{flag}`"
        error = {"code": 501, "message": message, "type": "not_supported_error"}
        self.answer(501, {"error": error})

    def control(self, body: bytes) -> None:
        server = self.server
        if self.method == "POST":
            change = parse(body)
            server.script |= change
            if change.get("blocked"):
                server.blocked.set()
            elif "blocked" in change:
                server.blocked.clear()
        with server.lock:
            active = [
                {"id": number, "path": one.path, "sent": one.sent}
                for number, one in server.active.items()
            ]
        self.answer(
            200,
            {
                "pid": os.getpid(),
                "port": server.port,
                "script": server.script,
                "requests": server.requests,
                "connections": server.connections,
                "active": active,
            },
        )

    def infer(self, route: str) -> None:
        """A request that takes a slot, and waits for one as long as its client does."""
        server = self.server
        slot: int | None = None
        while slot is None:
            with server.lock:
                free = [n for n in range(server.slots) if n not in server.busy]
                if free:
                    slot = free[0]
                    server.busy.add(slot)
            if slot is None:
                self.wait(0.005)
        try:
            self.scripted(route)
        finally:
            with server.lock:
                server.busy.discard(slot)

    def scripted(self, route: str) -> None:
        script = self.script
        if "delay" in script:
            self.wait(script["delay"])
        if "raw" in script:
            self.closing = self.closing or script["raw"] not in KEEPS_OPEN
            RAW[script["raw"]](self)
        elif script.get("echo"):
            self.answer(200, self.echo())
        elif "status" in script or "body" in script:
            headers: Headers = [(name, value) for name, value in script.get("headers", [])]
            content_type = script.get("content_type", JSON_TYPE)
            self.answer(script.get("status", 200), script.get("body", ""), content_type, headers)
        elif route == "/embeddings":
            self.embed()
        elif self.json.get("stream"):
            self.stream()
        else:
            self.answer(200, self.completion())

    def echo(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "body_len": len(self.body),
            "body_sha256": hashlib.sha256(self.body).hexdigest(),
            "pid": os.getpid(),
            "port": self.server.port,
            "connection": self.number,
            "served": self.served,
        }

    # -- what a model would say -------------------------------------------------------------

    def tokens(self) -> list[str]:
        asked = self.json.get("max_tokens") or self.json.get("n_predict") or 8
        text = self.script.get("text")
        return [text or f"t{n} " for n in range(self.script.get("events", asked))]

    def chunk_of(self, choice: dict[str, Any] | None, kind: str) -> dict[str, Any]:
        return {
            "choices": [] if choice is None else [{"finish_reason": None, "index": 0, **choice}],
            "created": int(time.time()),
            "id": f"chatcmpl-{os.getpid()}-{self.request}",
            "model": self.server.alias or self.server.model,
            "system_fingerprint": FINGERPRINT,
            "object": kind,
        }

    def usage(self, tokens: list[str]) -> dict[str, int]:
        count = len(tokens)
        return {"completion_tokens": count, "prompt_tokens": 5, "total_tokens": count + 5}

    def completion(self) -> dict[str, Any]:
        tokens = self.tokens()
        text = "".join(tokens)
        if "chat" in self.path:
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
            kind = "chat.completion"
        else:
            choice, kind = {"text": text, "logprobs": None}, "text_completion"
        whole = self.chunk_of({**choice, "finish_reason": "length"}, kind)
        return {**whole, "usage": self.usage(tokens)}

    def embed(self) -> None:
        if not self.server.embeddings:
            self.refuse("embeddings", "--embeddings")
            return
        asked = self.json.get("input", "")
        coded = self.json.get("encoding_format") == "base64"
        data = []
        for index, text in enumerate(asked if isinstance(asked, list) else [asked]):
            digest = hashlib.sha256(str(text).encode()).digest()[:8]
            vector: Any = [byte / 255 for byte in digest]
            if coded:
                vector = base64.b64encode(struct.pack("<8f", *vector)).decode()
            data.append({"embedding": vector, "index": index, "object": "embedding"})
        usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
        name = self.server.alias or self.server.model
        self.answer(200, {"model": name, "object": "list", "usage": usage, "data": data})

    def stream_head(self) -> bytes:
        return self.head(
            200,
            [
                ("Transfer-Encoding", "chunked"),
                ("X-Accel-Buffering", "no"),
                ("Content-Type", "text/event-stream"),
            ],
        )

    def stream(self) -> None:
        chat = "chat" in self.path
        kind = "chat.completion.chunk" if chat else "text_completion"
        tokens = self.tokens()
        rate = self.script.get("rate", 0)
        self.strike("before_head")
        self.send(self.stream_head())
        self.strike("after_head")
        if chat:
            role = {"delta": {"role": "assistant", "content": None}}
            self.send(event(self.chunk_of(role, kind)))
        begin = time.monotonic()
        for number, token in enumerate(tokens):
            if rate:
                self.wait(max(0.0, begin + (number + 1) / rate - time.monotonic()))
            while self.server.lingering.is_set():
                self.send(chunk(b":\n\n"))
                self.wait(1)
            self.strike("between_events", number)
            choice: dict[str, Any] = {"delta": {"content": token}} if chat else {"text": token}
            data = event(self.chunk_of(choice, kind))
            half = len(data) // 2
            if self.script.get("fault") and self.script.get("when") == "mid_body":
                self.send(data[:half])
                self.strike("mid_body", number)
                self.send(data[half:])
            else:
                self.send(data)
        last: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        self.send(event(self.chunk_of({**last, "finish_reason": "length"}, kind)))
        if (self.json.get("stream_options") or {}).get("include_usage"):
            self.send(event({**self.chunk_of(None, kind), "usage": self.usage(tokens)}))
        self.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def event(data: dict[str, Any]) -> bytes:
    return chunk(b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n")


# -- wrong bytes --------------------------------------------------------------------------------
# A good answer here is this body, so that a test can tell it from a mangled one.

GOOD = b'{"raw":"a whole answer"}'
PLAIN = b"Content-Type: application/json\r\n"
OK = b"HTTP/1.1 200 OK\r\n" + PLAIN
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(GOOD)
LEGAL = OK + LENGTH + b"\r\n" + GOOD


def fixed(*parts: bytes) -> Callable[[Connection], None]:
    return lambda connection: connection.send(b"".join(parts))


def endless(first: bytes, more: bytes) -> Callable[[Connection], None]:
    def run(connection: Connection) -> None:
        connection.send(first)
        while True:
            connection.send(more * 100)
            connection.wait(connection.script.get("byte_sec", 0.001))

    return run


def slow(connection: Connection) -> None:
    connection.byte_sec = connection.script.get("byte_sec", 0.01)
    try:
        connection.send(LEGAL)
    finally:
        connection.byte_sec = None


def flood(connection: Connection) -> None:
    connection.send(connection.stream_head())
    choice = {"delta": {"content": "flood " * 20}}
    data = event(connection.chunk_of(choice, "chat.completion.chunk")) * 200
    while True:
        connection.send(data)


def flood_plain(connection: Connection) -> None:
    connection.send(OK + CHUNKED + b"\r\n")
    data = chunk(b"x" * 65536)
    while True:
        connection.send(data)


RAW: dict[str, Callable[[Connection], None]] = {
    "garbage": fixed(b"\x16\x03\x01\x00\xffnothing like HTTP\r\n\r\n\x00\x01\x02" * 4),
    "empty": fixed(),
    "endless_header": endless(OK, b"X-More: and more\r\n"),
    "endless_line": endless(OK + b"X-More: ", b"and more "),
    "two_lengths": fixed(OK, LENGTH, b"Content-Length: 3\r\n\r\n", GOOD),
    "length_chunked": fixed(OK, LENGTH, CHUNKED, b"\r\n", chunk(GOOD), b"0\r\n\r\n"),
    "continue": fixed(b"HTTP/1.1 100 Continue\r\n\r\n", LEGAL),
    "early_hints": fixed(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2, LEGAL),
    "switching": fixed(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    ),
    "http10": fixed(b"HTTP/1.0 200 OK\r\n", PLAIN, b"\r\n", GOOD),
    "no_length": fixed(OK, b"\r\n", GOOD),
    "cut_chunk": fixed(OK, CHUNKED, b"\r\n", chunk(GOOD), b"100\r\n", GOOD),
    "cut_chunks": fixed(OK, CHUNKED, b"\r\n", chunk(GOOD)),
    "bad_chunk": fixed(OK, CHUNKED, b"\r\n", chunk(GOOD), b"zz\r\n", GOOD, b"\r\n0\r\n\r\n"),
    "trailers": fixed(
        OK, CHUNKED, b"\r\n", b"%x;a=b\r\n" % len(GOOD), GOOD, b"\r\n0\r\nX-Trailer: yes\r\n\r\n"
    ),
    "short_body": fixed(OK, b"Content-Length: 1000\r\n\r\n", GOOD),
    "long_body": fixed(LEGAL, b"and more than was announced"),
    "after_204": fixed(b"HTTP/1.1 204 No Content\r\n", LENGTH, b"\r\n", GOOD),
    "after_304": fixed(b"HTTP/1.1 304 Not Modified\r\n", LENGTH, b"\r\n", GOOD),
    "second_answer": fixed(LEGAL, LEGAL),
    "stale": fixed(LEGAL),
    "bare_lf": fixed(LEGAL.replace(b"\r\n", b"\n")),
    "obs_fold": fixed(OK, b"X-Folded: one\r\n  two\r\n", LENGTH, b"\r\n", GOOD),
    "space_colon": fixed(OK, b"X-Space : one\r\n", LENGTH, b"\r\n", GOOD),
    "nul_header": fixed(OK, b"X-Nul: a\x00b\r\n", LENGTH, b"\r\n", GOOD),
    "big_header": fixed(OK, b"X-Big: ", b"b" * 100_000, b"\r\n", LENGTH, b"\r\n", GOOD),
    "slow": slow,
    "flood": flood,
    "flood_plain": flood_plain,
}
# After these the connection stays open, as after any good answer: what follows on it is the test.
KEEPS_OPEN = {
    "two_lengths", "length_chunked", "continue", "early_hints", "switching", "trailers",
    "long_body", "after_204", "after_304", "second_answer", "bare_lf", "obs_fold", "space_colon",
    "nul_header", "big_header", "slow",
}  # fmt: skip


if __name__ == "__main__":
    threading.stack_size(256 * 1024)
    Server(sys.argv[1:]).run()
