"""Promises of llamagw.proxy.connections: bodies have one budget, a drain ends with the last answer.

The real Site in memory (tests/support/bench.py).
"""

from __future__ import annotations

from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import (
    CHAT,
    STREAM_HEAD,
    answers,
    event,
    request,
    response,
)
from tests.support.wire import Wire

LIMIT = 1000
CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class DrainTests(BenchTestCase):
    def test_it_is_over_at_once_when_nobody_is_there(self) -> None:
        self.successResultOf(self.bench.site.connections.drain())

    def test_idle_connections_are_closed(self) -> None:
        client = self.bench.client(request(path="/health"))
        drained = self.bench.site.connections.drain()
        self.bench.settle()
        self.assertFalse(client.connected)
        self.successResultOf(drained)

    def test_a_running_answer_ends_whole_and_its_connection_after_it(self) -> None:
        client, backend = self.bench.streaming()
        drained = self.bench.site.connections.drain()
        self.bench.settle()
        self.assertNoResult(drained)
        backend.says(event(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertTrue(answer.whole)
        self.assertTrue(answer.body.endswith(b"data: [DONE]\n\n"))
        self.assertFalse(client.connected)
        self.successResultOf(drained)

    def test_an_answer_that_begins_later_says_that_it_is_the_last(self) -> None:
        client = self.bench.client(request({"model": "small"}))
        drained = self.bench.site.connections.drain()
        self.bench.backend().says(response(b"yes"))
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual((answer.body, answer.headers["Connection"]), (b"yes", "close"))
        self.successResultOf(drained)

    def test_pipelined_requests_behind_it_are_not_begun(self) -> None:
        ask = request({"model": "small"})
        client = self.bench.client(ask + ask)
        drained = self.bench.site.connections.drain()
        self.bench.backend().says(response(b"yes"))
        self.bench.settle()
        self.assertEqual(len(answers(bytes(client.heard))), 1)
        self.assertEqual(len(self.bench.asked), 1)
        self.successResultOf(drained)

    def test_a_request_that_is_still_arriving_is_answered_and_then_closed_on(self) -> None:
        says = request(path="/health")
        for cut in (10, len(says) - 4):
            client = self.bench.client(says[:cut])
            drained = self.bench.site.connections.drain()
            client.says(says[cut:])
            self.bench.settle()
            self.assertLessEqual(len(answers(bytes(client.heard))), 1)
            self.assertFalse(client.connected, cut)
            self.successResultOf(drained)

    def test_who_is_left_is_closed_on_when_told_to(self) -> None:
        client = self.bench.client(request({"model": "small"}))
        drained = self.bench.site.connections.drain()
        self.bench.site.connections.abort()
        self.bench.settle()
        self.assertFalse(client.connected)
        self.successResultOf(drained)


def unfinished(size: int, path: str = CHAT) -> bytes:
    """A request whose body lacks its last byte."""
    return request(b"x" * size, path=path)[:-1]


class BodiesTests(BenchTestCase):
    """All bodies that are held at a time have one budget."""

    def setUp(self) -> None:
        super().setUp()
        self.bench = Bench(max_body=LIMIT, max_bodies=2 * LIMIT)

    def held(self) -> int:
        return self.bench.site.connections.bodies.held

    def assert_refused(self, client: Wire) -> None:
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        error = self.assert_envelope(answer, 503)
        self.assertEqual(error["code"], "server_busy")
        self.assertIn("max_bodies_mb", error["message"])
        self.assertTrue(answer.headers["Retry-After"])

    def test_one_too_many_is_refused_and_those_that_are_in_go_on(self) -> None:
        first, second = (self.bench.client(unfinished(LIMIT)) for _ in range(2))
        self.assert_refused(self.bench.client(unfinished(LIMIT)))
        self.assert_refused(self.bench.client(CHUNKED + event(b"x" * LIMIT)))
        for client in (first, second):
            client.says(b"x")
            self.bench.settle()
            [answer] = answers(bytes(client.heard), "POST")
            self.assertEqual(answer.status, 400, "it is no JSON, and that was looked at")
        self.assertEqual(self.held(), 0)

    def test_a_length_that_does_not_fit_is_refused_before_the_body_comes(self) -> None:
        self.bench.client(unfinished(LIMIT))
        self.bench.client(unfinished(LIMIT // 2))
        head = unfinished(LIMIT)[: -LIMIT + 1]
        self.assert_refused(self.bench.client(head))

    def test_a_length_takes_no_room_before_its_bytes_are_there(self) -> None:
        for _ in range(10):
            self.bench.client(unfinished(LIMIT)[: -LIMIT + 1])
        self.assertEqual(self.held(), 0)

    def test_room_is_free_again_however_a_request_ends(self) -> None:
        for end in ("hang up", "time", "too large"):
            client = self.bench.client(CHUNKED + event(b"x" * 900))
            self.assertEqual(self.held(), 900)
            if end == "hang up":
                client.hangs_up()
            elif end == "time":
                self.bench.reactor.advance(self.bench.site.connections.request_timeout)
            else:
                client.says(event(b"x" * 200))
            self.bench.settle()
            self.assertEqual(self.held(), 0, end)

    def test_a_body_that_waits_for_its_model_is_held_and_one_that_is_answered_is_not(self) -> None:
        self.bench.hold()
        body = b'{"model": "small", "stream": true, "x": "%b"}' % (b"y" * 800)
        client = self.bench.client(request(body))
        self.assertEqual(self.held(), len(body))
        self.bench.ready()
        backend = self.bench.backend()
        self.assertEqual(self.held(), len(body), "it may have to be sent once more")
        backend.says(STREAM_HEAD + event(b"data: 1\n\n"))
        self.assertEqual(self.held(), 0, "for as long as the stream goes on")
        client.hangs_up()
        self.bench.settle()
        self.assertEqual(self.held(), 0)

    def test_what_comes_before_the_answer_is_out_is_held_too(self) -> None:
        self.bench.hold()
        client = self.bench.client(request({"model": "small"}))
        client.says(b"x" * LIMIT)
        self.assertGreaterEqual(self.held(), LIMIT)
        client.says(b"x" * 2 * LIMIT)
        self.bench.settle()
        self.assertFalse(client.connected)
        self.assertEqual(self.held(), 0)
