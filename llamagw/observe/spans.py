"""
From the record of a request that has ended to its spans, as OpenTelemetry's SDK has them.

Names and attributes are in docs/observing.md. Imported by otel.py only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from llamagw.observe.content import content
from llamagw.observe.export import Names
from llamagw.observe.genai import PROVIDER
from llamagw.observe.record import Outcome, Record
from llamagw.observe.trace import Trace
from llamagw.text import harmless

#: Characters of a text from a client, and of a reason, at most.
TEXT, REASON = 256, 500

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)

Attributes = dict[str, Any]


class Origin(NamedTuple):
    """
    What all spans have in common.

    :ivar resource: the gateway
    :ivar scope: the gateway's version
    """

    resource: Resource
    scope: InstrumentationScope


class Spans:
    """
    Makes the spans of requests.

    :param origin: what they have in common
    :param names: what paths and models are called
    :param new_id: makes the id of a span
    """

    def __init__(self, origin: Origin, names: Names, new_id: Any) -> None:
        self._origin = origin
        self._names = names
        self._new_id = new_id

    def of(self, record: Record, trace: Trace, since: int) -> list[ReadableSpan]:
        """
        The spans of a request: its own first, then its children.

        :param record: of a request that has ended
        :param trace: their ids
        :param since: nanoseconds since the epoch at which the reactor's clock was 0
        """

        def at(seconds: float) -> int:
            return since + int(seconds * 1e9)

        arrived = record.last if record.arrived is None else record.arrived
        own = self._context(trace, trace.span_id)
        spans = [
            self._span(
                self._name(record),
                own,
                trace.parent,
                SpanKind.SERVER,
                (at(arrived), at(record.last)),
                self._attributes(record, trace),
                _status(record),
            )
        ]
        for name, span_id, times, attributes, events in self._children(record, trace):
            kind = SpanKind.CLIENT if name == "upstream" else SpanKind.INTERNAL
            context = self._context(trace, span_id)
            begin, end = map(at, times)
            spans.append(
                self._span(
                    name,
                    context,
                    own,
                    kind,
                    (begin, end),
                    attributes,
                    _status(record) if name == "upstream" else Status(),
                    tuple(Event(what, timestamp=at(when)) for what, when in events),
                )
            )
        return spans

    def _children(
        self, record: Record, trace: Trace
    ) -> Iterator[tuple[str, int, tuple[float, float], Attributes, list[tuple[str, float]]]]:
        """Name, id, times in seconds, attributes and events of each."""
        admitted = record.admitted
        if record.queued is not None:
            left = record.last if admitted is None else admitted
            position = {"llamagw.queue_position": trace.position} if trace.position else {}
            yield "queue", self._new_id(), (record.queued, left), position, []
            if record.load_sec:
                yield "load", self._new_id(), (left - record.load_sec, left), {}, []
        if admitted is not None:
            sent = admitted if record.connected is None else max(record.connected, admitted)
            events = [] if record.first is None else [("first_byte", record.first)]
            attributes: Attributes = {"llamagw.tries": record.tries}
            if record.error_type:
                attributes["error.type"] = record.error_type
            yield "upstream", trace.upstream_id, (sent, record.last), attributes, events

    def _name(self, record: Record) -> str:
        operation = self._names.operations.get(record.path, "")
        if not operation:
            return f"{_method(record)} {self._names.routes[record.path] or ''}".rstrip()
        return f"{operation} {self._model(record)}".rstrip()

    def _model(self, record: Record) -> str:
        """A name of the configuration; "" if the request's is none, so that names are few."""
        if record.model or record.asked is None or not self._names.known(record.asked):
            return record.model
        return record.asked

    def _attributes(self, record: Record, trace: Trace) -> Attributes:
        found: Attributes = {
            "http.request.method": _method(record),
            "http.route": self._names.routes[record.path],
            "http.response.status_code": record.status or None,
            "http.request.body.size": record.bytes_in or None,
            "http.response.body.size": record.bytes_out or None,
            "client.address": record.client or None,
            "error.type": record.error_type or None,
            "llamagw.request_id": record.id,
            "llamagw.outcome": record.outcome.value,
            "llamagw.tries": record.tries,
            "llamagw.queue_position": trace.position or None,
        }
        operation = self._names.operations.get(record.path, "")
        if operation:
            found |= {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.request.model": harmless(record.asked or "", TEXT) or None,
                "gen_ai.request.stream": record.stream,
                "gen_ai.request.max_tokens": trace.max_tokens,
                "gen_ai.response.model": record.model or None,
                "gen_ai.response.id": trace.response_id or None,
                "gen_ai.response.finish_reasons": tuple(trace.reasons) or None,
            }
            if record.stream and record.first is not None and record.arrived is not None:
                found["gen_ai.response.time_to_first_chunk"] = record.first - record.arrived
        usage = record.usage
        if usage is not None:
            found |= {
                "gen_ai.usage.input_tokens": usage.prompt,
                "gen_ai.usage.output_tokens": usage.completion,
                "gen_ai.usage.cache_read.input_tokens": usage.cached,
            }
        if trace.content is not None:
            told = trace.content.told()
            found |= content(told["request"]["body"], told["response"]["body"], trace.reasons)
        return {name: value for name, value in found.items() if value is not None}

    def _context(self, trace: Trace, span_id: int) -> SpanContext:
        state = None if trace.parent is None else trace.parent.trace_state
        return SpanContext(trace.trace_id, span_id, False, _SAMPLED, state)

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        times: tuple[int, int],
        attributes: Attributes,
        status: Status,
        events: tuple[Event, ...] = (),
    ) -> ReadableSpan:
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._origin.resource,
            attributes=attributes,
            events=events,
            kind=kind,
            status=status,
            start_time=times[0],
            end_time=max(times),
            instrumentation_scope=self._origin.scope,
        )


def _method(record: Record) -> str:
    return harmless(record.method.decode(errors="replace"), 20) or "_OTHER"


def _status(record: Record) -> Status:
    """
    As HTTP's conventions have it for a server: an error is what the server did wrong.

    The gateway's own words only: an engine may repeat what it was asked.
    """
    lost = record.outcome in (Outcome.BACKEND_LOST, Outcome.TIMEOUT)
    if not lost and record.status < 500:
        return Status()
    return Status(StatusCode.ERROR, harmless(record.reason, REASON) if record.error else None)
