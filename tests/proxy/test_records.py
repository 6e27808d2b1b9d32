"""Promises of a request's record and id: who asks, who answers and the log speak of the same one.

The real Site in memory (support/bench.py).
"""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from twisted.logger import LogLevel, formatEvent

from llamagw.observe import Outcome, Record, Trace
from llamagw.proxy.exchange import KEPT, KEPT_BYTES, Exchange
from tests.support.bench import Bench, BenchTestCase
from tests.support.logs import events_of
from tests.support.messages import (
    CHAT,
    STREAM_HEAD,
    answers,
    event,
    head_and_body,
    request,
    response,
)


class RecordTestCase(BenchTestCase):
    def listen(self) -> list[Record]:
        """What is told from now on."""
        told: list[Record] = []
        self.bench.records.add(told.append)
        return told


class IdTests(RecordTestCase):
    def test_the_client_s_own_is_sent_on_and_returned(self) -> None:
        told = self.listen()
        client = self.bench.client(
            request({"model": "small"}, headers=[("X-Request-Id", "trace/7.b")])
        )
        backend = self.bench.backend()
        self.assertEqual(head_and_body(backend.heard)[1]["x-request-id"], "trace/7.b")
        backend.says(response(b"{}", headers=[("X-Request-Id", "theirs")]))
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual(answer.headers.get_all("X-Request-Id"), ["trace/7.b"])
        self.assertEqual([record.id for record in told], ["trace/7.b"])

    def test_the_log_has_it_where_it_tells_of_the_request(self) -> None:
        logged = events_of(self)
        asks = request({"model": "small", "stream": True}, headers=[("X-Request-Id", "trace/8")])
        self.bench.client(asks)
        self.bench.backend().hangs_up()
        self.bench.settle()
        backend = self.bench.backend()
        backend.says(STREAM_HEAD + event(b"abc"))
        backend.hangs_up()
        self.bench.settle()
        told = [formatEvent(e) or "" for e in logged if e["log_level"] is LogLevel.warn]
        [again, broke_off] = [line for line in told if "broke off" in line]
        self.assertIn("asking once more [trace/8]", again)
        self.assertTrue(broke_off.endswith(" [trace/8]"), broke_off)

    def test_one_that_is_none_is_replaced(self) -> None:
        for given in ("", "x" * 129, "a b", "a;b", "\u00e9"):
            client = self.bench.client(
                request({"model": "small"}, headers=[("X-Request-Id", given)])
            )
            backend = self.bench.backend()
            sent = head_and_body(backend.heard)[1]["x-request-id"]
            self.assertRegex(sent, r"\A[0-9a-f]{12}-[0-9a-f]+\Z", given)
            backend.says(response(b"{}"))
            [answer] = answers(bytes(client.heard), "POST")
            self.assertEqual(answer.headers["X-Request-Id"], sent)
            client.hangs_up()
            backend.hangs_up()
            self.bench.settle()

    def test_an_error_has_it_in_its_head_and_in_its_envelope(self) -> None:
        for asked in (request({"model": "nope"}), request(path="/nothing"), request(b"[]")):
            [answer] = self.bench.asks(asked)
            self.assertEqual(answer.json()["request_id"], answer.headers["X-Request-Id"])

    def test_one_that_is_refused_for_its_length_keeps_the_client_s(self) -> None:
        head = request(b"", headers=[("X-Request-Id", "mine")])
        [answer] = self.bench.asks(head.replace(b"Length: 0", b"Length: 99999999"))
        self.assertEqual((answer.status, answer.json()["request_id"]), (413, "mine"))

    def test_a_request_that_was_refused_before_it_had_arrived_has_one_too(self) -> None:
        [answer] = self.bench.asks(b"GET / HTTP/1.1\nHost: x\n\n")
        self.assertEqual(answer.json()["request_id"], answer.headers["X-Request-Id"])


PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def begin(_: Mapping[bytes, Sequence[bytes]], keeps_content: bool = False) -> Trace:
    return Trace(0xA, span_id=0xB, upstream_id=0xC, sampled=True, keeps_content=keeps_content)


class TraceTests(RecordTestCase):
    def sent(self, **keys: Any) -> list[str]:
        """The headers ``traceparent`` that the backend gets when a client sends `PARENT`."""
        self.bench = Bench(**keys)
        self.told = self.listen()
        given = [("TraceParent", PARENT), ("tracestate", "x=1")]
        self.bench.client(request({"model": "small", "max_tokens": 7}, headers=given))
        backend = self.bench.backend()
        head = bytes(backend.heard).partition(b"\r\n\r\n")[0].decode()
        self.assertIn("tracestate: x=1", head.lower())
        backend.says(response(b'{"choices":[{"finish_reason":"stop"}],"id":"cmpl-1"}'))
        return re.findall(r"(?i)\ntraceparent: ([^\r\n]*)", head)

    def test_the_client_s_is_passed_on_while_no_spans_are_exported(self) -> None:
        self.assertEqual(self.sent(), [PARENT])
        self.assertEqual([record.trace for record in self.told], [None])

    def test_else_the_engine_s_parent_is_the_gateway_s_upstream_span(self) -> None:
        seen: list[object] = []

        def note(given: Mapping[bytes, Sequence[bytes]]) -> Trace:
            seen.append(given[b"Traceparent"])
            return begin(given)

        self.assertEqual(self.sent(trace=note), [f"00-{'a':0>32}-{'c':0>16}-01"])
        self.assertEqual(seen, [[PARENT.encode()]])
        [record] = self.told
        assert record.trace is not None
        noted = record.trace.max_tokens, record.trace.response_id, [*record.trace.reasons]
        self.assertEqual(noted, (7, "cmpl-1", ["stop"]))

    def test_who_waits_is_told_the_place_that_he_took(self) -> None:
        self.bench = Bench(loaded=False, trace=begin)
        told = self.listen()
        self.bench.hold_loads()
        for _ in range(2):
            self.bench.client(request({"model": "small"})).hangs_up()
            self.bench.client(request({"model": "small"}))
        self.bench.reactor.advance(self.bench.config.queue_timeout_sec)
        places = [record.trace.position for record in told if record.trace is not None]
        self.assertEqual(places, [1, 2, 1, 2])

    def test_an_answer_is_kept_for_spans_that_tell_it(self) -> None:
        self.sent(trace=partial(begin, keeps_content=True))
        [record] = self.told
        assert record.trace is not None
        assert record.trace.content is not None
        content = record.trace.content.told()
        self.assertIn('"max_tokens": 7', content["request"]["body"])
        self.assertIn('"finish_reason":"stop"', content["response"]["body"])
        self.assertEqual(record.captured, 0, "nobody else is shown it")
        [kept] = self.bench.activity.entries(1, count=9)
        self.assertEqual((kept["id"], kept["captured"]), (record.id, False))


