"""Promises of what is exported by OpenTelemetry: which spans and metrics, and at whose cost.

The SDK is the real one, and the collector too (support/collector.py), in a thread; the gateway's
clock is not. A test has the SDK send at once, and in its own thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import requests
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from llamagw.dialects import OPERATIONS, ROUTE_OF
from llamagw.observe import (
    Captured,
    Counts,
    Export,
    Family,
    Names,
    Outcome,
    Record,
    Trace,
    Usage,
    families,
)
from llamagw.observe import otel as room
from llamagw.observe.counts import Gauge
from llamagw.observe.exporters import SLOW, Session
from llamagw.observe.otel import GOODBYE, SILENCE, Exporting
from llamagw.observe.spans import Origin, Spans
from tests.support.collector import Collector
from tests.support.logs import events_of

CHAT = b"/v1/chat/completions"
NAMES = Names(routes=ROUTE_OF, operations=OPERATIONS, known="small".__eq__)

#: 2026-01-01, in nanoseconds since the epoch.
SINCE = 1_767_225_600_000_000_000


def record(**more: Any) -> Record:
    """A chat stream that has waited, loaded, and got an answer."""
    known: dict[str, Any] = {
        "id": "r-1",
        "arrived": 10.0,
        "method": b"POST",
        "path": CHAT,
        "client": "10.0.0.9",
        "asked": "alias",
        "model": "small",
        "stream": True,
        "queued": 10.0,
        "admitted": 13.0,
        "load_sec": 2.0,
        "connected": 13.25,
        "first": 14.0,
        "last": 16.0,
        "tries": 1,
        "status": 200,
        "bytes_in": 100,
        "bytes_out": 900,
        "usage": Usage(prompt=30, cached=10, completion=4, completion_sec=2.0),
    }
    return Record(**{**known, **more})


def trace(**more: Any) -> Trace:
    found = Trace(trace_id=0xA, span_id=0xB, upstream_id=0xC, sampled=True)
    for name, value in more.items():
        setattr(found, name, value)
    return found


class SpanTests(SynchronousTestCase):
    def setUp(self) -> None:
        origin = Origin(Resource({"service.name": "llamagw"}), InstrumentationScope("llamagw", "1"))
        numbers = iter(range(100, 200))
        self.spans = Spans(origin, NAMES, lambda: next(numbers))

    def of(self, told: Record, ids: Trace | None = None) -> dict[str, Any]:
        """The spans of a request by name."""
        found = {span.name: span for span in self.spans.of(told, ids or trace(), SINCE)}
        for span in found.values():
            assert span.context is not None
            self.assertEqual(span.context.trace_id, 0xA)
        return found

    def own(self, **more: Any) -> Any:
        """The request's own span."""
        return self.spans.of(record(**more), trace(), SINCE)[0]

    def test_a_request_has_a_server_span_with_a_child_for_each_part_of_it(self) -> None:
        found = self.of(record())
        times = {
            name: ((span.start_time - SINCE) / 1e9, (span.end_time - SINCE) / 1e9)
            for name, span in found.items()
        }
        self.assertEqual(
            times,
            {
                "chat small": (10, 16),
                "queue": (10, 13),
                "load": (11, 13),
                "upstream": (13.25, 16),
            },
        )
        own = found.pop("chat small")
        self.assertEqual((own.kind, own.context.span_id, own.parent), (SpanKind.SERVER, 0xB, None))
        for span in found.values():
            self.assertEqual(span.parent, own.context)
        self.assertEqual(found["upstream"].kind, SpanKind.CLIENT)
        self.assertEqual(found["upstream"].context.span_id, 0xC)
        [event] = found["upstream"].events
        self.assertEqual((event.name, event.timestamp), ("first_byte", SINCE + 14 * 10**9))

    def test_its_attributes_are_those_of_the_conventions_and_our_own(self) -> None:
        ids = trace(position=2, max_tokens=7, response_id="chatcmpl-1", reasons=["stop"])
        self.assertEqual(
            dict(self.of(record(), ids)["chat small"].attributes),
            {
                "client.address": "10.0.0.9",
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "llama.cpp",
                "gen_ai.request.max_tokens": 7,
                "gen_ai.request.model": "alias",
                "gen_ai.request.stream": True,
                "gen_ai.response.finish_reasons": ("stop",),
                "gen_ai.response.id": "chatcmpl-1",
                "gen_ai.response.model": "small",
                "gen_ai.response.time_to_first_chunk": 4.0,
                "gen_ai.usage.cache_read.input_tokens": 10,
                "gen_ai.usage.input_tokens": 30,
                "gen_ai.usage.output_tokens": 4,
                "http.request.body.size": 100,
                "http.request.method": "POST",
                "http.response.body.size": 900,
                "http.response.status_code": 200,
                "http.route": "/v1/chat/completions",
                "llamagw.outcome": "ok",
                "llamagw.queue_position": 2,
                "llamagw.request_id": "r-1",
                "llamagw.tries": 1,
            },
        )

    def test_prompt_and_answer_are_told_if_they_are_kept(self) -> None:
        kept = Captured(b"/", (), b'{"prompt": "Hi"}', 100)
        kept.answer.add(b'{"choices":[{"text":"Ho"}]}')
        told = self.of(record(), trace(content=kept, reasons=["length"]))["chat small"].attributes
        self.assertIn('"Hi"', told["gen_ai.input.messages"])
        self.assertIn('"Ho"', told["gen_ai.output.messages"])
        self.assertIn('"finish_reason":"length"', told["gen_ai.output.messages"])

    def test_one_that_did_not_wait_has_no_queue(self) -> None:
        found = self.of(record(queued=None, admitted=10.0, load_sec=0.0, connected=10.0))
        self.assertEqual([*found], ["chat small", "upstream"])

    def test_one_that_was_given_up_in_the_queue_was_never_sent(self) -> None:
        told = record(
            model="", asked="small", admitted=None, connected=None, first=None, load_sec=0.0
        )
        told.failed("queue_timeout", "It took too long.")
        told.status = 504
        found = self.of(told)
        self.assertEqual([*found], ["chat small", "queue"])
        own = found["chat small"]
        self.assertEqual(own.attributes["error.type"], "queue_timeout")
        self.assertEqual(own.status.status_code, StatusCode.ERROR)
        self.assertEqual(own.status.description, "It took too long.")
        self.assertEqual(found["queue"].end_time, own.end_time)

    def test_names_of_spans_are_few_whatever_clients_ask_for(self) -> None:
        self.assertEqual(self.own(model="", asked="x\x1b" * 999).name, "chat")
        self.assertEqual(self.own(path=b"/tokenize").name, "POST /tokenize")
        self.assertEqual(self.own(path=b"/upstream/a/b?c").name, "POST /upstream/{model}/{rest}")
        asked = self.own(model="", asked="x\x1b" * 999).attributes["gen_ai.request.model"]
        self.assertEqual((len(asked), asked[:5]), (256, "x\\x1b"))

    def test_an_error_is_what_the_gateway_or_the_engine_did_wrong(self) -> None:
        for told, failed, kind in (
            (record(status=400), False, "400"),
            (record(status=500), True, "500"),
            (record(outcome=Outcome.CLIENT_LEFT), False, "client_left"),
            (record(outcome=Outcome.BACKEND_LOST), True, "backend_lost"),
        ):
            own = self.spans.of(told, trace(), SINCE)[0]
            assert own.attributes is not None
            self.assertEqual(own.status.status_code is StatusCode.ERROR, failed, told)
            self.assertEqual(own.attributes["error.type"], kind)

    def test_what_an_engine_says_of_an_error_is_kept_back_since_it_may_repeat_a_prompt(
        self,
    ) -> None:
        own = self.own(status=500, reason="cannot parse: my secret")
        self.assertNotIn("secret", f"{own.status.description} {own.attributes}")

    def test_one_that_was_refused_before_it_had_arrived_has_no_length(self) -> None:
        told = record(arrived=None, queued=None, admitted=None, asked=None, model="", status=413)
        [own] = self.spans.of(told, trace(), SINCE)
        self.assertEqual((own.start_time, own.end_time), (SINCE + 16 * 10**9,) * 2)


