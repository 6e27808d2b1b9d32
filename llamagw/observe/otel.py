"""
Exports spans and metrics by OpenTelemetry's SDK: what begins and ends with the gateway.

In the reactor's thread a request costs its ids when it comes and a place in a queue when it ends;
spans are made and sent in the SDK's thread, metrics in one of ours (exporters.py). A collector that
is slow or not there costs spans, which are counted and logged, and no request waits for it. Entered
by telemetry.py only.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Thread
from typing import Any
from uuid import uuid4

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from llamagw.observe.counts import Counts
from llamagw.observe.export import Export, Names
from llamagw.observe.exporters import Ended, MetricExporter, SpansExporter
from llamagw.observe.families import Family
from llamagw.observe.genai import GenAi
from llamagw.observe.meters import metrics_data
from llamagw.observe.record import Record
from llamagw.observe.spans import Origin, Spans
from llamagw.observe.trace import Trace
from llamagw.text import harmless

_log = Logger(namespace="llamagw.otel")

#: Requests whose spans wait to be sent, or are being sent; of more the spans are dropped.
MOST_WAITING = 2048

#: Seconds between two lines of the log about what is not exported.
SILENCE = 60.0

#: Seconds for which the end of the gateway waits for what is left to be sent.
GOODBYE = 2.0

#: Seconds between two exports of metrics, unless OTEL_METRIC_EXPORT_INTERVAL says so.
INTERVAL = 60.0

#: Characters of what the SDK or a collector says that are logged.
SAID = 200

#: The schema of the attributes that are stable; docs/observing.md has what the others follow.
_CONVENTIONS = "https://opentelemetry.io/schemas/1.41.0"

#: The headers that tell of the client's span, as Twisted and the SDK spell them.
_CARRIED = ((b"Traceparent", "traceparent"), (b"Tracestate", "tracestate"))


class _Said(logging.Handler):
    """
    Hands on what the SDK logs, but for what `exporters.Session` knows better.

    :param tell: called with the text, in any thread
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, said: logging.LogRecord) -> None:
        if not said.name.endswith(("trace_exporter", "metric_exporter")):
            error = said.exc_info and said.exc_info[1]
            self._tell(f"{said.getMessage()} {error!r}" if error else said.getMessage())