class OutcomeTests(RecordTestCase):
    def test_an_answer_tells_how_long_it_waited_and_loaded(self) -> None:
        self.bench = Bench(loaded=False)
        told = self.listen()
        self.bench.hold_loads()
        client = self.bench.client(request({"model": "small"}))
        self.bench.reactor.advance(1.5)
        self.bench.ready()
        self.bench.backend().says(response(b"{}"))
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual(answer.headers["Server-Timing"], "queue;dur=1500.0, load;dur=1500.0")
        [record] = told
        self.assertEqual((record.model, record.outcome, record.tries), ("small", Outcome.OK, 1))
        self.assertEqual((record.waited, record.status, record.bytes_out), (1.5, 200, 2))

    def test_a_stream_s_tokens_are_known_when_it_has_ended(self) -> None:
        told = self.listen()
        self.bench.client(request({"model": "small", "stream": True}))
        backend = self.bench.backend()
        backend.says(STREAM_HEAD + event(b'data: {"x":1}\n\n') * 20)
        backend.says(event(b'data: {"timings":{"prompt_n":3,"predicted_n":4}}\n\n'))
        backend.says(event(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        [record] = told
        assert record.usage is not None
        self.assertEqual((record.usage.prompt, record.usage.completion), (3, 4))

    def test_the_first_byte_is_the_body_s_not_the_head_s(self) -> None:
        told = self.listen()
        self.bench.client(request({"model": "small", "stream": True}))
        backend = self.bench.backend()
        backend.says(STREAM_HEAD)
        self.bench.reactor.advance(5)
        backend.says(event(b"data: 1\n\n"))
        self.bench.reactor.advance(1)
        backend.says(event(b"data: 2\n\n") + b"0\r\n\r\n")
        [record] = told
        assert record.first is not None
        assert record.arrived is not None
        self.assertEqual((record.first - record.arrived, record.last - record.first), (5, 1))

    def test_who_left_who_was_refused_and_what_broke_off_are_told_apart(self) -> None:
        told = self.listen()
        client, _ = self.bench.streaming()
        client.hangs_up()
        self.bench.settle()
        self.bench.asks(request({"model": "nope"}))
        client, backend = self.bench.streaming()
        backend.hangs_up()
        self.bench.settle()
        outcomes = [(record.outcome, record.error) for record in told]
        self.assertEqual(
            outcomes,
            [
                (Outcome.CLIENT_LEFT, ""),
                (Outcome.REFUSED, "model_not_found"),
                (Outcome.BACKEND_LOST, "backend_lost"),
            ],
        )
        self.assertEqual({record.path for record in told}, {CHAT.encode()})

    def test_who_waits_too_long_is_told_as_such(self) -> None:
        self.bench = Bench(loaded=False, queue_timeout_sec=5)
        told = self.listen()
        self.bench.hold_loads()
        self.bench.client(request({"model": "small"}))
        self.bench.reactor.advance(6)
        self.assertEqual([record.outcome for record in told], [Outcome.TIMEOUT])

    def test_a_listener_that_fails_costs_the_request_nothing(self) -> None:
        def broken(record: Record) -> None:
            raise RuntimeError("oh")

        self.bench.records.add(broken)
        told = self.listen()
        client = self.bench.client(request({"model": "small"}))
        self.bench.backend().says(response(b"{}"))
        self.assertEqual(answers(bytes(client.heard), "POST")[0].status, 200)
        self.assertEqual(len(told), 1)
        self.flushLoggedErrors(RuntimeError)

    def test_of_a_long_answer_little_is_kept_and_its_tokens_are_known_all_the_same(self) -> None:
        told = self.listen()
        self.bench.client(request({"model": "small"}))
        backend = self.bench.backend()
        usage = b'"usage":{"prompt_tokens":3,"completion_tokens":4}}'
        body = b'{"text":"' + b"x" * 8 * KEPT * KEPT_BYTES + b'",' + usage
        backend.says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 2 * KEPT_BYTES):
            backend.says(body[at : at + 2 * KEPT_BYTES])
            kept = [
                sum(map(len, (found._begin, *found._kept)))
                for found in gc.get_objects()
                if isinstance(found, Exchange)
            ]
            self.assertLessEqual(max(kept, default=0), (KEPT + 1) * KEPT_BYTES)
        [record] = told
        assert record.usage is not None
        self.assertEqual((record.usage.prompt, record.usage.completion), (3, 4))
