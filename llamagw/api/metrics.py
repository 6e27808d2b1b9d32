"""
`GET /metrics` of the whole gateway: its counters, the state of the moment, and the engines' own.

Counters and formats are those of `llamagw.observe`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

from llamagw import __version__
from llamagw.dialects import route_of
from llamagw.fleet import Dispatcher, ModelReport, Turn
from llamagw.observe import MOST_MODELS, Counts, Gauge, exposition
from llamagw.proxy import Request

_STATES = ("unloaded", "loading", "loaded", "stopping", "failed")


class Metrics:
    """
    The gateway's metrics.

    :param dispatcher: reports on the models, and tells of their loads
    :param connections: how many clients are connected
    :param transports: the kind of transports, such as "uvloop"
    :ivar counts: the counters
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        connections: Callable[[], int],
        transports: str,
    ) -> None:
        self._dispatcher = dispatcher
        self._connections = connections
        self._transports = transports
        self.counts = Counts(dispatcher.catalogue.__contains__, route_of)
        dispatcher.turns.add(self._turn)

    def __repr__(self) -> str:
        return f"<Metrics: {self.counts}>"

    def _turn(self, turn: Turn) -> None:
        if turn.load:
            self.counts.count_load(turn.model, turn.how, turn.seconds)
        else:
            self.counts.count_unload(turn.model, turn.how)

    async def render(self, request: Request) -> bytes:
        """
        Answer with all metrics.

        :return: the body, for Klein to write
        """
        engines = await self._dispatcher.metrics()
        many = len(self._dispatcher.config.models) > MOST_MODELS
        gauges = self._gauges(self._dispatcher.report(busy=many)[:MOST_MODELS])
        accept = request.requestHeaders.getRawHeaders("accept", [""])[0]
        body, content_type = exposition(self.counts, gauges, engines, accept)
        request.setResponseCode(200)
        request.responseHeaders.setRawHeaders("Content-Type", [content_type])
        request.responseHeaders.setRawHeaders("Content-Length", [str(len(body))])
        return body

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
            "llamagw_model_memory_bytes",
            "Memory of the model's engine, without that of GPUs.",
            ("model", "device", "kind"),
            {
                (report.id, "host", "measured"): report.memory.rss
                for report in reports
                if report.memory is not None
            },
        )
