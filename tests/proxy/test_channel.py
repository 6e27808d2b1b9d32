"""Promises of llamagw.proxy.channel: odd HTTP is refused, slow clients are cut off, all in turns.

The real Site in memory (tests/support/bench.py).
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from llamagw.proxy.channel import HEADER_NAME, LINGER_SEC, PIPELINED, READ_AT_LEAST, SLOWEST
from llamagw.proxy.connections import LARGE
from llamagw.proxy.request import CHUNK_BYTES, DENSE, FREE_CHUNKS, Request
from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import (
    CHAT,
    Answer,
    answers,
    chunked,
    event,
    request,
    response,
)
from tests.support.wire import HIGH_WATER

CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class BadHttpTests(BenchTestCase):
    """Twisted's own 400s, which have no body, become envelopes."""

    def refused(self, *says: bytes) -> Answer:
        client = self.bench.client(*says)
        self.bench.settle()
        [answer] = answers(bytes(client.heard))
        self.assertEqual(self.assert_envelope(answer, 400)["type"], "invalid_request_error")
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertIn(client.ended, ("lose", "half"))
        self.assertEqual((self.bench.asked, self.bench.connects), ([], 0))
        self.assertEqual(self.flushLoggedErrors(), [])
        self.bench.reactor.pump([1.0] * (LINGER_SEC + 1))
        self.assertFalse(client.connected)
        return answer

    def test_a_line_that_is_no_request(self) -> None:
        for line in (b"hello\r\n", b"GET /\r\n", b"GET / HTTP/9.9\r\n", b"G\xe9T / HTTP/1.1\r\n"):
            self.refused(line + b"\r\n")

    def test_a_tls_client(self) -> None:
        self.refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")

    def test_a_path_that_is_not_ascii(self) -> None:
        self.refused(b"GET /v1/\xff HTTP/1.1\r\nHost: x\r\n\r\n")

    def test_a_line_that_is_no_header(self) -> None:
        for line in (b"nonsense", b"Na me: x", b": x", b"X: a\0b", b"X: \x0b", b"X: \x1b[31m"):
            self.refused(b"GET /health HTTP/1.1\r\n" + line + b"\r\n\r\n")

    def test_lengths_that_contradict_or_are_none(self) -> None:
        for lines in (
            b"Content-Length: 1\r\nContent-Length: 2",
            b"Content-Length: x",
            b"Content-Length: -1",
            b"Content-Length: 1\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: gzip",
        ):
            self.refused(b"POST %b HTTP/1.1\r\n%b\r\n\r\n" % (CHAT.encode(), lines))

    def test_a_request_line_that_is_too_long(self) -> None:
        self.refused(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n")

    def test_a_request_line_that_does_not_end(self) -> None:
        self.refused(b"GET /", *[b"x" * 1000] * 20)

    def test_headers_that_are_too_many(self) -> None:
        lines = b"".join(b"X-%d: y\r\n" % number for number in range(1000))
        self.refused(b"GET /health HTTP/1.1\r\n" + lines + b"\r\n")

    def test_headers_that_are_too_long_together(self) -> None:
        lines = b"".join(b"X-%d: %b\r\n" % (number, b"y" * 4000) for number in range(10))
        self.refused(b"GET /health HTTP/1.1\r\n" + lines + b"\r\n")

    def test_a_chunk_that_is_none(self) -> None:
        self.refused(CHUNKED, b"zz\r\n")
        self.refused(CHUNKED, b'5\r\n{"mod', b"Xel\r\n")

    def test_a_line_behind_the_last_chunk_that_is_no_header(self) -> None:
        """A server that takes a bare LF for the end of a line finds a second request here."""
        second = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        for line in (b"X: a\n\n", b"\n", b"X: a\n", b"nonsense\r\n", b" X: a\r\n", b"X: \0\r\n"):
            self.refused(CHUNKED, b"0\r\n" + line + second)

    def test_a_trailer_is_taken(self) -> None:
        body = b'{"model": "small"}'
        client = self.bench.client(
            CHUNKED + chunked([body])[:-2] + b"X-Sum: \xe9 1\r\nEmpty:\r\n\r\n"
        )
        self.bench.backend().says(response())
        [answer] = answers(bytes(client.heard))
        self.assertEqual(answer.status, 200)

    @settings(deadline=None, max_examples=100)
    @given(reads=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6))
    def test_whatever_comes_is_answered_with_json_or_waited_for(self, reads: list[bytes]) -> None:
        bench = Bench()
        client = bench.client(*reads, b"\r\n\r\n")
        bench.settle()
        for answer in answers(bytes(client.heard)):
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "*")
            self.assertEqual(list(answer.json()), ["error", "request_id"])
        self.assertEqual(self.flushLoggedErrors(), [])


