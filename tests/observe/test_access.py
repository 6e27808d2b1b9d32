"""
Promises of llamagw.observe.access: one line for each request, when it has ended.

The real Site in memory (tests/support/bench.py).
"""

from __future__ import annotations

import json
import re
from typing import Any
from unittest import mock

from twisted.internet.address import IPv4Address

from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import CHAT, STREAM_HEAD, event, request, response
from tests.support.wire import Wire

PLAIN_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class AccessLogTests(BenchTestCase):
    def logged(self) -> list[str]:
        found = [e for e in self.events if e.get("log_namespace") == "llamagw.access"]
        lines = [e["log_format"].format(**e) for e in found]
        return [re.sub(r" \[[0-9a-f]{12}-[0-9a-f]+\]", "", line) for line in lines]

    def test_it_is_silent_unless_asked_for(self) -> None:
        self.bench.asks(request(path="/health"))
        client, backend = self.bench.streaming()
        backend.says(b"0\r\n\r\n")
        client.hangs_up()
        self.assertEqual(self.events, [])

    def access(self, *says: bytes, **keys: Any) -> list[str]:
        """What is logged of requests that need no engine."""
        self.bench = Bench(access_log=True, **keys)
        for data in says:
            self.bench.client(data)
            self.bench.settle()
        return self.logged()

    def test_an_answer_of_the_gateways_own_has_its_status_and_time(self) -> None:
        [line] = self.access(request(path="/v1/models?key=secret"))
        self.assertEqual(line, "GET /v1/models 200 0.00 s, from 192.0.2.7")

    def test_an_answer_of_an_engine_has_the_model_the_wait_and_the_tokens(self) -> None:
        self.bench = Bench(access_log=True, loaded=False)
        self.bench.hold_loads()
        client = self.bench.client(request({"model": "small"}))
        self.bench.reactor.advance(1.25)
        self.bench.ready()
        self.bench.reactor.advance(2)
        usage = b'{"usage": {"prompt_tokens": 21, "completion_tokens": 128}}'
        self.bench.backend().says(response(usage))
        self.assertTrue(client.connected)
        [line] = self.logged()
        told = "small, 3.25 s, waited 1.25 s, 21 + 128 tokens, from 192.0.2.7"
        self.assertEqual(line, f"POST {CHAT} 200 {told}")

    def test_tokens_are_found_in_an_answer_that_comes_in_parts(self) -> None:
        self.bench = Bench(access_log=True)
        self.bench.client(request({"model": "small"}, "/v1/messages"))
        answer = response(b'{"usage": {"input_tokens": 3, "output_tokens": 4}}')
        backend = self.bench.backend()
        for part in (answer[:-30], answer[-30:-10], answer[-10:]):
            backend.says(part)
        self.assertIn(" 3 + 4 tokens", self.logged()[0])

    def test_a_stream_has_the_time_of_its_first_byte(self) -> None:
        self.bench = Bench(access_log=True)
        self.bench.client(request({"model": "small", "stream": True}))
        self.bench.reactor.advance(0.5)
        backend = self.bench.backend()
        backend.says(STREAM_HEAD + event(b"data: 1\n\n"))
        self.bench.reactor.advance(1)
        backend.says(event(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        told = "small, stream, 1.50 s, first byte 0.50 s, from 192.0.2.7"
        self.assertEqual(self.logged(), [f"POST {CHAT} 200 {told}"])

    def test_a_refusal_has_its_reason(self) -> None:
        lines = self.access(
            request({"model": "nope"}),
            request(b"[]"),
            request(path="/nothing?key=secret"),
            request(b"{}", path="/health"),
            b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            b"GET / HTTP/1.1\nHost: x\n\n",
        )
        for line, status, words in zip(
            lines,
            ("404 nope, ", "400 ", "404 ", "405 ", "413 refused", "400 refused"),
            ("`nope`", "a JSON object", "nothing at /nothing", "GET", "max_body_mb", "valid HTTP"),
            strict=True,
        ):
            self.assertIn(f" {status}", line)
            self.assertIn(words, line.partition(": ")[2], line)
            self.assertNotIn("secret", line)

    def test_an_error_of_the_engine_has_its_words(self) -> None:
        for error in ({"message": "the prompt is too long"}, "the prompt is too long"):
            self.bench = Bench(access_log=True)
            self.events.clear()
            self.bench.client(request({"model": "small", "stream": True}))
            answer = response(json.dumps({"error": error}).encode(), "400 Bad Request")
            self.bench.backend().says(answer)
            [line] = self.logged()
            self.assertIn(" 400 small, stream, ", line)
            self.assertTrue(line.endswith(": the prompt is too long"), line)

    def test_what_a_client_sends_cannot_forge_a_line(self) -> None:
        [line] = self.access(request({"model": "x\r\nforged\x1b[2J" + "y" * 1000}))
        self.assertTrue(line.isprintable(), line)
        self.assertLess(len(line), 500)

    def test_an_answer_that_breaks_off_says_so(self) -> None:
        for head in (STREAM_HEAD, PLAIN_HEAD):
            self.bench = Bench(access_log=True)
            self.events.clear()
            client = self.bench.client(request({"model": "small"}))
            backend = self.bench.backend()
            backend.says(head + event(b"data: 1\n\n"))
            backend.hangs_up()
            client.hangs_up()
            self.bench.settle()
            [line] = self.logged()
            self.assertIn(f"{CHAT} broke off small, ", line)
            self.assertIn(": The backend broke off in the middle", line)

    def test_a_client_that_left_is_told_of_once(self) -> None:
        self.bench = Bench(access_log=True)
        client = self.bench.client(request({"model": "small"}))
        backend = self.bench.backend()
        backend.says(STREAM_HEAD + event(b"abc"))
        client.hangs_up()
        self.bench.settle()
        told = "small, 0.00 s, from 192.0.2.7"
        self.assertEqual(self.logged(), [f"POST {CHAT} left {told}"])

    def test_a_client_of_this_machine_is_not_named(self) -> None:
        self.bench = Bench(access_log=True)
        with mock.patch.object(Wire, "getPeer", return_value=IPv4Address("TCP", "127.0.0.1", 1)):
            self.bench.asks(request(path="/v1/models"))
        self.assertEqual(self.logged(), ["GET /v1/models 200 0.00 s"])

    def test_who_only_looks_at_the_gateway_has_no_line_unless_it_is_refused(self) -> None:
        self.bench = Bench(access_log=True)
        for path in ("/health", "/models", "/activity?limit=1", "/ui/app.js"):
            self.bench.asks(request(path=path))
        self.bench.asks(request(path="/activity?limit=x"))
        self.bench.asks(request(path="/metrics?model=nope"))
        looked, asked = self.logged()
        self.assertIn("GET /activity 400", looked)
        self.assertIn("GET /metrics 404 nope", asked)

    def test_a_client_that_left_in_the_middle_of_its_request_makes_no_error(self) -> None:
        self.bench = Bench(access_log=True)
        for says in (b"POST / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nab"):
            self.bench.client(says).hangs_up()
            self.bench.settle()
        self.assertEqual(self.flushLoggedErrors(), [])
