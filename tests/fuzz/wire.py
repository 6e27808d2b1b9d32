"""Fuzz targets of the two HTTP sides: bytes of a client, bytes of a backend, in any pieces.

What is checked is what a second parser (h11) makes of the same bytes, and that the gateway says
nothing that h11 would not take. The gateway is `Bench`, in memory. That no connection, lease or
timer is left over is tests/faults/test_fuzz.py's affair.
"""

from __future__ import annotations

import gc
import random
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import h11
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel, formatEvent

from llamagw.net import Connector, Headers, Pool, Upstream, UpstreamLost
from llamagw.net.client import MAX_HEAD
from llamagw.proxy.request import Request
from llamagw.proxy.site import Site
from tests.support.bench import Bench
from tests.support.logs import observe
from tests.support.messages import CHAT, cut_at, request, response
from tests.support.wire import BACKEND, Wire

#: An input that ends so goes on with its last bytes for a long time.
ENDLESS = b"~~"
#: Bytes of such an input: more than a client, or a backend, may make the gateway hold.
CLIENT_FLOOD, BACKEND_FLOOD = 112 * 1024, 400 * 1024
MAX_BODY = 4096

#: What a backend's answer may hold.
HELD_OF_ANSWER = MAX_HEAD + 64 * 1024

#: What a connection may hold: a body, a head or Twisted's 64 KB of trailers, and one read.
HELD = MAX_BODY + 80 * 1024


class Exchange(NamedTuple):
    """A request, as one of the parsers understood it."""

    method: bytes
    target: bytes
    body: bytes


class Answer(NamedTuple):
    """An answer, as h11 understood it."""

    status: int
    body: bytes
    whole: bool


@contextmanager
def no_errors() -> Iterator[None]:
    """Nothing is logged as an error meanwhile."""
    errors: list[str] = []

    def note(event: LogEvent) -> None:
        if event["log_level"] >= LogLevel.error:
            failure = event.get("log_failure")
            errors.append(failure.getTraceback() if failure else formatEvent(event))

    stop = observe(note)
    try:
        yield
    finally:
        stop()
    assert not errors, errors[0]


def pieces(data: bytes) -> list[bytes]:
    """The data in pieces that depend on nothing but the data."""
    chance = random.Random(zlib.crc32(data))
    return cut_at(data, (chance.randrange(len(data) + 1) for _ in range(chance.randint(1, 8))))


