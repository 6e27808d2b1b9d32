"""Attacks of hostile.py on what observes and manages: activity, capture, configuration, pages.

As attacks.py, which has those on the way of a request.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from attacks import CROWD, FORM, LOADING, Reading, form, pipelined, watchers
from scene import CHAT, CLOSE, JSON_TYPE, MB, Scene, attack, counted, drain, ours, raw_post, told

SSE = "/activity/sse"

#: Everything that was added for whoever looks on or manages, with the methods that it has.
ENDPOINTS = {
    "/ui/": "GET",
    "/ui/app.js": "GET",
    "/activity": "GET",
    SSE: "GET",
    "/models/sse": "GET",
    "/activity/an-id": "GET",
    "/activity/an-id/cancel": "POST",
    "/history?minutes=1440": "GET",
    "/config": "GET",
    "/config/check": "POST",
    "/config/reload": "POST",
    "/models/pin": "POST",
}


def ask(scene: Scene, path: str, headers: bytes = b"", method: str = "GET") -> str:
    """One request without a body; the status of its answer."""
    with scene.connect(10) as sock:
        head = f"{method} {path} HTTP/1.1\r\n".encode()
        host = b"" if b"Host:" in headers else b"Host: localhost\r\n"
        length = b"Content-Length: 0\r\n" if method == "POST" else b""
        sock.sendall(head + host + headers + length + CLOSE + b"\r\n")
        return (sock.recv(MB)[9:12] or b"closed").decode()


def text_of(scene: Scene, path: str, seconds: float = 2.0) -> str:
    """What is answered in so many seconds at most, head and all."""
    with scene.connect(10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + CLOSE + b"\r\n")
        got, end = b"", time.monotonic() + seconds
        while time.monotonic() < end:
            sock.settimeout(max(end - time.monotonic(), 0.01))
            with contextlib.suppress(TimeoutError):
                data = sock.recv(MB)
                if not data:
                    break
                got += data
    return got.decode(errors="surrogateescape")


def waiting(scene: Scene, count: int, request_id: Callable[[int], str]) -> list[socket.socket]:
    """Connections with a request each for a model that is never ready."""
    socks = []
    for number in range(count):
        sock = scene.connect()
        named = f"X-Request-Id: {request_id(number)}\r\n".encode()
        sock.sendall(raw_post(b'{"model":"loading","stream":true}', extra=named + JSON_TYPE))
        socks.append(sock)
    return socks


def first_statuses(socks: list[socket.socket]) -> Counter[str]:
    """Read once from each, and close it."""
    outcomes: Counter[str] = Counter()
    for sock in socks:
        sock.settimeout(10)
        try:
            outcomes[sock.recv(4096)[9:12].decode() or "closed"] += 1
        except OSError as error:
            outcomes[type(error).__name__] += 1
        sock.close()
    return outcomes


# --- The live table ---

#: So that thousands can wait for one model.
MANY = {"max_queue": 10_000}


@attack(
    "live-unread",
    f"100 watchers of {SSE} that never read, and 20,000 requests that are refused",
    5,
    models=[LOADING],
    config={"max_queue": 1, "activity_size": 1000},
)
def live_unread(scene: Scene) -> str:
    held = waiting(scene, 1, lambda _: "first")
    socks, outcomes = watchers(scene, 100, SSE)
    refused = pipelined(scene, raw_post(b'{"model":"loading"}'), 20_000 * 100)
    for sock in (*held, *socks):
        sock.close()
    return f"watchers: {counted(outcomes)}; {refused}"


@attack(
    "live-5000",
    f"5,000 requests that wait, and 60 watchers of {SSE} for 5 s",
    32,
    models=[LOADING],
    config=MANY,
)
def live_5000(scene: Scene) -> str:
    held = waiting(scene, 5000, lambda number: f"r{number}")
    socks, outcomes = watchers(scene, 60, SSE)
    reading = Reading(socks)
    reading.start()
    time.sleep(5)
    reading.over = True
    for sock in (*socks, *held):
        sock.close()
    return f"watchers: {counted(outcomes)}; {reading.size / MB:.1f} MB of events read"


@attack(
    "live-bodies",
    "15 bodies of 20 MB that wait, a HEAD of the live table, all leave; three times",
    300,
    models=[LOADING],
    config={"max_bodies_mb": 300, **MANY},
)
def live_bodies(scene: Scene) -> str:
    body = b'{"model":"loading","a":"%b"}' % (b"x" * 20 * MB)
    outcomes: Counter[str] = Counter()
    for _ in range(3):
        socks = []
        for _ in range(15):
            sock = scene.connect()
            with contextlib.suppress(OSError):
                sock.sendall(raw_post(body))
            socks.append(sock)
        time.sleep(0.5)
        outcomes[ask(scene, SSE, method="HEAD")] += 1
        for sock in socks:
            sock.close()
        time.sleep(0.2)
    return f"HEAD: {counted(outcomes)}"


@attack(
    "cancel-one-id",
    "2,000 requests with one id that wait, with watchers, and one cancel",
    2,
    models=[LOADING],
    config=MANY,
)
def cancel_one_id(scene: Scene) -> str:
    held = waiting(scene, 2000, lambda _: "same")
    socks, _ = watchers(scene, 20, SSE)
    time.sleep(1)
    answer = ask(scene, "/activity/same/cancel", method="POST")
    ended = first_statuses(held)
    for sock in socks:
        sock.close()
    return f"cancel: {answer}; ended: {counted(ended)}"


@attack(
    "cancel-storm",
    "1,000 requests that wait, and 4,000 cancels of them in one go",
    2,
    models=[LOADING],
    config=MANY,
)
def cancel_storm(scene: Scene) -> str:
    held = waiting(scene, 1000, lambda number: f"r{number}")
    time.sleep(0.5)
    orders = [raw_post(b"", f"/activity/r{number}/cancel") for number in range(1000)]
    with scene.connect() as sock:
        sock.settimeout(20)
        got = b""
        for _ in range(4):
            sock.sendall(b"".join(orders))
            wanted = got.count(b"HTTP/1.1 ") + len(orders)
            while got.count(b"HTTP/1.1 ") < wanted:
                data = sock.recv(MB)
                if not data:
                    break
                got += data
    statuses = Counter(got[m.end() : m.end() + 3].decode() for m in re.finditer(b"HTTP/1.1 ", got))
    return f"cancels: {counted(statuses)}; ended: {counted(first_statuses(held))}"


# --- Captured content ---

KEPT = {"capture": {"models": ["*"], "requests": 200, "max_kb": 64}, "activity_size": 1000}
#: MB that these may take: either body.
KEPT_MB = 200 * 2 * 64 / 1024


def captured(name: str, sent: str, count: int, size: float, make: Callable[[], bytes]) -> None:
    """An attack of so many bodies, each of `size` MB, whose content is read afterwards."""

    @attack(f"capture-{name}", sent, size + KEPT_MB, config=KEPT)
    def run(scene: Scene) -> str:
        outcomes: Counter[str] = Counter()
        request = make()
        for number in range(count):
            with scene.connect() as sock:
                at = request.index(b"\r\n") + 2
                sock.sendall(request[:at] + b"X-Request-Id: c%d\r\n" % number + request[at:])
                outcomes[told(drain(sock)).split(" (")[0]] += 1
        read = 0
        for number in range(count):
            read += len(text_of(scene, f"/activity/c{number}", 10))
        return f"{counted(outcomes)}; {read / MB:.1f} MB of content read"


def good(rest: bytes, extra: bytes = JSON_TYPE, path: str = CHAT) -> bytes:
    return raw_post(rest, path, extra + CLOSE)


captured(
    "nested",
    "10 bodies of 14 M brackets, captured",
    10,
    14,
    lambda: good(b'{"model":"good","a":' + b"[" * 7_000_000 + b"]" * 7_000_000 + b"}"),
)
captured(
    "quotes",
    "400 bodies of 200 KB of quotes, captured",
    400,
    0.2,
    lambda: good(b'{"model":"good","messages":[],"a":[' + b'"",' * 65_000 + b'""]}'),
)
captured(
    "keys",
    "400 bodies of 200 KB of api_key, captured",
    400,
    0.2,
    lambda: good(b'{"model":"good","messages":[],"a":[' + b'{"api_key":"x"},' * 12_000 + b"0]}"),
)
captured(
    "controls",
    "400 bodies of 200 KB of control characters, captured",
    400,
    0.2,
    lambda: good(b'{"model":"good","messages":[],"a":"' + b"\x7f\xc2\x9b" * 65_000 + b'"}'),
)
captured(
    "packed",
    "20 bodies of 60 KB, packed, that are 60 MB, captured",
    20,
    0.1,
    lambda: good(
        gzip.compress(bytes(60 * MB)),
        b"Content-Encoding: gzip\r\n" + JSON_TYPE,
        "/upstream/good" + CHAT,
    ),
)
captured(
    "form",
    "20 forms of 20 MB, captured",
    20,
    20,
    lambda: good(form(b'name="model"', b"good") + b"x" * 20 * MB, FORM, "/v1/audio/transcriptions"),
)
captured(
    "headers",
    "1,000 requests with 400 headers, captured",
    1000,
    1,
    lambda: good(
        b'{"model":"good","messages":[]}',
        b"".join(b"h%d: \xff\r\n" % number for number in range(400)) + JSON_TYPE,
    ),
)


# --- The configuration ---

BOMB = "".join(
    [
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n",
        *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    ]
).encode()
TEXTS = {
    "bomb": ("aliases of aliases (3 * 10^11 values)", BOMB),
    "brackets": ("1 MB of brackets", b"[" * (MB - 1)),
    "models": ("1 MB of models", b"models:\n" + b"- {name: a}\n" * 80_000),
    "digits": ("a number of 1 MB", b"a: " + b"9" * (MB - 10)),
}
for kind, (what, text) in TEXTS.items():

    @attack(f"check-{kind}", f"12 POST /config/check at once, each {what}", len(text) * 12 / MB)
    def check(scene: Scene, text: bytes = text) -> str:
        socks = [scene.connect(130) for _ in range(12)]
        for sock in socks:
            sock.sendall(raw_post(text, "/config/check", CLOSE))
        outcomes = Counter(told(drain(sock, 130)).split(" (")[0] for sock in socks)
        return counted(outcomes)


def children(pid: int) -> int:
    """How many processes a process has."""
    path = Path(f"/proc/{pid}/task")
    found = 0
    for task in path.iterdir():
        with contextlib.suppress(OSError):
            found += len((task / "children").read_text().split())
    return found


@attack("check-left", "100 POST /config/check of 1 MB of models, by clients that leave at once", 1)
def check_left(scene: Scene) -> str:
    text, before, most = TEXTS["models"][1], children(scene.pid), 0
    for _ in range(100):
        with scene.connect() as sock:
            sock.sendall(raw_post(text, "/config/check"))
            time.sleep(0.02)
        most = max(most, children(scene.pid) - before)
    return f"{most} processes at once"


def at_once(scene: Scene, count: int, request: bytes, seconds: float = 60) -> Counter[str]:
    """Each on a connection of its own."""
    socks = [scene.connect(seconds) for _ in range(count)]
    for sock in socks:
        sock.sendall(request)
    return Counter(told(drain(sock, seconds)).split(" (")[0] for sock in socks)


@attack("config-storm", "200 GET /config at once")
def config_storm(scene: Scene) -> str:
    return counted(
        at_once(
            scene, 200, f"GET /config HTTP/1.1\r\nHost: localhost\r\n{CLOSE.decode()}\r\n".encode()
        )
    )


for state in ("good", "faulty"):

    @attack(f"reload-storm-{state}", f"200 POST /config/reload at once, of a {state} file")
    def reload_storm(scene: Scene, state: str = state) -> str:
        if state == "faulty":
            scene.path.write_text("models: [" + "{a: b}," * 90 + "]")
        return counted(at_once(scene, 200, raw_post(b"", "/config/reload", CLOSE)))


@attack(
    "pin-storm", "512 KB of pipelined POST /models/pin, on and off", 0.5, models=[ours("other")]
)
def pin_storm(scene: Scene) -> str:
    orders = [
        raw_post(json.dumps({"model": "other", "pinned": on}).encode(), "/models/pin")
        for on in (True, False)
    ]
    return pipelined(scene, b"".join(orders), MB // 2)


@attack("pin-5000", "500 POST /models/pin among 5,000 models", models=CROWD)
def pin_5000(scene: Scene) -> str:
    outcomes: Counter[str] = Counter()
    for number in range(500):
        order = json.dumps({"model": CROWD[number]["name"], "pinned": number % 2 == 0})
        outcomes[scene.post(order.encode(), "/models/pin").split(" (")[0]] += 1
    return counted(outcomes)


@attack("history-storm", "2,000 GET /history of as many spans", config={"activity_size": 0})
def history_storm(scene: Scene) -> str:
    outcomes: Counter[str] = Counter()
    for number in range(2000):
        outcomes[ask(scene, f"/history?minutes={number % 1440 + 1}")] += 1
    return counted(outcomes)


# --- Names and ids ---

#: What a terminal or a page would act upon.
ODD = (
    "\x1b]0;PWNED\x07\x1b[2J",
    "<script>alert(1)</script>",
    "a\r\nX-Evil: 1\r\n\r\nHTTP/1.1 200 OK",
    "a\u2028b\u2029c\x85d",
    "\u202eevil\u202c\u200b\ufeff",
    '"} 1\nevil_metric{a="',
    "\ud800",
    "\x00\x7f\x9b31m",
)
#: None of these may be in a text for people, other than at the ends of its lines.
RAW = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u200b\ufeff]")


def odd_requests() -> Iterator[bytes]:
    for text in ODD:
        body = json.dumps({"model": text, "messages": []}).encode()
        yield raw_post(body, extra=CLOSE)
        encoded = quote(text.encode(errors="surrogatepass"))
        yield raw_post(b'{"model":"good"}', CHAT + "?" + encoded, CLOSE)
        yield raw_post(b"{}", f"/upstream/good/{encoded}", CLOSE)
        name = text.encode(errors="surrogatepass").replace(b"\r\n", b"").replace(b"\0", b"")
        yield raw_post(b'{"model":"good"}', extra=b"X-Request-Id: " + name + b"\r\n" + CLOSE)
        yield raw_post(b"", f"/activity/{encoded}/cancel", CLOSE)
        yield raw_post(json.dumps({"model": text}).encode(), "/models/pin", CLOSE)


@attack(
    "odd-names",
    "names, ids and paths with terminal escapes, HTML, line separators; then all that is told",
    config={"access_log": True, "capture": KEPT["capture"]},
)
def odd_names(scene: Scene) -> str:
    outcomes: Counter[str] = Counter()
    with Path(f"/proc/{scene.pid}/fd/1").open("rb") as log:
        log.seek(0, 2)
        for request in odd_requests():
            outcomes[scene.send([request])[:3]] += 1
        time.sleep(0.3)
        logged = log.read().decode(errors="replace")
    seen = {"the log": logged}
    for path in ("/activity", SSE, "/metrics", "/models/sse", "/health", "/ui/"):
        seen[path] = text_of(scene, path)
    entries = json.loads(seen["/activity"].partition("\r\n\r\n")[2])["data"]
    for number, entry in enumerate(entries[:50]):
        seen[f"entry {number}"] = text_of(scene, f"/activity/{quote(entry['id'], safe='')}")
        # As a program shows it that has read the JSON.
        shown = "".join(str(entry[key]) for key in ("id", "asked", "path", "reason", "client"))
        seen[f"text {number}"] = shown
    bad = [name for name, text in seen.items() if RAW.search(text)]
    forged = [
        name for name, text in seen.items() if re.search(r"^(evil_metric|X-Evil)", text, re.M)
    ]
    return f"{counted(outcomes)}; raw in {bad or 'none'}, forged lines in {forged or 'none'}"


# --- Pages ---


@attack("origins", "each of the endpoints for a page of another origin, in five ways")
def origins(scene: Scene) -> str:
    outcomes: Counter[str] = Counter()
    let_in = []
    for path, method in ENDPOINTS.items():
        for headers in (
            b"Origin: https://evil.example\r\n",
            b"Origin: null\r\n",
            b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\n",
            b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n",
            b"Host: rebound.evil.example\r\n",
        ):
            status = ask(scene, path, headers, method)
            outcomes[status] += 1
            if status != "403":
                let_in.append(f"{method} {path} {headers!r}")
        asked = f"Origin: https://evil.example\r\nAccess-Control-Request-Method: {method}\r\n"
        outcomes["preflight " + ask(scene, path, asked.encode(), "OPTIONS")] += 1
    return f"{counted(outcomes)}; let in: {let_in or 'none'}"


TRAVERSALS = (
    "/ui/../health/../../etc/passwd",
    "/ui/..%2fpages.py",
    "/ui/%2e%2e/pages.py",
    "/ui/%2e%2e%2fpages.py",
    "/ui/..%5cpages.py",
    "/ui/.",
    "/ui/..",
    "/ui/%00app.js",
    "/ui/app.js%00.txt",
    "/ui/app.js/",
    "/ui//app.js",
    "/ui/%252e%252e/pages.py",
    "/ui/%ff",
    "/ui/index.html%0d%0aX-Evil:1",
    "/ui//etc/passwd",
    "/ui/file:///etc/passwd",
    "/ui/" + "a" * 15_000,
    "/ui/uplot.LICENSE.txt",
    "/web/../ui/app.js",
    "/web/%2e%2e%2ftap.py",
    "//evil.example/ui/",
)


@attack("ui-paths", f"{len(TRAVERSALS)} paths that lead out of /ui/")
def ui_paths(scene: Scene) -> str:
    outcomes: Counter[str] = Counter()
    for path in TRAVERSALS:
        outcomes[ask(scene, path)] += 1
    return counted(outcomes)


@attack("methods", "HEAD, OPTIONS, PUT, DELETE, PATCH and TRACE of each endpoint, ten times")
def methods(scene: Scene) -> str:
    outcomes: Counter[str] = Counter()
    before = children(scene.pid)
    for _ in range(10):
        for path in ENDPOINTS:
            for method in ("HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"):
                outcomes[f"{method} {ask(scene, path, method=method)}"] += 1
    time.sleep(2)
    left = children(scene.pid) - before
    return f"{counted(outcomes)}; {left} processes are left"