class Reactor(MemoryReactorClock):
    """One that calls from threads in that very thread."""

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        call(*arguments)


class ExportCase(SynchronousTestCase):
    """What is exported reaches a collector, and what is logged is kept."""

    def setUp(self) -> None:
        others = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
        self.environ = mock.patch.dict(os.environ, others, clear=True)
        self.environ.start()
        self.addCleanup(self.environ.stop)
        os.environ["OTEL_EXPORTER_OTLP_TIMEOUT"] = "5"
        self.kept: list[dict[str, Any]] = []
        self.collector = Collector(self.kept.append)
        thread = threading.Thread(target=self.collector.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        self.addCleanup(self.collector.server_close)
        self.addCleanup(self.collector.shutdown)
        self.reactor = Reactor()
        self.counts = Counts("small".__eq__, ROUTE_OF)
        self.events = events_of(self)

    def exporting(self, start: bool = True, **more: Any) -> Exporting:
        export = Export(**{"endpoint": self.collector.url, "metrics": False, **more})
        found = Exporting(export, NAMES, self.counts, self.families, "1.2", self.reactor)
        self.addCleanup(self.silence, found)
        if start:
            found.start()
            self.addCleanup(self.end, found)
        return found

    def silence(self, exporting: Exporting) -> None:
        """No thread tries again after the test."""
        for exporter in (exporting._span_exporter, exporting._metric_exporter):
            if exporter is not None:
                exporter._sends.shutdown()

    def end(self, exporting: Exporting) -> None:
        exporting.stop()
        self.reactor.advance(GOODBYE)

    def families(self) -> list[Family]:
        return [*families(self.counts), Gauge("llamagw_connections", "", (), {(): 3})]

    def request(self, exporting: Exporting, parent: str = "", **more: Any) -> Record:
        told = record(**more)
        told.trace = exporting.begin({b"Traceparent": [parent.encode()]} if parent else {})
        self.counts.count(told)
        exporting.tell(told)
        return told

    def sent(self, exporting: Exporting) -> list[dict[str, Any]]:
        """What the collector has, when all is sent."""
        assert exporting._processor is not None
        exporting._processor.force_flush()
        return self.kept

    def warnings(self) -> list[str]:
        levels = [(e["log_level"].name, e.get("why", "")) for e in self.events if "log_level" in e]
        return [why for level, why in levels if level == "warn"]


class ExportTests(ExportCase):
    def test_spans_reach_the_collector_with_the_headers_that_it_wants(self) -> None:
        exporting = self.exporting(headers={"X-Key": "secret"})
        told = self.request(exporting)
        assert told.trace is not None
        found = {one["span"]: one for one in self.sent(exporting)}
        self.assertEqual([*found], ["chat small", "queue", "load", "upstream"])
        own = found["chat small"]
        self.assertEqual((own["id"], own["parent"]), (f"{told.trace.span_id:016x}", ""))
        self.assertEqual(found["upstream"]["id"], f"{told.trace.upstream_id:016x}")
        self.assertEqual(own["resource"]["service.name"], "llamagw")
        self.assertEqual(own["resource"]["service.version"], "1.2")
        self.assertIn("opentelemetry.io/schemas/1.", own["schema"])
        self.assertEqual(self.collector.headers["X-Key"], "secret")
        self.assertEqual(self.warnings(), [])

    def test_the_client_s_span_is_the_parent_and_decides_whether_it_is_sampled(self) -> None:
        exporting = self.exporting(sample=0.0)
        parent = f"00-{'a' * 32}-{'b' * 16}-"
        self.request(exporting, parent + "00")
        self.request(exporting)
        self.assertEqual(self.sent(exporting), [])
        self.request(exporting, parent + "01")
        own = self.sent(exporting)[0]
        self.assertEqual((own["trace"], own["parent"]), ("a" * 32, "b" * 16))

    def test_a_traceparent_that_is_none_is_as_if_there_were_none(self) -> None:
        exporting = self.exporting(start=False)
        for wrong in ("", "x", f"00-{'0' * 32}-{'b' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01"):
            found = exporting.begin({b"Traceparent": [wrong.encode()]})
            self.assertEqual((found.parent, found.sampled), (None, True))
            self.assertNotIn(found.trace_id, (0, int("a" * 32, 16)))
        twice = exporting.begin({b"Traceparent": [b"00-%b-%b-01" % (b"a" * 32, b"b" * 16)] * 2})
        self.assertIsNone(twice.parent)

    def test_of_those_that_nobody_has_decided_a_share_is_sampled(self) -> None:
        exporting = self.exporting(start=False, sample=0.25)
        sampled = sum(exporting.begin({}).sampled for _ in range(2000))
        self.assertTrue(350 < sampled < 650, sampled)

    def test_what_the_file_leaves_out_the_variables_say(self) -> None:
        os.environ.update(
            OTEL_EXPORTER_OTLP_ENDPOINT=self.collector.url,
            OTEL_EXPORTER_OTLP_HEADERS="x-key=theirs",
            OTEL_SERVICE_NAME="box",
            OTEL_TRACES_SAMPLER="parentbased_always_off",
        )
        exporting = self.exporting(endpoint=None)
        self.request(exporting)
        self.assertEqual(self.sent(exporting), [])
        self.request(exporting, f"00-{'a' * 32}-{'b' * 16}-01")
        self.assertEqual(self.sent(exporting)[0]["resource"]["service.name"], "box")
        self.assertEqual(self.collector.headers["X-Key"], "theirs")

    def test_what_the_sdk_thinks_of_a_variable_is_logged(self) -> None:
        os.environ["OTEL_TRACES_SAMPLER"] = "now_and_then"
        self.exporting()
        [warned] = self.warnings()
        self.assertIn("now_and_then", warned)

    def test_a_request_for_no_model_has_no_spans(self) -> None:
        exporting = self.exporting()
        self.request(exporting, path=b"/health", asked=None)
        self.request(exporting, path=b"/nowhere", asked=None, error="not_found")
        self.assertEqual(self.sent(exporting), [])

    def test_one_that_was_refused_before_its_head_was_complete_has_a_span(self) -> None:
        exporting = self.exporting()
        told = record(arrived=None, queued=None, admitted=None, asked=None, model="")
        told.failed("body_too_large", "Too large.")
        exporting.tell(told)
        [own] = self.sent(exporting)
        self.assertEqual(own["attributes"]["error.type"], "body_too_large")


class TroubleTests(ExportCase):
    def test_a_collector_that_refuses_costs_spans_and_one_line_a_minute(self) -> None:
        exporting = self.exporting()
        self.collector.status = 400
        for _ in range(3):
            self.request(exporting)
            self.sent(exporting)
        [warned] = self.warnings()
        self.assertEqual(warned, f"{self.collector.url} takes no spans: it answers 400")
        self.reactor.advance(SILENCE)
        self.assertEqual(len(self.warnings()), 2, "the others are told together")
        self.assertEqual(self.events[-1]["spans"], "; the spans of 2 requests are lost")
        self.reactor.advance(SILENCE)
        self.assertEqual(len(self.warnings()), 2, "nothing is new")

    def test_why_it_could_not_be_sent_is_told_in_a_few_words(self) -> None:
        self.collector.hangs = threading.Event()
        self.addCleanup(self.collector.hangs.set)
        for url, seconds, why in (
            ("http://127.0.0.1:1", 10, "connection refused"),
            (self.collector.url, 0.05, SLOW),
            (self.collector.url, -1, SLOW),
        ):
            session = Session()
            with self.assertRaises((requests.RequestException, ValueError)):
                session.post(url, data=b"x", timeout=seconds)
            self.assertEqual(session.why, why)

    def test_of_one_that_hangs_no_more_than_so_many_requests_are_kept(self) -> None:
        self.patch(room, "MOST_WAITING", 4)
        os.environ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] = "2"
        exporting = self.exporting()
        self.collector.hangs = threading.Event()
        for _ in range(10):
            self.request(exporting)
        self.assertEqual(self.warnings(), [f"{self.collector.url} is slower than the requests"])
        self.collector.hangs.set()

    def test_one_that_hangs_holds_up_the_end_for_a_short_time_only(self) -> None:
        os.environ["OTEL_EXPORTER_OTLP_TIMEOUT"] = "60"
        exporting = self.exporting(start=False)
        exporting.start()
        self.collector.hangs = threading.Event()
        self.addCleanup(self.collector.hangs.set)
        self.request(exporting)
        stopped = exporting.stop()
        self.assertNoResult(stopped)
        self.reactor.advance(GOODBYE)
        self.successResultOf(stopped)
        self.assertEqual(self.events[-1]["spans"], "; the spans of 1 request are lost")
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_fault_of_ours_is_told_and_counts_as_sent(self) -> None:
        exporting = self.exporting()
        self.patch(Spans, "of", lambda *_: 1 / 0)
        self.request(exporting)
        self.assertEqual(self.sent(exporting), [])
        self.assertEqual(exporting._taken - exporting._sent, 0)
        self.assertIn("a fault of llamagw", self.warnings()[0])
        self.reactor.advance(SILENCE)
        self.assertIn("ZeroDivisionError", self.warnings()[1])

    def test_a_variable_that_is_no_number_is_refused(self) -> None:
        for given in ("soon", "0", "nan", "-1"):
            os.environ["OTEL_METRIC_EXPORT_INTERVAL"] = given
            self.assertRaises(ValueError, self.exporting, metrics=True)

    def test_one_that_was_never_started_ends_as_well(self) -> None:
        stopped = self.exporting(start=False, metrics=True).stop()
        self.reactor.advance(GOODBYE)
        self.successResultOf(stopped)