class Exporting:
    """Implements `llamagw.observe.telemetry.Telemetry`; parameters are those of its maker."""

    def __init__(
        self,
        export: Export,
        names: Names,
        counts: Counts,
        families: Callable[[], Iterable[Family]],
        version: str,
        reactor: Any,
    ) -> None:
        self._names = names
        self._families = families
        self._content = export.content
        self._reactor = reactor
        self._begun = time.time_ns()
        self._complaints = _Complaints(reactor)
        self._hear()
        self._origin = Origin(
            _resource(version),
            InstrumentationScope("llamagw", version, _CONVENTIONS),
        )
        self._ids = RandomIdGenerator()
        # Without a sampler of its own it takes that of the environment.
        sampler = None if export.sample is None else ParentBasedTraceIdRatio(export.sample)
        self._sampler = TracerProvider(sampler, Resource({}), shutdown_on_exit=False).sampler
        self._client = TraceContextTextMapPropagator()
        self._taken = self._sent = 0
        self._processor: BatchSpanProcessor | None = None
        self._span_exporter: SpansExporter | None = None
        self._metric_exporter: MetricExporter | None = None
        self._clockwork: LoopingCall | None = None
        base, headers = export.endpoint, dict(export.headers) or None
        self._where = base or "the environment's collector"
        if export.spans:
            spans = Spans(self._origin, names, self._ids.generate_span_id)
            to = {"endpoint": base and f"{base.rstrip('/')}/v1/traces", "headers": headers}
            self._span_exporter = SpansExporter(spans, self._was_sent, **to)
        self._gen_ai: GenAi | None = None
        if export.metrics:
            self._gen_ai = GenAi(names.operations, counts.label)
            to = {"endpoint": base and f"{base.rstrip('/')}/v1/metrics", "headers": headers}
            self._metric_exporter = MetricExporter(self._metrics_lost, **to)
            self._interval = _interval()

    def __repr__(self) -> str:
        return f"<Exporting to {self._where}: {self._sent} of {self._taken} requests>"

    # In the reactor's thread

    def begin(self, given: Mapping[bytes, Sequence[bytes]]) -> Trace:
        found = {}
        for name, key in _CARRIED:
            values = given.get(name)
            if values is not None and len(values) == 1:
                found[key] = values[0].decode("latin-1")
        return self._trace(found)

    def _trace(self, carried: dict[str, str]) -> Trace:
        context = parent = None
        trace_id = 0
        if carried:
            context = self._client.extract(carried)
            parent = get_current_span(context).get_span_context()
            trace_id = parent.trace_id if parent.is_valid else 0
        trace_id = trace_id or self._ids.generate_trace_id()
        decision = self._sampler.should_sample(context, trace_id, "request", SpanKind.SERVER)
        return Trace(
            trace_id=trace_id,
            span_id=self._ids.generate_span_id(),
            upstream_id=self._ids.generate_span_id(),
            sampled=decision.decision.is_sampled(),
            parent=parent if parent is not None and parent.is_valid else None,
            keeps_content=self._content,
        )

    def tell(self, record: Record) -> None:
        if self._gen_ai is not None:
            self._gen_ai.count(record)
        if self._processor is None or (record.asked is None and not record.error):
            return
        if self._names.routes[record.path] is None:
            return
        trace = record.trace
        if trace is None:  # it was refused before its head was complete
            trace = self._trace({})
        if not trace.sampled:
            return
        if self._taken - self._sent >= MOST_WAITING:
            self._complaints.lost(1, f"{self._where} is slower than the requests")
            return
        self._taken += 1
        since = time.time_ns() - int(self._reactor.seconds() * 1e9)
        self._processor.on_end(Ended(record, trace, since))

    def start(self) -> None:
        if self._span_exporter is not None:
            self._processor = BatchSpanProcessor(self._span_exporter, MOST_WAITING)
        if self._metric_exporter is not None:
            self._metric_exporter.start()
            self._clockwork = LoopingCall(self._measure)
            self._clockwork.clock = self._reactor
            self._clockwork.start(self._interval, now=False)
        _log.info("OpenTelemetry: {what} go to {where}", what=self._what(), where=self._where)

    def _what(self) -> str:
        both = (self._span_exporter, "spans"), (self._metric_exporter, "metrics")
        return " and ".join(what for exporter, what in both if exporter is not None)

    def _measure(self) -> None:
        assert self._metric_exporter is not None, "it is exported"
        assert self._gen_ai is not None, "it is exported"
        try:
            families = [*self._families(), *self._gen_ai.families()]
            data = metrics_data(families, self._origin, self._begun, time.time_ns())
        except Exception:  # else there would be no metrics any more
            _log.failure("the metrics could not be read")
        else:
            self._metric_exporter.put(data)

    def stop(self) -> Deferred[None]:
        stopped: Deferred[None] = Deferred()

        def over() -> None:
            if not stopped.called:
                if timer.active():
                    timer.cancel()
                self._complaints.end(self._taken - self._sent, self._where)
                stopped.callback(None)

        if self._clockwork is not None and self._clockwork.running:
            self._clockwork.stop()
            self._measure()
        timer = self._reactor.callLater(GOODBYE, over)
        # Not one of the reactor's threads, for whose end the process would wait.
        Thread(target=self._flush, args=(over,), name="llamagw otel", daemon=True).start()
        return stopped

    # In other threads

    def _flush(self, over: Callable[[], None]) -> None:
        metrics = None if self._clockwork is None else self._metric_exporter
        if metrics is not None:
            metrics.put(None)
        if self._processor is not None:
            self._processor.shutdown()
        if metrics is not None:
            metrics.join()
        self._reactor.callFromThread(over)

    def _was_sent(self, count: int, why: str) -> None:
        self._sent += count
        if why:
            words = f"{self._where} takes no spans: {why}"
            self._reactor.callFromThread(self._complaints.lost, count, words)

    def _metrics_lost(self, why: str) -> None:
        words = f"{self._where} takes no metrics: {why}"
        self._reactor.callFromThread(self._complaints.lost, 0, words)

    def _hear(self) -> None:
        """Have what the SDK logs in our log, and nowhere else."""

        def tell(text: str) -> None:
            self._reactor.callFromThread(self._complaints.lost, 0, text)

        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.handlers[:] = [_Said(tell)]


class _Complaints:
    """
    Logs what is not exported: one line when it begins, then one a `SILENCE` at most.

    :param reactor: times it
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._timer: IDelayedCall | None = None
        self._why = ""
        self._requests = 0

    def lost(self, requests: int, why: str) -> None:
        """
        Note that something is not exported.

        :param requests: how many requests' spans; 0 if it is something else
        :param why: for the log
        """
        self._requests += requests
        self._why = why
        if self._timer is None:
            self._say()

    def end(self, requests: int, where: str) -> None:
        """
        Log what is still to be said, when the gateway stops.

        :param requests: how many have not been sent
        :param where: the collector
        """
        if requests > 0:
            self._requests += requests
            self._why = self._why or f"{where} was too slow at the end"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._why:
            self._say(more=False)

    def _say(self, more: bool = True) -> None:
        self._timer = self._reactor.callLater(SILENCE, self._again) if more else None
        count, why = self._requests, harmless(self._why, SAID)
        self._requests, self._why = 0, ""
        spans = f"; the spans of {count} request{'s'[: count != 1]} are lost" if count else ""
        _log.warn("OpenTelemetry: {why}{spans}", why=why, spans=spans)

    def _again(self) -> None:
        self._timer = None
        if self._why:
            self._say()


def _resource(version: str) -> Resource:
    """What the environment says of this process, else llamagw's own words."""
    own = Resource.create(
        {
            "service.name": "llamagw",
            "service.version": version,
            "service.instance.id": str(uuid4()),
        }
    )
    return own.merge(OTELResourceDetector().detect())


def _interval() -> float:
    """
    Seconds between two exports of metrics.

    :raises ValueError: if the environment says no number of milliseconds
    """
    given = os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    if not given:
        return INTERVAL
    try:
        seconds = float(given) / 1000
    except ValueError:
        seconds = 0.0
    if not 0.01 <= seconds <= 86400:
        raise ValueError(
            f"OTEL_METRIC_EXPORT_INTERVAL is {given}; it takes milliseconds, 10 or more"
        )
    return seconds
