"""
The door to otel.py, which is imported only if something is to be exported by OpenTelemetry: the SDK
takes memory and half a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llamagw.observe.counts import Counts
from llamagw.observe.export import Export, Names
from llamagw.observe.families import Family
from llamagw.observe.record import Record
from llamagw.observe.trace import Trace

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class Telemetry(Protocol):
    """Exports spans and metrics while the gateway runs."""

    def begin(self, given: Mapping[bytes, Sequence[bytes]]) -> Trace:
        """
        Begin the spans of a request.

        :param given: the values of its headers by their names, spelled as in ``X-Request-Id``
        """

    def tell(self, record: Record) -> None:
        """Export a request that has ended."""

    def start(self) -> None:
        """Begin to export: from here on there are threads."""

    def stop(self) -> Deferred[None]:
        """
        Export what is left, for a short time.

        :return: fires when that is done, or the time is over
        """


def telemetry(
    export: Export,
    names: Names,
    counts: Counts,
    families: Callable[[], Iterable[Family]],
    version: str,
    reactor: Any,
) -> Telemetry:
    """
    Make what exports spans and metrics; nothing is exported before it is started.

    :param families: gives all metrics; called in the reactor's thread
    :param version: the gateway's
    :param reactor: its clock, and the way back from threads
    :raises ValueError: if an OTEL_ variable has a value that the SDK does not take
    """
    from llamagw.observe.otel import Exporting

    return Exporting(export, names, counts, families, version, reactor)
