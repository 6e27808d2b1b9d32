"""
What is exported by OpenTelemetry: from ``otel:`` and the OTEL_ variables, which the file overrules.

Here only those that switch it on or off are read; the others are the SDK's, which is not imported.
"""

from __future__ import annotations

from importlib.util import find_spec

from llamagw.config.document import Report
from llamagw.config.machine import variable
from llamagw.config.resolved import Otel
from llamagw.config.schema import COLLECTOR, OtelEntry

#: What is imported, of the extra `[otel]`.
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_REMEDY = "pip install 'llamagw[otel]'"

#: The variable for both signals, and that of each.
_ENDPOINT, _OF_SIGNAL = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_{}_ENDPOINT"
_SIGNALS = ("TRACES", "METRICS")

_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_SPOKEN = "http/protobuf"


def settings(fault: Report, entry: OtelEntry | None) -> Otel | None:
    """
    What is exported, and where to.

    What is wrong is a fault where the file asks for it; else it is the ``problem``, since the
    variables may be meant for other programs.

    :param fault: reports a fault
    :param entry: the value of ``otel:``; None without one
    :return: None if nothing is
    """
    if variable("OTEL_SDK_DISABLED").strip().lower() == "true":
        return None
    spans, metrics = (_switch(signal, entry is not None) for signal in _SIGNALS)
    if not spans and not metrics:
        return None
    asked_by = "otel" if entry is not None else spans or metrics
    entry = entry or OtelEntry()
    endpoint = entry.endpoint
    if endpoint is None and not any(map(variable, (_ENDPOINT, *map(_OF_SIGNAL.format, _SIGNALS)))):
        endpoint = COLLECTOR
    problem = _problem(endpoint)
    if problem and asked_by == "otel":
        fault("otel", problem)
    return Otel(
        asked_by=asked_by,
        endpoint=endpoint,
        headers=entry.headers,
        content=entry.content,
        sample=entry.sample,
        spans=bool(spans),
        metrics=bool(metrics),
        problem=problem,
    )


def _switch(signal: str, by_file: bool) -> str:
    """What switches a signal on; "" if nothing does."""
    exporters = f"OTEL_{signal}_EXPORTER"
    given = variable(exporters)
    if given:
        return exporters if "otlp" in [one.strip() for one in given.split(",")] else ""
    if by_file:
        return "otel"
    return next((name for name in (_ENDPOINT, _OF_SIGNAL.format(signal)) if variable(name)), "")


def _problem(endpoint: str | None) -> str:
    """
    Why nothing can be exported; "" if it can.

    :param endpoint: None if the environment says it
    """
    protocol = variable(_PROTOCOL).strip()
    if endpoint is None and protocol not in ("", _SPOKEN):
        return (
            f"the environment has {_PROTOCOL}={protocol}, and llamagw speaks {_SPOKEN} only; give "
            "the collector's address for that as otel.endpoint, usually with port 4318"
        )
    if not all(map(_is_installed, _PACKAGES)):
        return f"wants OpenTelemetry's SDK, which is not installed: {_REMEDY}"
    return ""


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
