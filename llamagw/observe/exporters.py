"""
Sends spans and metrics to a collector over OTLP/HTTP, in threads, and says why that fails.

The SDK's exporters do the sending. What waits for them, and who is told, is otel.py's. Imported by
that only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Full, Queue
from threading import Thread
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags

from llamagw.observe.record import Record
from llamagw.observe.spans import Spans
from llamagw.observe.trace import Trace

#: The reason while there is no other.
OURS = "that is a fault of llamagw"

#: The reason of a collector that takes too long.
SLOW = "it does not answer in time"

_ERRNO = re.compile(r"\[Errno -?\d+\] ([^'\")\]]+)")

_NOTHING = Resource({})
_SAMPLED = SpanContext(1, 1, False, TraceFlags(TraceFlags.SAMPLED))


class Ended(ReadableSpan):
    """
    A request that has ended, in the SDK's queue: its spans are made in the SDK's thread.

    :param record: the request's
    :param trace: the ids of its spans
    :param since: nanoseconds since the epoch at which the reactor's clock was 0
    """

    def __init__(self, record: Record, trace: Trace, since: int) -> None:
        # Without a resource it would make one, which takes longer than all else.
        super().__init__("", _SAMPLED, resource=_NOTHING)
        self.record = record
        self.trace = trace
        self.since = since


class Session(requests.Session):
    """
    Sends to the collector.

    :ivar why: why the last export failed, in words
    """

    why = ""

    def request(self, *arguments: Any, **more: Any) -> requests.Response:
        try:
            answer = super().request(*arguments, **more)
        except requests.RequestException as error:
            self.why = _in_words(error)
            raise
        except ValueError:  # no time is left for another try
            self.why = SLOW
            raise
        if not answer.ok:
            self.why = f"it answers {answer.status_code}"
        return answer


class SpansExporter(SpanExporter):
    """
    Makes the spans of the requests in a batch, and sends them.

    :param spans: makes them
    :param done: called with how many requests a batch had, and why it was lost; "" if it was not
    :param to: where to, for the SDK
    """

    def __init__(self, spans: Spans, done: Callable[[int, str], object], **to: Any) -> None:
        self._session = Session()
        self._sends = OTLPSpanExporter(session=self._session, **to)
        self._spans = spans
        self._done = done

    def export(self, batch: Sequence[ReadableSpan]) -> SpanExportResult:
        self._session.why = why = OURS
        try:
            spans = [
                span
                for one in batch
                if isinstance(one, Ended)
                for span in self._spans.of(one.record, one.trace, one.since)
            ]
            result = self._sends.export(spans)
            why = "" if result is SpanExportResult.SUCCESS else self._session.why
        finally:
            self._done(len(batch), why)
        return result

    def shutdown(self) -> None:
        self._sends.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


class MetricExporter:
    """
    Sends snapshots of metrics, one after the other, in a thread of its own.

    A snapshot that comes while two others wait is left out: the next one has all that it had.

    :param lost: called with the reason when one could not be sent
    :param to: where to, for the SDK
    """

    def __init__(self, lost: Callable[[str], object], **to: Any) -> None:
        self._session = Session()
        self._sends = OTLPMetricExporter(session=self._session, **to)
        self._lost = lost
        self._waiting: Queue[MetricsData | None] = Queue(2)
        self._thread = Thread(target=self._run, name="llamagw metrics", daemon=True)
        self.start = self._thread.start
        self.join = self._thread.join

    def put(self, data: MetricsData | None) -> None:
        """
        Send a snapshot, at some time.

        :param data: None to end
        """
        with suppress(Full):
            self._waiting.put(data, block=data is None)

    def _run(self) -> None:
        while (data := self._waiting.get()) is not None:
            self._session.why = OURS
            try:
                failed = self._sends.export(data) is not MetricExportResult.SUCCESS
            except Exception:  # else there would be no metrics any more
                failed = True
            if failed:
                self._lost(self._session.why)


def _in_words(error: requests.RequestException) -> str:
    """Why something could not be sent, in a few words."""
    if isinstance(error, requests.Timeout):
        return SLOW
    found = _ERRNO.search(str(error))
    if found is not None:
        return found[1].lower()
    if isinstance(error, requests.ConnectionError):
        return "the connection broke off"
    return f"{type(error).__name__}: {error}"
