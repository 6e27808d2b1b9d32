"""
`GET /metrics` of the whole gateway: its counters, the state of the moment, and the engines' own.

Counters and formats are those of `llamagw.observe`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from llamagw import __version__
from llamagw.api.devices import Devices
from llamagw.dialects import ROUTE_OF
from llamagw.fleet import LOADS, UNLOADS, Dispatcher, ModelReport, Turn
from llamagw.observe import MOST_MODELS, Counts, Family, Gauge, exposition, families, only
from llamagw.proxy import Request

#: Seconds for which a text is given to all who ask: to make one takes up to 0.1 s.
FRESH_SEC = 1.0

_OPEN = "application/openmetrics-text"

_STATES = ("unloaded", "loading", "loaded", "stopping", "failed")


class _Told(NamedTuple):
    """A text, and when it was made."""

    at: float
    body: bytes
    content_type: str


class Metrics:
    """
    The gateway's metrics.

    :param dispatcher: reports on the models, and tells of their loads
    :param devices: what memory there is
    :param connections: how many clients are connected
    :param transports: the kind of transports, such as "uvloop"
    :param clock: the reactor, or a Clock
    :ivar counts: the counters
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        devices: Devices,
        connections: Callable[[], int],
        transports: str,
        clock: IReactorTime,
    ) -> None:
        self._dispatcher = dispatcher
        self._devices = devices
        self._connections = connections
        self._transports = transports
        self.counts = Counts(dispatcher.catalogue.__contains__, ROUTE_OF)
        self._clock = clock
        #: What was told last, and who waits for the next, by whether it is in OpenMetrics' format.
        self._told: dict[bool, _Told] = {}
        self._waiting: dict[bool, list[Deferred[_Told]]] = {False: [], True: []}
        dispatcher.turns.add(self._turn)

    def __repr__(self) -> str:
        return f"<Metrics: {self.counts}>"

    def _turn(self, turn: Turn) -> None:
        if turn.load:
            self.counts.count_load(turn.model, turn.how, turn.seconds)
        else:
            self.counts.count_unload(turn.model, turn.how)

    async def render(self, request: Request, sees: Callable[[str], bool] | None = None) -> bytes:
        """
        Answer with all metrics, at most `FRESH_SEC` old.

        :param sees: says of which models the client may be told; None for all
        :return: the body, for Klein to write
        """
        is_open = _OPEN in request.requestHeaders.getRawHeaders("accept", [""])[0]
        told = self._told.get(is_open)
        if told is None or self._clock.seconds() >= told.at + FRESH_SEC:
            waiter: Deferred[_Told] = Deferred()
            self._waiting[is_open].append(waiter)
            if len(self._waiting[is_open]) == 1:
                Deferred.fromCoroutine(self._make(is_open))
            told = await waiter
        request.setResponseCode(200)
        request.responseHeaders.setRawHeaders("Content-Type", [told.content_type])
        body = told.body if sees is None else only(told.body, sees)
        request.responseHeaders.setRawHeaders("Content-Length", [str(len(body))])
        return body

    async def _make(self, is_open: bool) -> None:
        """Make the text once for all who wait for it."""
        told: _Told | Failure
        try:
            engines = await self._dispatcher.metrics()
            accept = f"{_OPEN}; version=1.0.0" if is_open else ""
            text = exposition(self.families(), engines, accept)
            told = self._told[is_open] = _Told(self._clock.seconds(), *text)
        except Exception:
            told = Failure()
        waiting, self._waiting[is_open] = self._waiting[is_open], []
        for waiter in waiting:
            if not waiter.called:  # else its client has left
                waiter.callback(told)

    def families(self) -> Iterator[Family]:
        """All of the gateway's own metrics: the counters, and the state of the moment."""
        many = len(self._dispatcher.config.models) > MOST_MODELS
        reports = self._dispatcher.report(busy=many)[:MOST_MODELS]
        if not many:
            local = (report.id for report in reports if not report.elsewhere)
            self.counts.expect(local, LOADS, UNLOADS)
        yield from families(self.counts)
        yield from self._gauges(reports)

    def _gauges(self, reports: list[ModelReport]) -> Iterator[Gauge]:
        yield Gauge(
            "llamagw_build_info",
            "The gateway's version, and what it runs on.",
            ("version", "python", "transports"),
            {(__version__, platform.python_version(), self._transports): 1},
        )
        yield Gauge(
            "llamagw_connections",
            "Open connections of clients.",
            (),
            {(): self._connections()},
        )
        yield Gauge(
            "llamagw_requests_in_flight",
            "Requests that are being answered.",
            ("model",),
            {(report.id,): report.in_flight for report in reports},
        )
        yield Gauge(
            "llamagw_requests_waiting",
            "Requests in the queue of the model.",
            ("model",),
            {(report.id,): report.waiting for report in reports},
        )
        yield Gauge(
            "llamagw_model_state",
            "1 for the state that the model is in, else 0.",
            ("model", "state"),
            {
                (report.id, state): int(report.status == state)
                for report in reports
                for state in _STATES
            },
        )
        yield Gauge(
            "llamagw_memory_bytes",
            "Memory of each device: free is what a further model could take.",
            ("device", "kind"),
            {
                (device.device, kind): getattr(device, kind)
                for device in self._devices.read()
                for kind in ("total", "free", "used_by_models")
            }
            | {
                (account.device, kind): size
                for account in self._dispatcher.accounts()
                for kind, size in (
                    ("total", account.total),
                    ("free", account.free),
                    ("budget", account.budget),
                    ("reserved", account.reserve),
                    ("charged", account.ours),
                    ("others", account.others),
                )
            },
        )
        yield Gauge(
            "llamagw_model_memory_bytes",
            "Memory of the model's engine: what it is counted with, and what it has in use.",
            ("model", "device", "kind"),
            {
                (report.id, "host", "measured"): report.memory.rss
                for report in reports
                if report.memory is not None
            }
            | {
                (report.id, device, "estimated"): size
                for report in reports
                for device, size in (report.charge or {}).items()
            },
        )