class MetricTests(ExportCase):
    def setUp(self) -> None:
        super().setUp()
        os.environ["OTEL_METRIC_EXPORT_INTERVAL"] = "5000"

    def measured(self, exporting: Exporting) -> dict[str, Any]:
        """The metrics that the collector has at the end, by name."""
        assert exporting._metric_exporter is not None
        exporting.stop()
        exporting._metric_exporter._thread.join(10)
        return {one["metric"]: one for one in self.kept if "metric" in one}

    def test_the_gateway_s_metrics_have_the_names_that_prometheus_is_told(self) -> None:
        exporting = self.exporting(spans=False, metrics=True, start=False)
        exporting.start()
        self.request(exporting)
        self.request(exporting, model="", asked="nope", status=404, usage=None, admitted=None)
        found = self.measured(exporting)
        self.assertEqual(
            {name for name in found if name.startswith("llamagw_")},
            {family.name for family in self.families() if family.values},
        )
        self.assertEqual(found["llamagw_connections"]["points"], [{"attributes": {}, "value": 3}])
        points = found["llamagw_requests_total"]["points"]
        self.assertEqual(sorted(one["attributes"]["status"] for one in points), ["200", "404"])
        [point] = [
            one
            for one in found["llamagw_request_duration_seconds"]["points"]
            if one["attributes"]["model"] == "small"
        ]
        self.assertEqual((point["count"], point["sum"]), (1, 6.0))
        self.assertEqual(found["llamagw_request_duration_seconds"]["unit"], "s")

    def test_the_conventions_histograms_are_told_too(self) -> None:
        exporting = self.exporting(spans=False, metrics=True, start=False)
        exporting.start()
        self.request(exporting)
        self.request(exporting, path=b"/tokenize")
        self.request(exporting, model="", asked="nope" * 99, status=500, usage=None, first=None)
        found = self.measured(exporting)
        values = {
            name: [(one["count"], one["sum"]) for one in metric["points"]]
            for name, metric in found.items()
            if name.startswith("gen_ai.")
        }
        self.assertEqual(
            values,
            {
                "gen_ai.server.request.duration": [(1, 6.0), (1, 6.0)],
                "gen_ai.server.time_to_first_token": [(1, 4.0)],
                "gen_ai.server.time_per_output_token": [(1, 0.5)],
                "gen_ai.client.token.usage": [(1, 30.0), (1, 4.0)],
            },
        )
        of = [one["attributes"] for one in found["gen_ai.server.request.duration"]["points"]]
        self.assertEqual([one["gen_ai.request.model"] for one in of], ["small", "other"])
        self.assertEqual([one.get("error.type") for one in of], [None, "500"])

    def test_what_cannot_be_read_once_is_read_again(self) -> None:
        exporting = self.exporting(spans=False, metrics=True, start=False)
        exporting.start()
        with mock.patch.object(exporting, "_families", side_effect=KeyError):
            self.reactor.advance(5)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertIn("llamagw_connections", self.measured(exporting))

    def test_they_are_sent_again_and_again_and_a_collector_that_hangs_delays_nothing(self) -> None:
        os.environ["OTEL_EXPORTER_OTLP_TIMEOUT"] = "2"
        exporting = self.exporting(spans=False, metrics=True)
        self.collector.hangs = threading.Event()
        self.addCleanup(self.collector.hangs.set)
        begun = time.monotonic()
        for _ in range(10):
            self.reactor.advance(5)
        self.assertLess(time.monotonic() - begun, 2)
        assert exporting._metric_exporter is not None
        self.assertLessEqual(exporting._metric_exporter._waiting.qsize(), 2)


class ParentTests(SynchronousTestCase):
    def test_the_parent_of_the_client_is_remote_to_the_span(self) -> None:
        client = SpanContext(0xA, 0xD, True, TraceFlags(1))
        spans = Spans(Origin(Resource({}), InstrumentationScope("x")), NAMES, lambda: 1)
        own = spans.of(record(), trace(parent=client), SINCE)[0]
        self.assertIs(own.parent, client)