class ConnectionTests(BenchTestCase):
    def test_a_client_that_waits_for_the_go_ahead_gets_it(self) -> None:
        whole = request({"model": "small"}, headers=[("Expect", "100-continue")])
        head, _, body = whole.partition(b"\r\n\r\n")
        client = self.bench.client(head + b"\r\n\r\n")
        self.assertEqual(bytes(client.heard), b"HTTP/1.1 100 Continue\r\n\r\n")
        client.says(body)
        self.bench.backend().says(response(b"yes"))
        self.assertEqual(answers(bytes(client.heard), "POST")[0].body, b"yes")

    def test_an_http_1_0_client_is_answered_in_its_own_terms(self) -> None:
        client = self.bench.client(request(path="/health", version="HTTP/1.0"))
        self.bench.settle()
        self.assertTrue(client.heard.startswith(b"HTTP/1.0 200 OK\r\n"))
        self.assertNotIn(b"Transfer-Encoding", client.heard)
        self.assertEqual(answers(bytes(client.heard))[0].json()["status"], "ok")
        self.assertFalse(client.connected)

    def test_a_head_is_answered_without_a_body(self) -> None:
        client = self.bench.client(request(path="/health", method="HEAD"))
        self.bench.settle()
        head, _, rest = bytes(client.heard).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertRegex(head, rb"Content-Length: [1-9]")
        self.assertEqual(rest, b"")
        self.assertTrue(client.connected)

    def test_a_head_of_what_is_not_there_has_no_body_either(self) -> None:
        for path in (CHAT, "/nothing", "/v1/models/nobody"):
            client = self.bench.client(request(path=path, method="HEAD"))
            self.bench.settle()
            head, _, rest = bytes(client.heard).partition(b"\r\n\r\n")
            self.assertRegex(head, rb"^HTTP/1.1 40[45] ")
            self.assertEqual(rest, b"")

    def test_requests_one_after_another_and_at_once_are_all_answered(self) -> None:
        one = request(path="/v1/models")
        for says in ([one, one, one], [one * 3]):
            found = self.bench.asks(*says)
            self.assertEqual([a.status for a in found], [200, 200, 200])

    def test_a_request_that_comes_byte_by_byte_is_answered(self) -> None:
        says = request(path="/v1/models")
        [answer] = self.bench.asks(*[says[i : i + 1] for i in range(len(says))])
        self.assertEqual(answer.status, 200)

    def test_an_idle_connection_is_closed_after_its_time(self) -> None:
        client = self.bench.client(request(path="/health"))
        self.bench.reactor.advance(60 - 1)
        self.assertTrue(client.connected)
        self.bench.reactor.advance(1.5)
        self.bench.settle()
        self.assertFalse(client.connected)

    def test_a_request_that_is_never_finished_is_refused_after_its_time(self) -> None:
        client = self.bench.client(b"POST / HTTP/1.1\r\nContent-Length: 99\r\n\r\n")
        for _ in range(60):  # a byte now and then does not help
            client.says(b"x")
            self.bench.reactor.advance(1)
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual(self.assert_envelope(answer, 408)["code"], "request_timeout")
        self.bench.reactor.pump([1.0] * (LINGER_SEC + 1))
        self.bench.settle()
        self.assertFalse(client.connected)
        self.assertEqual(self.bench.site.connections.open, set())

    def test_a_client_that_stops_reading_is_cut_off_after_its_time(self) -> None:
        client, backend = self.bench.streaming()
        client.stalls()
        backend.says(event(b"x" * 100_000))
        self.assertTrue(backend.paused)
        self.bench.reactor.advance(self.bench.site.connections.client_stall - 1)
        self.assertTrue(client.connected)
        self.bench.reactor.advance(1)
        self.bench.settle()
        self.assertFalse(client.connected)
        self.assert_over(backend)

    def test_a_client_that_reads_on_in_time_is_not_cut_off(self) -> None:
        client, backend = self.bench.streaming()
        # Once for a long time, then steadily at the pace that is the slowest allowed.
        for seconds in (
            self.bench.site.connections.client_stall - 1,
            *[READ_AT_LEAST / SLOWEST] * 30,
        ):
            client.stalls()
            backend.says(event(b"x" * 100_000))
            self.bench.reactor.advance(seconds)
            client.reads_on()
            self.bench.settle()
        self.assertTrue(client.connected)

    def test_a_client_that_reads_too_slowly_does_not_keep_its_model_for_ever(self) -> None:
        client, backend = self.bench.streaming()
        for _ in range(3):
            client.stalls()
            backend.says(event(b"x" * 100_000))
            self.bench.reactor.advance(self.bench.site.connections.client_stall - 1)
            client.reads_on()
            self.bench.settle()
        self.assertFalse(client.connected)
        self.assert_over(backend)

    def test_a_client_that_wants_it_closed_has_it_closed_however_it_says_so(self) -> None:
        for value in ("close", "Close", "close, X-Hop", "x-hop,close", "keep-alive ,  close"):
            client = self.bench.client(request(path="/health", headers=[("Connection", value)]))
            self.bench.settle()
            self.assertFalse(client.connected, value)
        for value in ("keep-alive", "X-Close", "closed"):
            client = self.bench.client(request(path="/health", headers=[("Connection", value)]))
            self.bench.settle()
            self.assertTrue(client.connected, value)

    def test_connections_over_the_limit_are_told_so_and_closed(self) -> None:
        self.bench.site.connections.max_connections = 2
        clients = [self.bench.client() for _ in range(3)]
        [answer] = answers(bytes(clients[2].heard))
        self.assert_envelope(answer, 503)
        clients[0].hangs_up()
        clients[2].hangs_up()
        later = self.bench.client(request(path="/health"))
        self.assertEqual([a.status for a in answers(bytes(later.heard))], [200])

    def test_an_answer_may_take_longer_than_that(self) -> None:
        client = self.bench.client(request({"model": "small"}))
        backend = self.bench.backend()
        for _ in range(10):
            self.bench.reactor.advance(60)
        backend.says(response(b"late"))
        self.assertEqual(answers(bytes(client.heard), "POST")[0].body, b"late")

    def test_no_timer_is_left_when_a_client_has_gone(self) -> None:
        self.bench = Bench(loaded=False)
        client = self.bench.client(request(path="/health"))
        client.hangs_up()
        self.bench.settle()
        self.assertEqual(self.bench.reactor.getDelayedCalls(), [])
        self.assertEqual(self.bench.site.connections.open, set())


