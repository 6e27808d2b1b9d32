"""Promises of llamagw.proxy.relay: one request, from the client to a backend and back.

The real Api, Relay, Pool and Site in memory (support/bench.py); the test plays both ends.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionRefusedError, TimeoutError

from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import (
    STREAM_HEAD,
    answers,
    chunked,
    cut_at,
    event,
    head_and_body,
    request,
    response,
)
from tests.support.wire import HIGH_WATER, Wire

ASK = request({"model": "small", "messages": []})
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


class RequestTests(BenchTestCase):
    """What the backend gets."""

    @settings(deadline=None, max_examples=60)
    @given(
        noise=st.binary(max_size=300),
        in_chunks=st.booleans(),
        places=st.lists(st.integers(0, 700), max_size=8),
    )
    def test_the_body_arrives_byte_for_byte_however_it_is_framed_and_read(
        self, noise: bytes, in_chunks: bool, places: list[int]
    ) -> None:
        bench = Bench()
        # Odd spacing, odd order and bytes of every kind, which re-encoding would not keep.
        text = json.dumps(noise.decode("latin-1"), ensure_ascii=False)
        body = ('{ "x" :' + text + ',"model":"small" ,\n"y":1.50}').encode()
        if in_chunks:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            data = head + chunked(cut_at(body, places))
        else:
            data = request(body, path="/v1/completions")
        bench.client(*cut_at(data, places))
        first, headers, arrived = head_and_body(bench.backend().heard)
        self.assertEqual(arrived, body)
        self.assertEqual(first, "POST /v1/completions HTTP/1.1")
        self.assertEqual(headers["content-length"], str(len(body)))
        self.assertNotIn("transfer-encoding", headers)

    def test_the_path_goes_with_its_query(self) -> None:
        self.bench.client(request({"model": "small"}, path="/v1/embeddings?a=1&b=%20"))
        first, _, _ = head_and_body(self.bench.backend().heard)
        self.assertEqual(first, "POST /v1/embeddings?a=1&b=%20 HTTP/1.1")

    def test_headers_of_one_hop_stay_and_the_others_go_on(self) -> None:
        own = {"Authorization": "Bearer x", "X-Request-Id": "7", "Accept-Encoding": "br"}
        hop = {
            "Connection": "keep-alive, X-Secret",
            "X-Secret": "1",
            "Keep-Alive": "timeout=5",
            "TE": "trailers",
            "Trailer": "X-End",
            "Upgrade": "h2c",
            "Proxy-Connection": "keep-alive",
            "Proxy-Authorization": "Basic x",
            "Expect": "100-continue",
        }
        self.bench.client(request({"model": "small"}, headers=[*own.items(), *hop.items()]))
        _, headers, _ = head_and_body(self.bench.backend().heard)
        self.assertEqual(headers.pop("host"), "127.0.0.1:9001")
        self.assertEqual(headers.pop("content-length"), str(len('{"model": "small"}')))
        self.assertEqual(headers, {name.lower(): value for name, value in own.items()})

    def test_the_model_named_is_the_one_that_is_asked_for(self) -> None:
        self.bench.client(request({"messages": [{"model": "inner"}], "model": "org/big"}))
        self.assertEqual(self.bench.asked, ["org/big"])

    def test_nothing_is_sent_before_there_is_a_lease(self) -> None:
        self.bench.hold()
        client = self.bench.client(ASK)
        self.assertEqual((self.bench.connects, bytes(client.heard)), (0, b""))
        self.bench.ready()
        self.assertEqual(self.bench.connects, 1)


class AnswerTests(BenchTestCase):
    """What the client gets."""

    @settings(deadline=None, max_examples=80)
    @given(
        pieces=st.lists(st.binary(max_size=200), max_size=6),
        framing=st.sampled_from(["length", "chunked", "end"]),
        version=st.sampled_from(["HTTP/1.1", "HTTP/1.0"]),
        places=st.lists(st.integers(0, 1500), max_size=12),
        kind=st.sampled_from(["application/json", "text/event-stream", "image/png"]),
    )
    def test_the_body_arrives_byte_for_byte_however_it_is_framed_and_read(
        self, pieces: list[bytes], framing: str, version: str, places: list[int], kind: str
    ) -> None:
        bench = Bench()
        whole = b"".join(pieces)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n" % kind.encode()
        if framing == "length":
            data = head + b"Content-Length: %d\r\n\r\n" % len(whole) + whole
        elif framing == "chunked":
            data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces)
        else:
            data = head + b"\r\n" + whole
        client = bench.client(request({"model": "small"}, version=version))
        backend = bench.backend()
        for read in cut_at(data, places):
            backend.says(read)
        if framing == "end":
            backend.hangs_up()
        bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual((answer.body, answer.whole), (whole, True))
        self.assertEqual(answer.headers.get_all("Content-Type"), [kind])
        self.assertEqual(client.connected, version == "HTTP/1.1")
        self.assertTrue(bytes(client.heard).startswith(version.encode()))
        self.assertEqual(bench.leases, (1, 0))

    def test_each_read_is_passed_on_at_once(self) -> None:
        client, backend = self.bench.streaming()
        before = len(client.heard)
        backend.says(event(b"data: 2\n\n") + event(b"data: 3\n\n"))
        self.assertEqual(bytes(client.heard[before:]), event(b"data: 2\n\ndata: 3\n\n"))

    def test_the_head_is_passed_on_before_any_of_the_body_has_come(self) -> None:
        client = self.bench.client(ASK)
        self.bench.backend().says(STREAM_HEAD)
        self.assertIn(b"HTTP/1.1 200 OK\r\n", client.heard)

    def test_status_reason_and_error_body_of_the_engine_pass_unchanged(self) -> None:
        body = b'{"error":{"code":400,"message":"too long"}}\n'
        for status in ("400 Bad Request", "404 Nope", "500 Internal Server Error", "418 I'm one"):
            client = self.bench.client(ASK)
            backend = self.bench.backend()
            backend.says(
                response(body, status, [("X", "application/json"), ("Connection", "close")])
            )
            [answer] = answers(bytes(client.heard), "POST")
            self.assertEqual(f"{answer.status} {answer.reason}", status)
            self.assertEqual(answer.body, body)
            self.assertEqual(answer.headers.get_all("Content-Length"), [str(len(body))])

    def test_headers_of_one_hop_stay_and_the_others_come(self) -> None:
        client = self.bench.client(ASK)
        self.bench.backend().says(
            response(
                headers=[
                    ("Connection", "X-Inner, keep-alive"),
                    ("X-Inner", "1"),
                    ("Keep-Alive", "timeout=5, max=100"),
                    ("Trailer", "X-End"),
                    ("Proxy-Authenticate", "Basic"),
                    ("Server", "llama.cpp"),
                    ("X-Twice", "a=1"),
                    ("X-Twice", "b=2"),
                ]
            )
        )
        [answer] = answers(bytes(client.heard), "POST")
        names = sorted(name.lower() for name in answer.headers)
        cors = ["access-control-allow-origin", "access-control-expose-headers"]
        ours = ["server-timing", "x-request-id"]
        self.assertEqual(names, [*cors, "content-length", "server", *ours, "x-twice", "x-twice"])
        self.assertEqual(answer.headers.get_all("X-Twice"), ["a=1", "b=2"])

    def test_the_engine_s_cors_headers_give_way_to_the_gateway_s(self) -> None:
        client = self.bench.client(ASK)
        self.bench.backend().says(
            response(
                headers=[
                    ("access-control-allow-origin", "http://only.here"),
                    ("Access-Control-Allow-Credentials", "true"),
                    ("Access-Control-Allow-Methods", "GET"),
                ]
            )
        )
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual(answer.headers.get_all("Access-Control-Allow-Origin"), ["*"])
        self.assertNotIn("Access-Control-Allow-Credentials", answer.headers)
        self.assertNotIn("Access-Control-Allow-Methods", answer.headers)

    def test_an_interim_answer_is_not_passed_on(self) -> None:
        client = self.bench.client(ASK)
        self.bench.backend().says(b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"yes"))
        self.assertEqual(client.heard.count(b"HTTP/1.1"), 1)
        self.assertEqual(answers(bytes(client.heard), "POST")[0].body, b"yes")

    def test_an_answer_without_content_ends_with_its_head(self) -> None:
        client = self.bench.client(ASK)
        self.bench.backend().says(b"HTTP/1.1 204 No Content\r\n\r\n")
        self.bench.settle()
        self.assertTrue(client.heard.endswith(b"\r\n\r\n"))
        self.assertNotIn(b"Transfer-Encoding", client.heard)
        self.assertEqual(answers(bytes(client.heard), "POST")[0].status, 204)
        self.assertTrue(client.connected)
        self.assertEqual(self.bench.leases, (1, 0))

    def test_two_requests_of_one_connection_are_both_answered(self) -> None:
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        backend.says(response(b"one"))
        client.says(ASK)
        self.assertEqual(self.bench.connects, 1)  # the backend's connection is used again too
        backend.says(response(b"two"))
        self.assertEqual([a.body for a in answers(bytes(client.heard))], [b"one", b"two"])

    def test_pipelined_requests_are_answered_in_their_order(self) -> None:
        client = self.bench.client(ASK + request({"model": "org/big"}) + request(path="/health"))
        self.assertEqual(self.bench.asked, ["small"])
        backend = self.bench.backend()
        backend.says(response(b"one"))
        self.bench.settle()
        self.assertEqual(self.bench.asked, ["small", "org/big"])
        self.bench.backend().says(response(b"two"))
        self.bench.settle()
        found = answers(bytes(client.heard))
        self.assertEqual([a.body for a in found[:2]], [b"one", b"two"])
        self.assertEqual(found[2].json()["status"], "ok")

    def test_a_client_that_asks_for_it_is_closed_on_after_its_answer(self) -> None:
        client = self.bench.client(request({"model": "small"}, headers=[("Connection", "close")]))
        self.bench.backend().says(response(b"yes"))
        self.bench.settle()
        [answer] = answers(bytes(client.heard))
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertFalse(client.connected)

    def test_bytes_that_come_from_the_backend_are_told_to_its_health_check(self) -> None:
        _, backend = self.bench.streaming()
        # It has no thread left for /health. As long as its answer goes on it is well.
        self.bench.probe.well = False
        for _ in range(20):
            backend.says(event(b"data: 2\n\n"))
            self.bench.reactor.advance(self.bench.config.health_check_sec)
        self.assertEqual(self.bench.engines.last("small").asked, [])
        for _ in range(20):
            self.bench.reactor.advance(self.bench.config.health_check_sec)
        self.assertEqual(self.bench.engines.last("small").asked, ["kill"])


class NoAnswerTests(BenchTestCase):
    """A backend that fails before its answer began: the gateway's own error, and which."""

    def fails(self, *says: bytes, hangs_up: bool = False, reset: bool = False) -> dict[str, Any]:
        """Asks, is failed by the backend (by a second one too if it hangs up), and is told so."""
        client = self.bench.client(ASK)
        attempts = 2 if hangs_up else 1
        for _ in range(attempts):
            backend = self.bench.backend()
            for data in says:
                backend.says(data)
            if hangs_up:
                backend.hangs_up(reset)
            self.bench.settle()
            self.assertFalse(backend.connected)
        [answer] = answers(bytes(client.heard), "POST")
        error = self.assert_envelope(answer, 502)
        self.assertEqual(self.bench.connects, attempts)
        self.assertEqual(self.bench.leases, (attempts, 0))
        self.assertTrue(client.connected, "the client may go on asking")
        self.assertEqual(self.flushLoggedErrors(), [])
        return dict(error)

    def test_backends_that_hang_up_at_once(self) -> None:
        self.assertEqual(self.fails(hangs_up=True)["code"], "backend_lost")

    def test_backends_that_are_reset(self) -> None:
        self.fails(hangs_up=True, reset=True)

    def test_backends_that_hang_up_in_their_head(self) -> None:
        self.fails(b"HTTP/1.1 200 OK\r\nContent-", hangs_up=True)

    def test_backends_that_hang_up_after_an_interim_answer(self) -> None:
        self.fails(b"HTTP/1.1 100 Continue\r\n\r\n", hangs_up=True)

    def test_garbage(self) -> None:
        self.fails(b"\x16\x03\x01\x02\x00\x01garbage")

    def test_two_lengths(self) -> None:
        self.fails(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")

    def test_an_upgrade_that_nobody_asked_for(self) -> None:
        self.fails(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")

    def test_a_head_without_end(self) -> None:
        self.fails(b"HTTP/1.1 200 OK\r\n", *[b"X-Filler: %b\r\n" % (b"f" * 8000)] * 40)

    def test_backends_that_cannot_be_reached(self) -> None:
        for reason in (ConnectionRefusedError, TimeoutError):
            client = self.bench.client(ASK)
            self.bench.refuse(reason())
            self.bench.refuse(reason())
            self.bench.settle()
            [answer] = answers(bytes(client.heard), "POST")
            error = self.assert_envelope(answer, 502)
            self.assertIn("cannot be reached", error["message"])
        self.assertEqual(self.bench.leases, (4, 0))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_model_that_cannot_be_had_is_told_with_the_engine_s_words(self) -> None:
        self.bench.hold()
        client = self.bench.client(ASK)
        self.bench.crash("small", "exited with status 1", "out of memory", 1)
        [answer] = answers(bytes(client.heard), "POST")
        self.assertIn("out of memory", self.assert_envelope(answer, 503)["message"])
        self.assertEqual(answer.headers["Retry-After"], "2")

    def test_a_load_that_takes_too_long_is_told(self) -> None:
        self.bench = Bench(loaded=False, load_timeout_sec=50)
        self.bench.hold()
        client = self.bench.client(ASK)
        self.bench.reactor.advance(50)
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual(self.assert_envelope(answer, 504)["code"], "load_timeout")


class SecondBackendTests(BenchTestCase):
    """A backend that dies on a request before it said anything: another one is asked, once."""

    def test_the_client_gets_the_second_one_s_answer(self) -> None:
        client = self.bench.client(ASK)
        first = self.bench.backend()
        first.hangs_up(reset=True)
        second = self.bench.backend()
        self.assertEqual(second.heard, first.heard)
        second.says(response(b"second"))
        self.assertEqual([a.body for a in answers(bytes(client.heard))], [b"second"])
        self.assertEqual(self.bench.leases, (2, 0))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_the_first_lease_is_over_before_the_second_is_asked_for(self) -> None:
        self.bench.client(ASK)
        self.bench.hold()
        self.bench.crash()
        self.bench.backend().hangs_up()
        self.assertEqual(self.bench.asked, ["small", "small"])
        self.assertEqual(self.bench.waiting, 1)
        self.assertEqual(self.bench.leases, (1, 0))

    def test_the_second_is_asked_for_when_the_first_is_known_to_be_gone(self) -> None:
        self.bench.engines.slow_to_die = True
        self.bench.client(ASK)
        self.bench.backend().hangs_up()
        self.assertEqual(self.bench.engines.last("small").mourned, 1)
        self.assertEqual(self.bench.asked, ["small"])
        self.bench.crash()
        self.assertEqual(self.bench.asked, ["small", "small"])
        self.bench.settle()
        self.assertEqual(self.bench.engines.launched(), ["small", "org/big", "small"])
        self.assertEqual(self.bench.leases, (2, 1))

    def test_a_client_that_leaves_in_between_ends_it(self) -> None:
        self.bench.engines.slow_to_die = True
        client = self.bench.client(ASK)
        self.bench.backend().hangs_up()
        client.hangs_up()
        self.bench.settle()
        self.assertEqual(self.bench.asked, ["small"])
        self.assertEqual(self.bench.leases, (1, 0))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_client_that_leaves_during_the_second_ends_that_one(self) -> None:
        client = self.bench.client(ASK)
        self.bench.backend().hangs_up()
        second = self.bench.backend()
        client.hangs_up()
        self.assertEqual(second.ended, "abort")
        self.bench.settle()
        self.assertEqual(self.bench.leases, (2, 0))

    def test_when_there_is_no_second_the_reason_is_told(self) -> None:
        client = self.bench.client(ASK)
        self.bench.hold()
        self.bench.crash()
        self.bench.backend().hangs_up()
        self.bench.settle()
        self.bench.crash()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertIn("SIGKILL", self.assert_envelope(answer, 503)["message"])

    def test_one_that_answers_nonsense_has_not_died_and_no_other_is_asked(self) -> None:
        self.bench.client(ASK)
        self.bench.backend().says(b"nonsense\r\n")
        self.bench.settle()
        self.assertEqual(self.bench.asked, ["small"])


class BrokenAnswerTests(BenchTestCase):
    """A backend that fails in the middle: a truncated answer never looks like a whole one."""

    def test_a_stream_of_events_ends_with_an_error_event_and_no_done(self) -> None:
        for number, reset in enumerate((False, True), 1):
            client, backend = self.bench.streaming()
            backend.says(event(b'data: {"half'))
            backend.hangs_up(reset)
            self.bench.settle()
            [answer] = answers(bytes(client.heard), "POST")
            self.assertTrue(answer.whole, "as HTTP it is whole, so that clients read the event")
            events = [e for e in answer.body.decode().split("\n\n") if e]
            self.assertEqual(events[:2], ["data: 1", 'data: {"half'])
            self.assertEqual(len(events), 3)
            error = json.loads(events[2].removeprefix("data: "))["error"]
            self.assertEqual(error["code"], "backend_lost")
            self.assertNotIn(b"[DONE]", answer.body)
            self.assertEqual(self.bench.leases, (number, 0))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_stream_to_an_http_1_0_client_ends_with_an_error_event_too(self) -> None:
        client = self.bench.client(request({"model": "small"}, version="HTTP/1.0"))
        backend = self.bench.backend()
        backend.says(STREAM_HEAD + event(b"data: 1\n\n"))
        backend.hangs_up()
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertIn(b'\n\ndata: {"error":', answer.body)
        self.assertFalse(client.connected)

    def test_a_stream_with_a_broken_chunk_ends_with_an_error_event(self) -> None:
        client, backend = self.bench.streaming()
        backend.says(b"not a chunk\r\n")
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertIn(b'\n\ndata: {"error":', answer.body)
        self.assert_over(backend)

    def test_a_body_with_a_length_is_cut(self) -> None:
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        backend.says(PLAIN_HEAD + b'{"half')
        backend.hangs_up()
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual((answer.body, answer.whole), (b'{"half', False))
        self.assertFalse(client.connected)
        self.assertEqual(self.bench.leases, (1, 0))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_body_in_chunks_is_cut_without_its_last_chunk(self) -> None:
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        backend.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + event(b'{"half'))
        backend.hangs_up()
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertFalse(answer.whole)
        self.assertNotIn(b"0\r\n\r\n", client.heard)
        self.assertFalse(client.connected)

    def test_a_cut_connection_takes_no_further_request(self) -> None:
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        client.says(request(path="/health"))
        backend.says(PLAIN_HEAD + b'{"half')
        backend.hangs_up()
        self.bench.settle()
        self.assertEqual(client.heard.count(b"HTTP/1.1 "), 1)

    def test_a_body_whose_length_nobody_told_is_cut_when_it_is_reset(self) -> None:
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        backend.says(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        backend.hangs_up(reset=True)
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertFalse(answer.whole)


class StaleConnectionTests(BenchTestCase):
    """A connection that its backend closed while it was idle is nobody's fault."""

    def idle(self) -> Wire:
        """A connection that has served one request."""
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        backend.says(response(b"first"))
        self.assertEqual(answers(bytes(client.heard))[0].body, b"first")
        return backend

    def test_the_request_is_sent_once_more_on_a_fresh_one(self) -> None:
        stale = self.idle()
        client = self.bench.client(ASK)
        self.assertEqual(self.bench.connects, 1)
        stale.hangs_up()
        fresh = self.bench.backend()
        self.assertEqual(fresh.heard, stale.heard[len(stale.heard) // 2 :])
        fresh.says(response(b"second"))
        self.assertEqual([a.body for a in answers(bytes(client.heard))], [b"second"])
        self.assertEqual(self.bench.leases, (2, 0))
        self.assert_quiet()

    def test_it_is_sent_once_more_and_not_twice(self) -> None:
        self.idle().hangs_up()
        stale = self.idle()
        client = self.bench.client(ASK)
        stale.hangs_up()
        self.bench.backend().says(b"nonsense\r\n")
        self.bench.settle()
        self.assertEqual(self.bench.connects, 3)
        self.assert_envelope(answers(bytes(client.heard))[0], 502)

    def test_it_is_not_sent_again_when_anything_was_received(self) -> None:
        stale = self.idle()
        client = self.bench.client(ASK)
        stale.says(b"HTTP/1.1 2")
        stale.says(b"nonsense\r\n")
        self.bench.settle()
        self.assertEqual(self.bench.connects, 1)
        self.assert_envelope(answers(bytes(client.heard))[0], 502)

    def test_one_that_dies_after_a_byte_has_crashed_and_a_second_backend_is_asked(self) -> None:
        stale = self.idle()
        self.bench.client(ASK)
        stale.says(b"H")
        stale.hangs_up()
        self.assertEqual(self.bench.engines.last("small").mourned, 1)
        self.assertEqual(len(self.bench.asked), 3)

    def test_it_is_not_sent_again_when_its_stream_had_begun(self) -> None:
        stale = self.idle()
        client = self.bench.client(ASK)
        stale.says(STREAM_HEAD + event(b"data: 1\n\n"))
        stale.hangs_up()
        self.bench.settle()
        self.assertEqual(self.bench.connects, 1)
        [answer] = answers(bytes(client.heard))
        self.assertIn(b'data: {"error":', answer.body)

    def test_other_idle_connections_are_not_tried_in_its_place(self) -> None:
        clients = [self.bench.client(ASK) for _ in range(2)]
        first, second = self.bench.backend(), self.bench.backend()
        first.says(response())
        second.says(response())
        self.assertEqual([len(answers(bytes(c.heard))) for c in clients], [1, 1])
        self.bench.client(ASK)
        stale = second if len(second.heard) > len(first.heard) else first
        stale.hangs_up()
        self.assertEqual(self.bench.connects, 3)

    def test_a_client_that_leaves_during_the_second_attempt_ends_it(self) -> None:
        stale = self.idle()
        client = self.bench.client(ASK)
        stale.hangs_up()
        fresh = self.bench.backend()
        client.hangs_up()
        self.bench.settle()
        self.assertEqual(fresh.ended, "abort")
        self.assertEqual(self.bench.leases, (2, 0))
        self.assert_quiet()


class ClientLeavesTests(BenchTestCase):
    """A client that goes away stops the work at once, and nobody makes a fuss of it."""

    def test_while_it_is_queued(self) -> None:
        self.bench = Bench(loaded=False)
        self.bench.hold()
        client = self.bench.client(ASK)
        self.assertEqual(self.bench.waiting, 1)
        client.hangs_up()
        self.assertEqual((self.bench.waiting, self.bench.connects), (0, 0))
        self.assert_quiet()

    def test_while_it_is_being_connected(self) -> None:
        client = self.bench.client(ASK)
        client.hangs_up()
        self.bench.settle()
        self.assertTrue(self.bench.reactor.connectors[0].stoppedConnecting)
        self.assertEqual(self.bench.leases, (1, 0))
        self.assert_quiet()

    def test_before_the_head_of_its_answer(self) -> None:
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        client.hangs_up()
        self.assert_over(backend)
        self.assert_quiet()

    def test_in_the_middle_of_the_head_of_its_answer(self) -> None:
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        backend.says(b"HTTP/1.1 200 O")
        client.hangs_up(reset=True)
        self.assert_over(backend)
        self.assert_quiet()

    def test_in_the_stream(self) -> None:
        client, backend = self.bench.streaming()
        client.hangs_up(reset=True)
        self.assert_over(backend)
        self.assert_quiet()

    def test_in_a_plain_body(self) -> None:
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        backend.says(PLAIN_HEAD + b"{")
        client.hangs_up()
        self.assert_over(backend)
        self.assert_quiet()

    def test_in_the_stream_while_the_backend_is_held_back_for_it(self) -> None:
        client, backend = self.bench.streaming()
        client.stalls()
        backend.says(event(b"data: %b\n\n" % (b"x" * 2 * HIGH_WATER)))
        self.assertTrue(backend.paused)
        client.hangs_up(reset=True)
        self.assert_over(backend)
        self.assert_quiet()

    def test_the_backend_is_dropped_before_anything_else_happens(self) -> None:
        client, backend = self.bench.streaming()
        client.hangs_up()
        self.assertEqual(backend.ended, "abort")

    def test_with_more_requests_in_its_pipe_none_of_them_is_begun(self) -> None:
        client = self.bench.client(ASK + ASK)
        backend = self.bench.backend()
        client.hangs_up()
        self.assert_over(backend)
        self.assertEqual(len(self.bench.asked), 1)
        self.assert_quiet()

    def test_after_its_answer_nothing_is_dropped(self) -> None:
        client = self.bench.client(ASK)
        backend = self.bench.backend()
        backend.says(response())
        client.hangs_up()
        self.bench.settle()
        self.assertTrue(backend.connected)
        self.assertEqual(self.bench.leases, (1, 0))
        self.assert_quiet()


class BackpressureTests(BenchTestCase):
    """Each side goes at the pace of the slower one."""

    def test_a_client_that_stalls_holds_the_backend_back_until_it_reads_on(self) -> None:
        client, backend = self.bench.streaming()
        client.stalls()
        self.assertFalse(backend.paused)
        backend.says(event(b"x" * (HIGH_WATER + 1)))
        self.assertTrue(backend.paused)
        client.reads_on()
        self.assertFalse(backend.paused)

    def test_a_flood_to_a_client_that_stalls_takes_little_memory(self) -> None:
        client, backend = self.bench.streaming()
        client.stalls()
        sent = 0
        flood = event(b"data: %b\n\n" % (b"x" * 4000)) * 8
        while not backend.paused and sent < 64 * 2**20:
            backend.says(flood)
            sent += len(flood)
        self.assertLess(client.most_waiting, 2**20)
        self.assertLess(sent, 2**20)

    def test_a_flood_that_begins_with_a_large_read_takes_little_memory(self) -> None:
        client = self.bench.client(ASK)
        client.stalls()
        backend = self.bench.backend()
        sent, flood = 0, event(b"x" * (2 * HIGH_WATER))
        backend.says(STREAM_HEAD + flood)
        while not backend.paused and sent < 16 * 2**20:
            backend.says(flood)
            sent += len(flood)
        self.assertLess(client.most_waiting, 2**20)
        client.reads_on()
        self.assertFalse(backend.paused)

    def test_a_flood_behind_a_pipelined_answer_that_nobody_read_takes_little_memory(self) -> None:
        client = self.bench.client(ASK + ASK)
        client.stalls()
        backend = self.bench.backend()
        backend.says(response(b"x" * (HIGH_WATER + 1)))
        self.bench.settle()
        backend = backend if backend.connected else self.bench.backend()
        backend.says(STREAM_HEAD)
        sent, flood = 0, event(b"y" * 32000)
        while not backend.paused and sent < 16 * 2**20:
            backend.says(flood)
            sent += len(flood)
        self.assertLess(client.most_waiting, 2**20)
        client.reads_on()
        self.assertFalse(backend.paused)

    def test_what_was_held_back_arrives_byte_for_byte(self) -> None:
        client, backend = self.bench.streaming()
        sent = b"data: 1\n\n"
        for number in range(200):
            if number % 20 == 0:
                client.stalls()
            part = b"%d" % number * 1000
            backend.says(event(part))
            sent += part
            if number % 20 == 19:
                client.reads_on()
                self.bench.settle()
        backend.says(b"0\r\n\r\n")
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual((answer.body, answer.whole), (sent, True))

    def test_the_next_request_is_not_held_back_for_the_last_one_s_client(self) -> None:
        slow = self.bench.client(ASK)
        backend = self.bench.backend()
        slow.stalls()
        backend.says(response(b"x" * (2 * HIGH_WATER)))  # pauses and ends in one read
        self.bench.settle()
        quick = self.bench.client(ASK)
        if self.bench.connects > 1:
            backend = self.bench.backend()
        backend.says(response(b"quick"))
        self.bench.settle()
        self.assertEqual([a.body for a in answers(bytes(quick.heard))], [b"quick"])

    def test_no_producer_is_left_registered_after_an_answer(self) -> None:
        client = self.bench.client(ASK)
        self.bench.backend().says(response(b"x" * 10))
        channel = client.protocol
        self.assertIsNone(channel._requestProducer)
        client.says(request(path="/v1/models"))
        self.assertEqual(len(answers(bytes(client.heard))), 2)

    def test_an_answer_that_ends_while_its_client_stalls_still_arrives(self) -> None:
        client, backend = self.bench.streaming()
        client.stalls()
        backend.says(event(b"x" * (2 * HIGH_WATER)) + b"0\r\n\r\n")
        self.bench.settle()
        self.assertEqual(self.bench.leases, (1, 0))
        client.reads_on()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertTrue(answer.whole)
        self.assertEqual(len(answer.body), 2 * HIGH_WATER + len(b"data: 1\n\n"))

    def test_an_answer_for_an_http_1_0_client_that_stalls_arrives_before_the_end(self) -> None:
        client = self.bench.client(request({"model": "small"}, version="HTTP/1.0"))
        client.stalls()
        self.bench.backend().says(response(b"x" * (2 * HIGH_WATER)))
        self.bench.settle()
        self.assertTrue(client.connected)
        client.reads_on()
        self.bench.settle()
        self.assertFalse(client.connected)
        self.assertTrue(answers(bytes(client.heard), "POST")[0].whole)