def flood(data: bytes, size: int) -> tuple[bytes, list[bytes]]:
    """What an input is, and what follows without an end, in reads of 32 KB."""
    if not data.endswith(ENDLESS):
        return data, []
    data = data[: -len(ENDLESS)]
    again = data[-64:]
    read = again * (32768 // max(len(again), 1))
    return data, [read] * (size // len(read)) if read else []


def held(*roots: object) -> int:
    """Bytes of data that can be reached from these objects."""
    others = (type, ModuleType, FunctionType, BuiltinFunctionType, Wire, Clock, Site, Pool)
    seen: set[int] = set()
    todo: list[object] = [*roots]
    total = 0
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, others):
            continue
        seen.add(id(one))
        if isinstance(one, bytes | bytearray | str):
            total += len(one)
        else:
            todo.extend(gc.get_referents(one))
    return total


def read_requests(data: bytes) -> tuple[list[Exchange], str | None]:
    """
    The requests that h11 finds in what a client sent.

    :return: those, and what is wrong with what follows them, if it says that something is
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    found: list[Exchange] = []
    parser.receive_data(data)
    try:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                found.append(Exchange(head.method, head.target, body))
                status = 400 if head.method == b"CONNECT" else 200
                parser.send(h11.Response(status_code=status, headers=[("content-length", "0")]))
                parser.send(h11.EndOfMessage())
                if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
                    return found, None
                parser.start_next_cycle()
            else:
                return found, None
    except h11.RemoteProtocolError as error:
        return found, str(error)


def read_answers(
    heard: bytes, methods: list[bytes], closed: bool, upgrade: bool = False
) -> list[Answer]:
    """
    What a client makes of what it heard: one answer for each request, and maybe a refusal.

    :param methods: those of the requests that the gateway read to their end
    :param closed: whether the gateway has closed the connection
    :param upgrade: whether the first one asked for another protocol
    """
    found: list[Answer] = []
    rest = bytes(heard)
    while rest:
        refusal = len(found) == len(methods)
        assert len(found) <= len(methods), f"more answers than requests: {rest[:80]!r}"
        method = b"GET" if refusal or methods[len(found)] != b"HEAD" else b"HEAD"
        headers = [(b"host", b"x")]
        if upgrade and not found:
            headers += [(b"connection", b"upgrade"), (b"upgrade", b"websocket")]
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
        parser.send(h11.Request(method=method, target=b"/", headers=headers))
        parser.send(h11.EndOfMessage())
        parser.receive_data(rest)
        status, body, whole, ended = 0, b"", False, False
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                if not (ended and status):
                    raise AssertionError(f"not HTTP: {error}: {rest[:200]!r}") from None
                event, rest = h11.ConnectionClosed(), b""
            if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                return [*found, Answer(101, b"", True)]
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                whole = True
                rest = b"" if ended else parser.trailing_data[0]
                break
            elif event is h11.NEED_DATA and closed and not ended:
                ended = True
                parser.receive_data(b"")
            elif not isinstance(event, h11.InformationalResponse):
                rest = b""
                break
        if not status:
            # Nothing but 1xx: the answer is still to come.
            assert not parser.trailing_data[0], f"half a head: {parser.trailing_data[0]!r}"
            break
        found.append(Answer(status, body, whole))
        last = parser.their_state is not h11.DONE or refusal
        assert not (last and rest), f"goes on after the last answer: {rest[:80]!r}"
        if whole and last:
            assert closed, "the connection stays open after the last answer"
    return found


class Gateway:
    """A gateway, one client of it, and backends that answer each request that h11 finds."""

    def __init__(self) -> None:
        self.bench = Bench(max_body=MAX_BODY)
        self.handled: list[Exchange] = []
        #: What the backends were asked, as h11 understood it.
        self.relayed: list[Exchange] = []
        self.backends: list[tuple[Wire, h11.Connection, list[int]]] = []
        handled = self.handled

        class Recorded(Request):
            def process(self) -> None:
                handled.append(Exchange(self.method, self.uri, self.body))
                super().process()

        self.bench.site.requestFactory = Recorded
        self.client = self.bench.client()
        self.channel = self.client.protocol

    @property
    def closed(self) -> bool:
        return self.client.ended is not None or not self.client.connected

    def play(self, answer: bytes = response()) -> None:
        """Let the backends answer until nothing more is asked."""
        for _ in range(20):
            self.bench.settle()
            before = len(self.relayed), len(self.backends)
            while self.bench.wanted():
                parser = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
                self.backends.append((self.bench.backend(), parser, [0]))
            for backend in self.backends:
                self._answer(*backend, answer)
            if before == (len(self.relayed), len(self.backends)):
                return

    def _answer(self, wire: Wire, parser: h11.Connection, read: list[int], answer: bytes) -> None:
        while wire.connected:
            if len(wire.heard) == read[0]:
                return  # to h11 nothing is the end
            parser.receive_data(bytes(wire.heard[read[0] :]))
            read[0] = len(wire.heard)
            body = b""
            while True:
                try:
                    event = parser.next_event()
                except h11.RemoteProtocolError as error:
                    # The gateway leaves it to the backend what 8-bit characters of a query mean.
                    first, _, _ = bytes(wire.heard).rpartition(b" HTTP/1.1\r\n")
                    if first.isascii() or "illegal request line" not in str(error):
                        raise
                    return wire.hangs_up()
                if isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
            if not isinstance(event, h11.EndOfMessage):
                return
            self.relayed.append(Exchange(head.method, head.target, body))
            parser.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            assert parser.our_state is h11.DONE, "the backend would close here"
            parser.start_next_cycle()
            wire.says(
                answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.method == b"HEAD" else answer
            )
            self.bench.settle()

    def leave(self) -> None:
        """The client goes, then the backends."""
        self.client.hangs_up()
        self.bench.settle()
        for backend, *_ in self.backends:
            backend.hangs_up()
        self.bench.settle()
        assert self.bench.in_flight == 0, "a lease is left"


def client(data: bytes) -> None:
    """What a client sends."""
    data, more = flood(data, CLIENT_FLOOD)
    with no_errors():
        whole = _client([data], more)
        if not more and len(data) > 1:
            parts = _client(pieces(data), [])
            assert parts == whole, f"in pieces it is {parts!r}, and whole {whole!r}"


#: Where h11 is stricter than need be: all of these requests mean one thing only. What a backend is
#: asked is read by h11 too, and without these.
_HARMLESS = (
    "Missing mandatory Host: header",
    "Found multiple Host: headers",
    "illegal request line",  # 8-bit characters in a path
)


def _client(sent: list[bytes], more: list[bytes]) -> list[Exchange]:
    gateway = Gateway()
    handled, wire = gateway.handled, gateway.client
    for data in sent:
        wire.says(data)
        gateway.play()
    if more:
        before = held(gateway.channel)
        for data in more:
            # A peer cannot send more to one who does not read.
            if not wire.paused:
                wire.says(data)
        grown = held(gateway.channel) - before
        assert grown < HELD, f"it holds {grown} bytes more"
        gateway.play()
    methods = [one.method for one in handled]
    if gateway.channel.refused:
        # Nobody handled it; an answer to HEAD has no body.
        methods.append(gateway.channel.request_line[0])
    answers = read_answers(bytes(wire.heard), methods, gateway.closed)
    assert all(answer.whole for answer in answers), "an answer is not whole"
    assert len(answers) >= len(handled), "a request is not answered"
    assert all(len(one.body) <= MAX_BODY for one in handled)
    same = list(handled)
    for one in gateway.relayed:
        _stays_in_place(one.target)
        while same and (same[0].method, same[0].body) != (one.method, one.body):
            same.pop(0)
        assert same, f"asked of a backend, and by no client: {one!r}"
        same.pop(0)
    if not more:
        others, wrong = read_requests(b"".join(sent))
        for ours, other in zip(handled, others, strict=False):
            assert ours == other, f"h11 reads {other!r}, we {ours!r}"
        if len(handled) > len(others):
            refused = 400 <= answers[len(others)].status < 500
            ours = handled[len(others)]
            assert refused or str(wrong).startswith(_HARMLESS), (
                f"h11 refuses it ({wrong}), we read {ours!r}"
            )
        elif len(handled) < len(others):
            # Trailers with a bare LF, which h11 takes, are refused when they have ended.
            inside = gateway.channel.requests and re.search(rb"(?<!\r)\n", b"".join(sent))
            assert gateway.closed or inside, f"h11 reads {others[len(handled)]!r}, we wait"
    gateway.leave()
    return handled


def _stays_in_place(target: bytes) -> None:
    """No backend may find a path in it that leads out of where it begins, decoded once or more."""
    path, _, _ = target.partition(b"?")
    assert path.startswith(b"/"), target
    for _ in range(3):
        assert b"\\" not in path, target
        assert not {b".", b".."} & {*path.split(b"/")}, target
        path = unquote_to_bytes(path)


class Kind(NamedTuple):
    """A request that a backend's bytes are the answer to."""

    says: bytes
    method: bytes = b"POST"
    upgrade: bool = False


_UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
KINDS = [
    Kind(request({"model": "small"})),
    Kind(request({"model": "small", "stream": True})),
    Kind(request({"model": "small", "stream": True}, path="/v1/messages")),
    Kind(request({"model": "small"}, version="HTTP/1.0")),
    Kind(request(path="/upstream/small/x", method="HEAD"), b"HEAD"),
    Kind(request(path="/upstream/small/x"), b"GET"),
    Kind(request(path="/upstream/small/x", headers=_UPGRADE), b"GET", upgrade=True),
]
ENDS = ["closes", "resets", "stays"]
MARK = b'{"second": true}'


def variant(data: bytes) -> tuple[Kind, str, bytes]:
    """The first byte says, as a letter from `a` on, to what the rest is an answer, and its end."""
    number = (data[0] - 97) % (len(KINDS) * len(ENDS)) if data else 0
    return KINDS[number // len(ENDS)], ENDS[number % len(ENDS)], data[1:]


def backend(data: bytes) -> None:
    """What a backend answers; then the same client asks a second time."""
    kind, end, data = variant(data)
    data, more = flood(data, BACKEND_FLOOD)
    with no_errors():
        _backend(kind, end, [data], more)
        if not more and len(data) > 1:
            _backend(kind, end, pieces(data), [])


def _backend(kind: Kind, end: str, says: list[bytes], more: list[bytes]) -> None:
    gateway = Gateway()
    bench, wire = gateway.bench, gateway.client
    wire.says(kind.says)
    bench.settle()
    first = bench.backend()
    asked = len(first.heard)
    for data in says:
        first.says(data)
    before = held(first.protocol)
    for data in more:
        first.says(data)
    grown = held(first.protocol) - before
    assert grown < HELD_OF_ANSWER, f"it holds {grown} bytes more"
    if end != "stays":
        first.hangs_up(reset=end == "resets")
    for _ in range(4):
        bench.settle()
        while bench.wanted():
            bench.backend().hangs_up()
    wire.says(request({"model": "small"}))
    bench.settle()
    if first.connected and len(first.heard) > asked and first.ended is None:
        # It was found in order. A backend that answers in time answers the second one too.
        first.says(response(MARK))
    gateway.play(response(MARK))
    first.hangs_up()
    gateway.play(response(MARK))
    methods = [one.method for one in gateway.handled]
    answers = read_answers(bytes(wire.heard), methods, gateway.closed, kind.upgrade)
    if answers and answers[0].status != 101:
        assert gateway.closed or len(answers) == 2, "a request is not answered"
        for second in answers[1:]:
            assert second.body == MARK, f"the second request is answered with {second!r}"
    gateway.leave()


class Recorder:
    """A `Receiver` that keeps what it is told, and sees to it that it is told it in order."""

    def __init__(self) -> None:
        self.told: tuple[int, bytes, Headers] | None = None
        self.data = b""
        self.end = ""

    @property
    def status(self) -> int:
        """Of the answer whose head has come."""
        assert self.told is not None, "no head has come"
        return self.told[0]

    def head(self, status: int, reason: bytes, headers: Headers, data: bytes, whole: bool) -> None:
        assert self.told is None, "a second head"
        assert not self.end
        assert status == 101 or status >= 200, f"a head that is not the last: {status}"
        self.told, self.data = (status, reason, list(headers)), data

    def body(self, data: bytes) -> None:
        assert self.told is not None, "a body without a head"
        assert data, "an empty part of a body"
        assert not self.end, f"more of a body that has {self.end}"
        self.data += data

    def ended(self) -> None:
        assert self.told is not None, "the end of an answer without a head"
        assert not self.end, "ended twice"
        self.end = "ended"

    def lost(self, error: UpstreamLost) -> None:
        assert not self.end, "lost twice"
        assert str(error).isprintable(), f"the reason has characters that are not: {error}"
        self.end = "lost"


def upstream(data: bytes) -> None:
    """What a backend answers, as a `Receiver` hears of it."""
    kind, end, data = variant(data)
    data, more = flood(data, BACKEND_FLOOD)
    with no_errors():
        whole = _upstream(kind, end, [data], more)
        if not more and len(data) > 1:
            parts = _upstream(kind, end, pieces(data), [])
            assert parts.end == whole.end, f"in pieces it {parts.end}, whole it {whole.end}"
            if whole.end == "ended":
                assert (parts.told, parts.data) == (whole.told, whole.data)
        if not more and whole.end == "ended" and end == "closes" and whole.status != 101:
            other = _second_opinion(kind, data)
            if other is not None:
                found = Answer(whole.status, whole.data, True)
                assert found == other, f"h11 reads {other!r}, we {found!r}"


def _second_opinion(kind: Kind, data: bytes) -> Answer | None:
    """The answer that h11 reads; None if it would not take it."""
    try:
        return read_answers(data, [kind.method], closed=True, upgrade=kind.upgrade)[0]
    except AssertionError:
        return None


def _upstream(kind: Kind, end: str, says: list[bytes], more: list[bytes]) -> Recorder:
    clock: Any = Clock()
    pool = Pool(clock, Connector(clock))
    connection = Upstream(pool, BACKEND)
    wire = Wire(clock)
    wire.attach(connection)
    recorder = Recorder()
    connection.send(b"", b"", recorder, bare=kind.method == b"HEAD", upgrade=kind.upgrade)
    for data in says:
        wire.says(data)
        clock.advance(0)
    before = held(connection) if more else 0
    for data in more:
        wire.says(data)
        recorder.data = b""
        clock.advance(0)
    if more:
        grown = held(connection) - before
        assert grown < HELD_OF_ANSWER, f"it holds {grown} bytes more"
        # What the parser holds is not seen from here.
        assert recorder.told or recorder.end, f"it waits for a head of over {MAX_HEAD} bytes"
    if end != "stays":
        wire.hangs_up(reset=end == "resets")
    clock.advance(0)
    if not wire.connected:
        assert recorder.end, "nobody is told how it ended"
    elif recorder.end and wire.ended is None:
        assert pool.take(BACKEND) is connection, "the connection is kept, and not for use"
    pool.close()
    return recorder


_METHODS = [b"POST ", b"GET ", b"OPTIONS ", b"HEAD ", b"DELETE ", b"CONNECT "]
CLIENT_WORDS = [
    *_METHODS, CHAT.encode(), b"/v1/embeddings", b"/health", b"/models", b"*", b"/v1/models/small",
    b"/upstream/small/x", b"/../", b"%2e", b"%5c", b"%25", b"/v1/audio/transcriptions",
    b"/tokenize?model=small", b"/v1/messages",
    b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"Host: x\r\n", b"Content-Length: 18\r\n", b"\r\n\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 99999999999\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: ", b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"identity",
    b"Expect: 100-continue\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Cookie: a=b; c\r\n",
    b"Content-Type: multipart/form-data; boundary=b\r\n", b"\r\n", b"\n", b"\r", b": ", b"\0",
    b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nsmall\r\n--b--\r\n", b"\xff",
    b'{"model": "small"}', b'{"model": "none"}', b"12\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n",
    b";ext=1", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01", b"\x0b", b"\x85", b"\t",
    b"http://x", b"+5", b"0x5", b"5, 5", b"Access-Control-Request-Headers: "
,
]  # fmt: skip
BACKEND_WORDS = [
    *(bytes([97 + number]) for number in range(len(KINDS) * len(ENDS))),
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 \r\n", b"HTTP/1.1 304 Not Modified\r\n", b"HTTP/1.1 101 Upgrade\r\n",
    b"HTTP/1.1 999\r\n", b"HTTP/9 ", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n",
    b"Content-Length: -1\r\n", b"hello", b"Content-Length: 99999999999999999999\r\n", b"\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n",
    b"Connection: content-length\r\n", b"Connection: transfer-encoding\r\n", b"\n", b"\0",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Content-Type: text/event-stream\r\n",
    b"X: \xff\r\n", b" folded\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"X: ",
    b"0\r\n", b"ffffffffffffffff\r\n", b"-5\r\n", b";ext=1", b": ", b"data: [DONE]\n\n", b"data: {",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.1 502 X\r\n", b", "
,
]  # fmt: skip