class CheapTests(BenchTestCase):
    """What costs a client little costs the gateway little."""

    def test_very_many_small_chunks_are_refused_and_not_taken_apart(self) -> None:
        with patch.object(
            Request, "handleContentChunk", autospec=True, side_effect=Request.handleContentChunk
        ) as handled:
            client = self.bench.client(CHUNKED + event(b"xy") * 100_000)
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertIn("small chunks", self.assert_envelope(answer, 400)["message"])
        self.assertLess(handled.call_count, 1.1 * FREE_CHUNKS)
        self.assertEqual(self.bench.site.connections.bodies.held, 0)

    def test_few_small_chunks_and_many_large_ones_are_taken(self) -> None:
        self.bench = Bench(max_body=16 * 1024 * 1024)
        for pieces in ([b" "] * (FREE_CHUNKS - 1), [b" " * CHUNK_BYTES] * (2 * FREE_CHUNKS)):
            client = self.bench.client(CHUNKED + chunked([*pieces, b'{"model": "x"}']))
            self.bench.settle()
            [answer] = answers(bytes(client.heard), "POST")
            self.assertEqual(answer.status, 404)

    def test_a_body_without_chunks_may_come_byte_by_byte(self) -> None:
        body = b'{"model": "x"}' + b" " * FREE_CHUNKS
        client = self.bench.client(request(body)[: -len(body)])
        for byte in body:
            client.says(bytes([byte]))
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual(answer.status, 404)

    def test_large_bodies_are_looked_at_one_in_a_turn_and_none_of_clients_that_left(self) -> None:
        self.bench = Bench(max_body=4 * LARGE)
        looked: list[bytes] = []
        self.bench.site.table = {CHAT.encode(): lambda asked: looked.append(asked.body[:1])}
        turns: list[int] = []
        take = self.bench.site.connections.turns.take
        later = self.bench.reactor.callLater

        def counted(delay: float, work: Any, *rest: Any) -> Any:
            turns.append(len(looked))
            return later(delay, work, *rest)

        clients = [self.bench.client(request(b"%d" % n * (LARGE + 1))) for n in range(4)]
        self.assertEqual(looked, [], "not in the turn in which they came")
        clients[1].hangs_up()
        with patch.object(self.bench.reactor, "callLater", counted):
            self.bench.settle()
        self.assertEqual(looked, [b"0", b"2", b"3"])
        self.assertEqual(sorted(set(turns)), [0, 1, 2], "each was looked at in another turn")
        take(lambda: looked.clear())
        self.bench.settle()
        self.assertEqual(looked, [])

    def test_a_large_body_that_is_mostly_punctuation_is_refused_and_others_are_not(self) -> None:
        for body, status in (
            (b"[]," * (DENSE // 3), 404),
            (b"[]," * (DENSE // 3 + 100_000), 400),
            (b"12345, " * (DENSE // 7 + 100_000), 404),
            (b"\\u00e9" * (DENSE // 6 + 100_000), 400),
            (b"\\u00e9 and" * (DENSE // 10 + 100_000), 404),
            (b"x" * (DENSE + 100_000), 404),
        ):
            self.bench = Bench(max_body=2 * DENSE, max_bodies=2 * DENSE)
            client = self.bench.client(request(b"", path="/x").replace(b": 0", b": %d" % len(body)))
            for at in range(0, len(body), 256_000):
                client.says(body[at : at + 256_000])
            self.bench.settle()
            [answer] = answers(bytes(client.heard), "POST")
            self.assertEqual(answer.status, status, body[:10])

    def test_requests_that_come_in_one_read_are_answered_in_turns_all_and_in_order(self) -> None:
        paths = [f"/v1/models/{n}" for n in range(5 * PIPELINED)]
        client = self.bench.client(b"".join(request(path=path) for path in paths))
        found = answers(bytes(client.heard))
        self.assertEqual(len(found), PIPELINED)
        self.bench.settle()
        found = answers(bytes(client.heard))
        self.assertEqual(len(found), len(paths))
        for number, answer in enumerate(found):
            self.assertIn(f"`{number}`", answer.json()["error"]["message"])

    def test_requests_with_bodies_are_answered_in_turns_as_well(self) -> None:
        client = self.bench.client(request({"model": "nobody"}) * (3 * PIPELINED))
        self.assertEqual(len(answers(bytes(client.heard), "POST")), PIPELINED)
        self.bench.settle()
        self.assertEqual(len(answers(bytes(client.heard), "POST")), 3 * PIPELINED)

    def test_a_request_with_a_body_behind_one_that_is_answered_at_once_is_answered(self) -> None:
        [first, second, third] = self.bench.asks(request({"model": "nobody"}) * 3)
        self.assertEqual((first.status, second.status, third.status), (404, 404, 404))

    def test_a_turn_begun_is_read_on_after(self) -> None:
        client = self.bench.client(request(path="/health") * (PIPELINED + 1))
        self.bench.settle()
        client.says(request(path="/health"))
        self.bench.settle()
        self.assertEqual(len(answers(bytes(client.heard))), PIPELINED + 2)
        self.assertFalse(client.paused)

    def test_nothing_is_answered_to_a_client_that_does_not_read_its_answers(self) -> None:
        client = self.bench.client()
        client.stalls()
        client.says(request(path="/v1/models") * 5000)
        self.bench.settle()
        one = len(answers(bytes(self.bench.client(request(path="/v1/models")).heard))[0].body)
        self.assertLess(client.most_waiting, HIGH_WATER + PIPELINED * 2 * (one + 1000))
        client.reads_on()
        for _ in range(5000):
            self.bench.reactor.advance(0)
            client.reads_on()
        self.assertEqual(len(answers(bytes(client.heard))), 5000)

    def test_a_connection_that_ends_between_two_turns_leaves_nothing(self) -> None:
        before = len(self.bench.reactor.getDelayedCalls())
        client = self.bench.client(request(path="/health") * 100)
        client.hangs_up()
        self.bench.settle()
        self.assertEqual(len(self.bench.reactor.getDelayedCalls()), before)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_the_name_of_a_header_is_short(self) -> None:
        for length, status in ((HEADER_NAME, 200), (HEADER_NAME + 1, 400)):
            [answer] = self.bench.asks(request(path="/health", headers=[("x" * length, "1")]))
            self.assertEqual(answer.status, status)

    def test_a_length_of_thousands_of_digits_is_too_large(self) -> None:
        for digits in (20, 5000):
            head = request(b"").replace(b"Length: 0", b"Length: 1" + b"0" * digits)
            [answer] = answers(bytes(self.bench.client(head).heard), "POST")
            self.assert_envelope(answer, 413)
        self.assertEqual(self.flushLoggedErrors(), [])
