"""The attacks of hostile.py, each with what is sent, in words.

Each is a function of the `Scene` that returns what became of it; it ends by itself. How a promise
is judged, and what is measured meanwhile, is in hostile.py.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import select
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from scene import (
    CHAT,
    CLOSE,
    MB,
    PATIENCE,
    Drained,
    Scene,
    attack,
    counted,
    drain,
    far,
    ours,
    raw_post,
    told,
)

RENAMED = far("renamed", upstream_model="another")
PLAIN = far("plain")
SHAPED = far("shaped", set_params={"temperature": 0.5})
#: One that is never ready: who asks for it waits.
LOADING = ours("loading", script={"load_sec": 3600, "load_progress": "none"})
TARGETS = [PLAIN, SHAPED, RENAMED]


def letters(count: int) -> bytes:
    """Random letters and digits, the same ones each time."""
    table = (b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_" * 4)[:256]
    return random.Random(1).randbytes(count).translate(table)


def keys(count: int) -> bytes:
    return b",".join(b'"k%d":1' % number for number in range(count))


# --- 1: bodies of JSON ---


def model_named(name: bytes) -> bytes:
    return b'{"model":"' + name + b'","messages":[]}'


for size in (62, 30, 8, 1):

    @attack(f"name-{size}mb", f"a model name of {size} MB", size)
    def name_of(scene: Scene, size: int = size) -> str:
        return scene.post(model_named(letters(size * MB)))


@attack("name-unicode", "a model name of 30 MB, not ASCII", 30)
def name_unicode(scene: Scene) -> str:
    return scene.post(model_named("é漢🦙".encode() * (30 * MB // 9)))


@attack("name-escaped", "a model name of 30 MB, escaped", 30)
def name_escaped(scene: Scene) -> str:
    return scene.post(model_named(rb"\u00e9\u6f22" * (30 * MB // 12)))


@attack("name-load", "a name of 30 MB to /models/load", 30)
def name_load(scene: Scene) -> str:
    return scene.post(model_named(letters(30 * MB)), "/models/load")


@attack("name-form", "a form whose field model has 30 MB", 30)
def name_form(scene: Scene) -> str:
    body = form(b'name="model"', letters(30 * MB))
    return scene.post(body, "/v1/audio/transcriptions", FORM)


@attack("name-query", "?model= of 16 KB, 200 times")
def name_query(scene: Scene) -> str:
    return many(scene, 200, lambda: "/models/logs?model=" + letters(15_000).decode())


for target in ("plain", "shaped", "renamed"):

    @attack(f"key-{target}", f"one key of 60 MB, to {target}", 60, models=TARGETS)
    def one_key(scene: Scene, target: str = target) -> str:
        return scene.post(b'{"model":"%b","%b":1}' % (target.encode(), b"k" * 60 * MB))

    @attack(f"key-escaped-{target}", f"one key of 60 MB, escaped, to {target}", 60, models=TARGETS)
    def escaped_key(scene: Scene, target: str = target) -> str:
        key = rb"\u00e9" * (60 * MB // 6)
        return scene.post(b'{"model":"%b","%b":1}' % (target.encode(), key))

    @attack(f"keys-{target}", f"60 MB of keys, to {target}", 60, models=TARGETS)
    def many_keys(scene: Scene, target: str = target) -> str:
        body = b'{"model":"%b",%b}' % (target.encode(), keys(5_000_000))
        return scene.post(body[: 64 * MB])

    @attack(f"array-{target}", f"an array of 30 M numbers, to {target}", 60, models=TARGETS)
    def array(scene: Scene, target: str = target) -> str:
        return scene.post(b'{"model":"%b","a":[%b1]}' % (target.encode(), b"1," * 30_000_000))


@attack("blanks", "60 MB of blanks in an object", 60, models=[PLAIN])
def blanks(scene: Scene) -> str:
    return scene.post(b'{"model":"plain",' + b" " * 60 * MB + b'"a":1}')


@attack("nested", "30 M brackets", 60, models=[PLAIN])
def nested(scene: Scene) -> str:
    return scene.post(b'{"model":"plain","a":' + b"[" * 30_000_000 + b"]" * 30_000_000 + b"}")


@attack("stream-value", "`stream` is a list of 20 M empty lists", 60, models=[PLAIN])
def stream_value(scene: Scene) -> str:
    return scene.post(b'{"model":"plain","stream":[' + b"[]," * 20_000_000 + b"[]]}")


@attack("stream-object", "`stream` is an object of 60 MB", 60, models=[PLAIN])
def stream_object(scene: Scene) -> str:
    return scene.post(b'{"model":"plain","stream":{' + keys(4_800_000) + b"}}")


@attack("stream-text", "`stream` is a text of 60 MB", 60, models=[PLAIN])
def stream_text(scene: Scene) -> str:
    return scene.post(b'{"model":"plain","stream":"' + letters(60 * MB) + b'"}')


@attack("orders-keys", "60 MB of keys to /models/unload", 60)
def orders_keys(scene: Scene) -> str:
    return scene.post(b'{"model":"nobody",' + keys(4_800_000) + b"}", "/models/unload")


# --- 2: bodies that stay ---


def bodies(scene: Scene, model: str, count: int, missing: int) -> str:
    """So many bodies of 60 MB, each but for its last bytes, held for some seconds."""
    body = b'{"model":"%b","a":"%b"}' % (model.encode(), b"x" * 60 * MB)
    head = raw_post(body)[: -len(body)]
    outcomes: Counter[str] = Counter()
    with contextlib.ExitStack() as open_ones:
        socks = []
        for _ in range(count):
            sock = open_ones.enter_context(scene.connect())
            with contextlib.suppress(OSError):
                sock.sendall(head)
                sock.sendall(memoryview(body)[: len(body) - missing])
            socks.append(sock)
        time.sleep(3)
        for sock in socks:
            heard = select.select([sock], [], [], 0)[0]
            outcomes[told(drain(sock, 5)).split(" (")[0] if heard else "held"] += 1
    return counted(outcomes)


#: What bodies together may take: as the configuration says.
TOGETHER_MB = 300.0
TOGETHER = {"max_bodies_mb": TOGETHER_MB}


@attack("bodies-idle", "40 bodies of 60 MB, each a byte short", TOGETHER_MB, config=TOGETHER)
def bodies_idle(scene: Scene) -> str:
    return bodies(scene, "good", 40, 1)


@attack(
    "bodies-queued",
    "40 bodies of 60 MB for a model that loads",
    TOGETHER_MB,
    models=[LOADING],
    config=TOGETHER,
)
def bodies_queued(scene: Scene) -> str:
    return bodies(scene, "loading", 40, 0)


@attack(
    "bodies-ready",
    "40 bodies of 60 MB for a backend that is silent",
    TOGETHER_MB,
    models=[ours("stalls", script={"request": {"fault": "stall"}})],
    config=TOGETHER,
)
def bodies_ready(scene: Scene) -> str:
    return bodies(scene, "stalls", 40, 0)


# --- 3: chunks, pipelines, heads ---


def chunked(body: bytes, size: int) -> Iterator[bytes]:
    head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n%b\r\n"
    yield head % (CHAT.encode(), CLOSE)
    whole = b"".join(
        b"%x\r\n%b\r\n" % (size, body[n : n + size]) for n in range(0, len(body) - size, size)
    )
    for start in range(0, len(whole), MB):
        yield whole[start : start + MB]
    yield b"0\r\n\r\n"


@attack("chunks-2", "5 MB in chunks of 2 bytes", 5, models=[PLAIN])
def chunks_2(scene: Scene) -> str:
    return scene.send(chunked(b'{"model":"plain","a":"' + b"xy" * (5 * MB // 2) + b'"} ', 2))


@attack("chunks-60", "40 MB in chunks of 60 bytes", 40, models=[PLAIN])
def chunks_60(scene: Scene) -> str:
    return scene.send(chunked(b'{"model":"plain","a":"' + b"x" * 40 * MB + b'"}' + b" " * 60, 60))


@attack("segments", "1 MB in segments of 3 bytes", 1)
def segments(scene: Scene) -> str:
    body = model_named(b"x" * MB)
    with scene.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(raw_post(body, extra=CLOSE)[: -len(body)])
        with contextlib.suppress(OSError):
            for start in range(0, len(body), 3):
                sock.send(body[start : start + 3])
        return told(drain(sock))


def many(scene: Scene, count: int, path: Callable[[], str]) -> str:
    """GETs one after the other on one connection."""
    outcomes: Counter[str] = Counter()
    asking = http.client.HTTPConnection("127.0.0.1", scene.port, timeout=PATIENCE)
    for _ in range(count):
        asking.request("GET", path())
        answer = asking.getresponse()
        answer.read()
        outcomes[str(answer.status)] += 1
    asking.close()
    return counted(outcomes)


def pipelined(scene: Scene, request: bytes, size: int, reads: bool = True) -> str:
    """So many bytes of one request after the other, read or not."""
    count = size // len(request)
    began = time.monotonic()
    with scene.connect() as sock:
        got = Drained()
        reader = threading.Thread(
            target=lambda: got.__dict__.update(
                drain(sock, 20, until=lambda so_far: so_far.answers >= count).__dict__
            )
        )
        if reads:
            reader.start()
        with contextlib.suppress(OSError):
            data = request * count
            for start in range(0, len(data), 65536):
                sock.settimeout(5)
                sock.sendall(data[start : start + 65536])
        if reads:
            reader.join()
            return f"{count} sent; {told(got)}, {time.monotonic() - began:.1f} s"
        time.sleep(3)
        return f"{count} sent, none read"


GETS = {
    "root": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "health": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "models": b"GET /models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "options": b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "unknown": raw_post(b'{"model":"abc"}'),
    "long-path": b"GET /" + b"a" * 15_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "slashes": b"GET /upstream" + b"/" * 15_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "headers": b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a:\r\n" * 450 + b"\r\n",
}
for kind, request in GETS.items():

    @attack(f"pipeline-{kind}", f"256 KB of pipelined requests ({kind})", 0.25)
    def flood_of(scene: Scene, request: bytes = request) -> str:
        return pipelined(scene, request, 256 * 1024)


@attack("pipeline-unread", "1 MB of pipelined GET /models, no answer read", 1)
def pipeline_unread(scene: Scene) -> str:
    return pipelined(scene, GETS["models"], MB, reads=False)


@attack(
    "pipeline-logs",
    "32 KB of pipelined GET /models/logs (800 KB each), not read",
    1,
    models=[ours("chatty", preload=True, script={"log": {"lines": 300, "width": 4000}})],
)
def pipeline_logs(scene: Scene) -> str:
    request = b"GET /models/logs?model=chatty HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return pipelined(scene, request, 32 * 1024, reads=False)


@attack("header-names", "5,000 header names of 12 KB each, one a request", 0.1)
def header_names(scene: Scene) -> str:
    numbers = iter(range(5000))
    rest = b"x" * 12_000
    line = b" HTTP/1.1\r\nHost: localhost\r\nn%d" + rest + b": 1\r\n\r\n"
    outcomes: Counter[str] = Counter()
    sock = scene.connect()
    for number in numbers:
        try:
            sock.sendall(b"OPTIONS *" + line % number)
            outcomes[sock.recv(MB)[9:12].decode() or "closed"] += 1
        except OSError as error:
            outcomes[type(error).__name__] += 1
        if number % 1000 and outcomes.total() == outcomes["204"]:
            continue
        sock.close()
        sock = scene.connect()
        if number > 50 and not outcomes["204"]:
            break
    sock.close()
    return counted(outcomes)


@attack("length-digits", "Content-Length of 5,000 digits, 200 times", 0.1)
def length_digits(scene: Scene) -> str:
    outcomes: Counter[str] = Counter()
    for _ in range(200):
        with scene.connect() as sock:
            sock.sendall(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %b\r\n\r\n" % (b"9" * 5000)
            )
            outcomes[told(drain(sock, 5)).split(" (")[0]] += 1
    return counted(outcomes)


@attack("burst-connect", "3,000 connections at once, closed at once")
def burst_connect(scene: Scene) -> str:
    socks = []
    for _ in range(3000):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", scene.port))
        socks.append(sock)
    time.sleep(1)
    for sock in socks:
        sock.close()
    time.sleep(1)
    return "done"


@attack("burst-requests", "1,000 connections that each ask for an unknown model at once")
def burst_requests(scene: Scene) -> str:
    socks = [scene.connect() for _ in range(1000)]
    for sock in socks:
        sock.sendall(GETS["unknown"])
    outcomes: Counter[str] = Counter()
    for sock in socks:
        outcomes[sock.recv(4096)[9:12].decode()] += 1
        sock.close()
    return counted(outcomes)


# --- 4: forms ---

FORM = b"Content-Type: multipart/form-data; boundary=a\r\n"


def form(disposition: bytes, value: bytes) -> bytes:
    part = b"--a\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n--a--\r\n"
    return part % (disposition, value)


def form_attack(name: str, sent: str, body: float, data: Callable[[], bytes]) -> None:
    model = form(b'name="model"', b"renamed").removesuffix(b"--a--\r\n")

    @attack(f"form-{name}", sent, body, models=[RENAMED])
    def run(scene: Scene) -> str:
        path = "/v1/audio/transcriptions"
        return scene.post(model + data() + b"\r\n--a--\r\n", path, FORM)


def parts(
    count: int, value: bytes, head: bytes = b'Content-Disposition: form-data; name="f"'
) -> bytes:
    return b"\r\n".join(b"--a\r\n" + head + b"\r\n\r\n" + value for _ in range(count))


form_attack(
    "dispositions",
    "4 MB of content-disposition:; in values",
    4,
    lambda: parts(900, b"content-disposition:;" * 200),
)
form_attack(
    "one-part",
    "one part of 60 MB of content-disposition:;",
    60,
    lambda: parts(1, b"content-disposition:;" * (60 * MB // 21)),
)
form_attack("dashes", "60 MB of dashes in one value", 60, lambda: parts(1, b"-" * 60 * MB))
form_attack("marks", "20 MB of --a in one value", 20, lambda: parts(1, b"--a" * (20 * MB // 3)))
form_attack("marks-60", "60 MB of --a in one value", 60, lambda: parts(1, b"--a" * (60 * MB // 3)))
form_attack(
    "look-alikes",
    "60 MB of CR LF --b in one value",
    60,
    lambda: parts(1, b"\r\n--b" * (60 * MB // 5)),
)
form_attack("many-parts", "2 million empty parts", 60, lambda: parts(1_000_000, b""))
form_attack(
    "blank-lines",
    "60 MB of CR LF as the head of a part",
    60,
    lambda: b"--a\r\n" + b"\r\n" * (30 * MB),
)


# --- 5: a malicious backend ---


def far_attack(name: str, sent: str, most: float = 0.0) -> None:
    @attack(f"backend-{name}", sent, most, models=[far(name)])
    def run(scene: Scene) -> str:
        return scene.post(b'{"model":"%b"}' % name.encode())


far_attack("trailers", "an answer with trailers without end")
far_attack("head", "a head without end")
far_attack("head-line", "a header line without end")
far_attack("connection-lines", "a head of 13,000 Connection lines")
far_attack("1xx", "100 Continue without end")
far_attack("bits", "an answer in chunks of a byte, without end")
far_attack("flood", "an answer without end, to a client that reads")


def far_watch(name: str, sent: str, most: float = 0.0) -> None:
    config = {"health_check_sec": 1}

    @attack(f"backend-{name}", sent, most, models=[far(name)], config=config)
    def run(scene: Scene) -> str:
        outcomes: Counter[str] = Counter()
        end = time.monotonic() + 8
        while time.monotonic() < end:
            began = time.monotonic()
            answer = scene.post(b"", "/v1/models", b"", "GET").split(",")[0]
            took = time.monotonic() - began
            outcomes[answer] += 1
            time.sleep(max(0.2, took))
        return "lists: " + counted(outcomes)


far_watch("health-body", "a /health body without end")
far_watch("health-bits", "the same in chunks of a byte")
far_watch("health-head", "a /health head without end")
far_watch("health-1xx", "100 Continue without end to /health")
far_watch("health-gzip", "a /health body of 300 KB, packed, that is 300 MB")
far_watch("models-gzip", "a /v1/models body of 300 KB, packed, that is 300 MB")
far_watch("models-body", "a /v1/models body without end")
far_watch("models-meta", "a meta of 20 MB", 20)
far_watch("models-meta-keys", "a meta of 800,000 keys", 12)


@attack(
    "backend-models-silent",
    "20 backends that do not list, 100 clients that want lists",
    models=[{"name": f"s{n}", "url": "EVIL/models-silent"} for n in range(20)],
)
def models_silent(scene: Scene) -> str:
    time.sleep(2)  # until all are ready
    with contextlib.ExitStack() as open_ones:
        socks = [open_ones.enter_context(scene.connect()) for _ in range(100)]
        for sock in socks:
            sock.sendall(GETS["models"])
        most, end = 0, time.monotonic() + 4
        while time.monotonic() < end:
            most = max(most, len(os.listdir(f"/proc/{scene.pid}/fd")))
            time.sleep(0.05)
        outcomes = Counter(sock.recv(4096)[9:12].decode() for sock in socks)
    return f"{counted(outcomes)}; {most} files open"


for kind in ("error", "error-lines"):

    @attack(
        f"backend-{kind}",
        f"a body of a 500 without end ({kind}), in a stream begun early",
        config={"stream_keepalive_sec": 0.1},
    )
    def early_error(scene: Scene, kind: str = kind) -> str:
        # A stream is begun early while it waits for its model: one that is new, and slow to load.
        new = {"name": kind, "url": f"{scene.evil}/{kind}"}
        scene.path.write_text(json.dumps({**scene.config, "models": [*scene.models, new]}))
        os.kill(scene.pid, signal.SIGHUP)
        time.sleep(0.3)
        return scene.post(b'{"model":"%b","stream":true}' % kind.encode())


@attack(
    "backend-unread", "an answer without end, to a client that does not read", models=[far("flood")]
)
def unread(scene: Scene) -> str:
    body = b'{"model":"flood"}'
    with scene.connect() as sock:
        sock.sendall(raw_post(body))
        time.sleep(8)
        return "nothing was read for 8 s"


# --- 6: watchers ---


def watchers(scene: Scene, count: int, path: str) -> tuple[list[socket.socket], Counter[str]]:
    """Connections that follow something; what became of each."""
    socks, outcomes = [], Counter[str]()
    for _ in range(count):
        try:
            sock = scene.connect(10)
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            socks.append(sock)
        except OSError as error:
            outcomes[type(error).__name__] += 1
    for sock in socks:
        try:
            outcomes[sock.recv(4096)[9:12].decode() or "closed"] += 1
        except OSError as error:
            outcomes[type(error).__name__] += 1
    return socks, outcomes


class Reading(threading.Thread):
    """Reads what comes over many connections, and counts it."""

    def __init__(self, socks: Iterable[socket.socket]) -> None:
        super().__init__(daemon=True)
        self.size = 0
        self.over = False
        self._poll = select.epoll()
        self._socks = {sock.fileno(): sock for sock in socks}
        for number, sock in self._socks.items():
            sock.setblocking(False)
            self._poll.register(number, select.EPOLLIN)

    def run(self) -> None:
        while not self.over:
            for number, _ in self._poll.poll(0.1):
                data = b""
                with contextlib.suppress(OSError):
                    data = self._socks[number].recv(MB)
                if not data:
                    self._poll.unregister(number)
                self.size += len(data)


def quiet(reading: Reading, seconds: float = 1.0, most: float = 30.0) -> None:
    """Wait until nothing has come for so long."""
    last, since, end = -1, time.monotonic(), time.monotonic() + most
    while time.monotonic() < end and time.monotonic() - since < seconds:
        if reading.size != last:
            last, since = reading.size, time.monotonic()
        time.sleep(0.05)


def followed(scene: Scene, model: str, count: int, ask: Callable[[], str]) -> str:
    socks, outcomes = watchers(scene, count, f"/models/logs?model={model}&follow=true")
    reading = Reading(socks)
    reading.start()
    answer = ask()
    quiet(reading)
    reading.over = True
    for sock in socks:
        sock.close()
    return f"followers: {counted(outcomes)}; {answer}; {reading.size / MB:.1f} MB of lines read"


#: A grammar of 9 KB that the engine complains of, line by line.
GRAMMAR = "root ::= \x1b]0;PWNED\x07(\n" + "a\n" * 4500


@attack("followers-grammar", "300 followers, and a 9 KB grammar (real engine)", 1, real=True)
def followers_grammar(scene: Scene) -> str:
    body = json.dumps({"model": "good", "prompt": "Hi", "n_predict": 1, "grammar": GRAMMAR})
    ask = lambda: scene.post(body.encode(), "/v1/completions")  # noqa: E731
    return followed(scene, "good", 300, ask)


def printing(lines: int, width: int) -> bytes:
    log = {"lines": lines, "width": width}
    return json.dumps({"model": "printer", "fake": {"log": log}}).encode()


PRINTER = ours("printer", preload=True)


@attack(
    "followers-lines", "300 followers, and an engine that prints 2,000 lines", 1, models=[PRINTER]
)
def followers_lines(scene: Scene) -> str:
    return followed(scene, "printer", 300, lambda: scene.post(printing(2000, 60)))


@attack("lines", "an engine that prints 50,000 short lines, nobody follows", 1, models=[PRINTER])
def lines(scene: Scene) -> str:
    return scene.post(printing(50_000, 1))


@attack(
    "watchers-sse",
    "10,000 watchers of /models/sse, then 10 loads and unloads",
    64,
    models=[ours("toggled")],
)
def watchers_sse(scene: Scene) -> str:
    socks, outcomes = watchers(scene, 10_000, "/models/sse")
    for sock in socks[-200:]:  # or there is no connection left to give orders over
        sock.close()
    del socks[-200:]
    time.sleep(1)
    reading = Reading(socks)
    reading.start()
    for _ in range(10):
        scene.post(b'{"model":"toggled","wait":true}', "/models/load")
        scene.post(b'{"model":"toggled"}', "/models/unload")
    quiet(reading)
    reading.over = True
    for sock in socks:
        sock.close()
    return f"{counted(outcomes)}; {reading.size / MB:.1f} MB of events read"


# --- 7: signals and many models ---


@attack("sighups", "500 SIGHUPs, 2 ms apart")
def sighups(scene: Scene) -> str:
    for _ in range(500):
        os.kill(scene.pid, signal.SIGHUP)
        time.sleep(0.002)
    return "done"


CROWD = [ours(f"model-{n}-instruct-q4_k_m", model_path="/nowhere.gguf") for n in range(5000)]


@attack("reload-5000", "a reload of a file with 5,000 models (no client's input)", models=CROWD)
def reload_5000(scene: Scene) -> str:
    os.kill(scene.pid, signal.SIGHUP)
    time.sleep(0.5)
    return "done"


@attack("unknown-5000", "20 unknown names, to 5,000 models", models=CROWD)
def unknown_5000(scene: Scene) -> str:
    outcomes: Counter[str] = Counter()
    for number in range(20):
        outcomes[scene.post(model_named(b"model-%d-inst" % number)).split(",")[0]] += 1
    return counted(outcomes)


@attack("list-5000", "20 GET /models of 5,000 models", models=CROWD)
def list_5000(scene: Scene) -> str:
    outcomes: Counter[str] = Counter()
    for _ in range(20):
        outcomes[scene.post(b"", "/models", b"", "GET").split(",")[0]] += 1
    return counted(outcomes)


@attack("metrics-5000", "requests for 300 of 5,000 models, and 20 GET /metrics", models=CROWD)
def metrics_5000(scene: Scene) -> str:
    for number in range(300):
        for path in (CHAT, "/v1/completions", "/v1/embeddings"):
            scene.post(model_named(b"model-%d-instruct-q4_k_m" % number), path)
    outcomes: Counter[str] = Counter()
    for _ in range(20):
        outcomes[scene.post(b"", "/metrics", b"", "GET").split(",")[0]] += 1
    return counted(outcomes)


@attack("list-5000-unread", "100 pipelined GET /models of 5,000 models, not read", models=CROWD)
def list_5000_unread(scene: Scene) -> str:
    return pipelined(scene, GETS["models"], 100 * len(GETS["models"]), reads=False)


@attack("sse-5000", "one watcher of /models/sse with 5,000 models, read for 4 s", models=CROWD)
def sse_5000(scene: Scene) -> str:
    with scene.connect() as sock:
        sock.sendall(b"GET /models/sse HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return told(drain(sock, 4))


@attack(
    "leaving-5000", "500 wait for a model, then all leave; 5,000 models", models=[*CROWD, LOADING]
)
def leaving_5000(scene: Scene) -> str:
    body = b'{"model":"loading"}'
    socks = [scene.connect() for _ in range(500)]
    for sock in socks:
        sock.sendall(raw_post(body))
    time.sleep(1)
    for sock in socks:
        sock.close()
    return "done"


# --- 8: slow readers, and the queue ---


def slow_attack(rate: int) -> None:
    """As slow as this, in bytes a second; with client_stall_sec 600 it would be rate / 120."""

    @attack(
        f"slow-reader-{rate // 1000}k",
        f"a stream read at {rate // 1000} KB/s, while another waits for its room "
        f"(client_stall_sec 5: as {rate / 120:.0f} B/s with 600)",
        models=[ours("held"), ours("wanted")],
        config={"client_stall_sec": 5, "swap_after_sec": 1, "drain_sec": 1},
    )
    def slow_reader(scene: Scene) -> str:
        body = b'{"model":"held","stream":true,"fake":{"raw":"flood"}}'
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(rate // 10, 4096))
        sock.connect(("127.0.0.1", scene.port))
        sock.sendall(raw_post(body))
        got: list[str] = []
        began = time.monotonic()

        def want() -> None:
            with scene.connect(40) as other:
                other.sendall(raw_post(b'{"model":"wanted"}', extra=CLOSE))
                got.append(told(drain(other, 35)))

        waiting = threading.Thread(target=want)
        waiting.start()
        size, lost = 0, ""
        while waiting.is_alive():
            sock.settimeout(1)
            try:
                data = sock.recv(rate // 10)
            except TimeoutError:
                continue
            except OSError as error:
                lost = f" ({type(error).__name__} after {time.monotonic() - began:.0f} s)"
                break
            if not data:
                break
            size += len(data)
            time.sleep(0.1)
        waiting.join()
        sock.close()
        took = time.monotonic() - began
        return f"the other got {got[0]} after {took:.0f} s; {size // 1000} KB were read{lost}"


slow_attack(20_000)
slow_attack(400_000)


@attack(
    "unattended-loads",
    "512 POST /models/load without wait on one connection that ends, then a chat",
    models=[LOADING],
)
def unattended_loads(scene: Scene) -> str:
    body = b'{"model":"loading"}'
    outcomes: Counter[str] = Counter()
    asking = http.client.HTTPConnection("127.0.0.1", scene.port, timeout=PATIENCE)
    for _ in range(512):
        asking.request("POST", "/models/load", body)
        answer = asking.getresponse()
        answer.read()
        outcomes[str(answer.status)] += 1
    asking.close()
    with scene.connect() as sock:
        sock.sendall(raw_post(body))
        got = drain(sock, 1)
    return f"{counted(outcomes)}; then a chat: {told(got)}"


@attack(
    "hammer-503",
    "3 s of 503s on 20 connections (queue of 1)",
    models=[LOADING],
    config={"max_queue": 1},
)
def hammer(scene: Scene) -> str:
    body = b'{"model":"loading"}'
    request = raw_post(body)
    first, *socks = [scene.connect() for _ in range(21)]
    first.sendall(request)
    outcomes: Counter[str] = Counter()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        for sock in socks:
            sock.sendall(request)
        for sock in socks:
            answer = b""
            while not answer.endswith(b'"}') and (data := sock.recv(4096)):
                answer += data
            outcomes[answer[9:12].decode() or "closed"] += 1
        if outcomes["closed"]:
            break
    for sock in (first, *socks):
        sock.close()
    return counted(outcomes)
