"""Faults 5 and 9, at random: whatever bytes a client or a backend sends, in whatever pieces, there
is no traceback, nobody hangs, and every lease comes back."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase

from llamagw.launch.restarts import HOLD_SEC
from tests.support.bench import Bench
from tests.support.messages import CHAT, STREAM_HEAD, cut_at, event, request, response
from tests.support.wire import Wire

# Deterministic, so that a red test is a change's doing; a soak may look elsewhere.
FUZZ = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)

BODY = json.dumps({"model": "small", "stream": True}).encode()
#: Where trouble is: the pieces of which requests and answers are made, right and wrong.
REQUEST_WORDS = [
    b"POST", b"GET", b"OPTIONS", b"HEAD", b"DELETE", b" ", b"/v1/chat/completions", b"/health",
    b"*", b"/v1/models/small", b"/%ff", b"?a=b&c", b"http://x/health",
    b" HTTP/1.1\r\n", b" HTTP/1.0\r\n",
    b"Host: x\r\n", b"Content-Length: %d\r\n" % len(BODY), b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999\r\n", b"Content-Length: x\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n", b"Content-Type: multipart/form-data\r\n", b"Cookie: a=b; c\r\n", b"\r\n",
    b"\n", b"\r", b": ", b"\0", b"\xff", BODY, b"%x\r\n" % len(BODY), b"0\r\n\r\n", b'{"model": 1}',
    b'{"model": "none"}', b"[" * 2000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01",
]  # fmt: skip
ANSWER_WORDS = [
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n",
    b"HTTP/1.1 204 \r\n",
    b"HTTP/1.1 304 Not Modified\r\n", b"HTTP/1.1 101 Upgrade\r\n", b"HTTP/1.1 999\r\n", b"HTTP/9 ",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Content-Length: -1\r\n", b"hello",
    b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"\n",
    b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n", b"\0",
    b"Upgrade: websocket\r\n", b"Content-Type: text/event-stream\r\n", b"X: \xff\r\n",
    b" folded\r\n",
    b"5\r\nhello\r\n", b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"ffffffffffffffffff\r\n", b"-5\r\n",
    b": ",
    b"data: [DONE]\n\n", b"data: {", response(), STREAM_HEAD, event(b"data: 1\n\n"),
]  # fmt: skip


def made_of(words: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(words) | st.binary(max_size=8), max_size=14).map(b"".join)


def broken(whole: bytes) -> st.SearchStrategy[bytes]:
    """Something right, with a few bytes changed, gone or doubled."""

    def breaks(seed: int) -> bytes:
        chance, data = random.Random(seed), bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            piece = chance.choice([b"", b"\r", b"\n", b"\0", b":", b" ", b"9", bytes([at % 256])])
            data[at : at + chance.randint(0, 3)] = piece
        return bytes(data)

    return st.integers(0, 2**32).map(breaks)


REQUESTS = made_of(REQUEST_WORDS) | broken(request(BODY)) | broken(request(BODY) * 2)
CHUNKED_ANSWER = STREAM_HEAD + event(b"data: 1\n\n") + b"0\r\n\r\n"
ANSWERS = made_of(ANSWER_WORDS) | broken(response(b"hello")) | broken(CHUNKED_ANSWER)
PIECES = st.lists(st.integers(0, 300), max_size=6)


class FuzzTests(SynchronousTestCase):
    """Each example is a gateway of its own, in memory, with a clock of its own."""

    def run_to_the_end(self, bench: Bench, clients: list[Wire]) -> None:
        """Time passes until all that may time out has; then nothing is left of anybody."""
        for _ in range(8):
            bench.reactor.advance(100)
            bench.settle()
        for client in clients:
            self.assertFalse(client.connected, "its connection is still open")
        self.assertEqual(len(bench.site.connections.open), 0)
        self.assertEqual((bench.in_flight, bench.waiting), (0, 0))
        drained = bench.dispatcher.drain()
        bench.settle()
        self.successResultOf(drained)
        self.assertEqual(self.flushLoggedErrors(), [])

    def serve(self, bench: Bench, answer: Callable[[Wire], Any]) -> list[Wire]:
        """Play the backends that the gateway connects to, until it wants no more."""
        served: list[Wire] = []
        for _ in range(10):
            bench.settle()
            while bench.wanted():
                served.append(bench.backend())
                answer(served[-1])
        return served

    def give_up(self, bench: Bench, backends: list[Wire]) -> None:
        """Whoever was to give something does not: no backend lives, and nobody waits for one."""
        bench.go_on()
        for _ in range(4):
            backends += self.serve(bench, lambda backend: backend.hangs_up())
            for backend in backends:
                backend.hangs_up()
            if bench.waiting:  # for an engine that has crashed more than once
                bench.reactor.advance(HOLD_SEC)

    @FUZZ
    @given(REQUESTS, PIECES, st.booleans(), st.booleans())
    def test_whatever_a_client_sends_is_answered_or_cut(
        self, data: bytes, places: list[int], hangs_up: bool, sound: bool
    ) -> None:
        bench = Bench(max_body=4096)
        client = bench.client(*cut_at(data, places))
        if hangs_up:
            client.hangs_up(reset=not sound)

        def answer(backend: Wire) -> None:
            if sound:
                backend.says(response())
            else:
                backend.hangs_up()

        self.give_up(bench, self.serve(bench, answer))
        self.run_to_the_end(bench, [client])
        if client.heard:
            self.assertTrue(client.heard.startswith(b"HTTP/1."), bytes(client.heard[:100]))

    @FUZZ
    @given(ANSWERS, PIECES, st.sampled_from(["closes", "resets", "stays"]), st.booleans())
    def test_whatever_a_backend_sends_its_client_is_answered_or_cut(
        self, data: bytes, places: list[int], end: str, stream: bool
    ) -> None:
        bench = Bench()
        client = bench.client(request({"model": "small", "stream": stream}))

        def answer(backend: Wire) -> None:
            for piece in cut_at(data, places):
                backend.says(piece)
            if end != "stays":
                backend.hangs_up(reset=end == "resets")

        backends = self.serve(bench, answer)
        answered = bytes(client.heard)
        # What a backend that is alive leaves open is its own affair; but it does not live for ever.
        self.give_up(bench, backends)
        self.run_to_the_end(bench, [client])
        self.assertTrue(client.heard.startswith(b"HTTP/1.1 "), bytes(client.heard[:100]))
        self.assertTrue(bytes(client.heard).startswith(answered))
        self.assertLessEqual(len(backends), 3)

    @FUZZ
    @given(ANSWERS, ANSWERS, PIECES)
    def test_whatever_came_before_the_next_one_on_that_connection_gets_its_own_answer(
        self, first: bytes, late: bytes, places: list[int]
    ) -> None:
        """No answer, and no part of one, is ever given to a request that it is not for."""
        bench = Bench()
        client = bench.client(request({"model": "small"}))
        backend = bench.backend()
        for piece in cut_at(first, places):
            backend.says(piece)
        bench.settle()
        backend.says(late)
        bench.settle()
        second = bench.client(request({"model": "small"}))
        asked = bytes(backend.heard).count(CHAT.encode()) > 1

        def answer(other: Wire) -> None:
            other.says(response(b'{"mine": true}'))

        if asked:
            # It was found in order. A backend that answers in time answers the second one too.
            backend.says(response(b'{"mine": true}'))
        others = self.serve(bench, answer)
        self.assertTrue(second.heard.endswith(b'{"mine": true}'), bytes(second.heard))
        self.give_up(bench, [backend, *others])
        self.run_to_the_end(bench, [client, second])

    @FUZZ
    @given(st.lists(st.sampled_from("rbhstlaxc"), max_size=25), st.integers(0, 2**32))
    def test_whatever_happens_in_whatever_order_nothing_is_left_over(
        self, story: list[str], seed: int
    ) -> None:
        """Requests, answers, stalls, ends, refusals, loads and crashes, in any order."""
        bench = Bench(keepalive=seed % 2)
        if seed % 3 == 0:
            bench.hold()
        chance = random.Random(seed)
        clients: list[Wire] = []
        backends: list[Wire] = []

        def one(wires: list[Wire]) -> Wire | None:
            living = [w for w in wires if w.connected]
            return chance.choice(living) if living else None

        for what in story:
            client, backend = one(clients), one(backends)
            if what == "r":
                stream = chance.random() < 0.5
                clients.append(bench.client(request({"model": "small", "stream": stream})))
            elif what == "x" and bench.wanted():
                bench.refuse(ConnectionRefusedError())
            elif what == "a" and bench.waiting:
                bench.ready()
            elif what == "c":
                bench.crash()
            elif what == "h" and client:
                client.hangs_up(reset=chance.random() < 0.5)
            elif what == "s" and client:
                client.stalls() if chance.random() < 0.5 else client.reads_on()
            elif what == "t":
                bench.reactor.advance(chance.choice([0.1, 2, 10]))
            elif what == "b" and bench.wanted():
                backends.append(bench.backend())
            elif what == "l" and backend:
                backend.hangs_up() if chance.random() < 0.5 else backend.says(
                    chance.choice(
                        [response(), STREAM_HEAD, event(b"data: 1\n\n" * 9000), b"0\r\n\r\n", b"?"]
                    )
                )
            bench.settle()
        self.give_up(bench, backends)
        self.run_to_the_end(bench, clients)
