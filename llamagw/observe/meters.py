"""
Metrics as OpenTelemetry's SDK has them, made of the families that Prometheus is told too.

A snapshot: nothing is counted here. Imported by otel.py only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from opentelemetry.sdk.metrics import export as sdk

from llamagw.observe.families import Distribution, Family, Sum
from llamagw.observe.spans import Origin

_ALWAYS = sdk.AggregationTemporality.CUMULATIVE


def metrics_data(
    families: Iterable[Family], origin: Origin, start: int, now: int
) -> sdk.MetricsData:
    """
    A snapshot of metrics.

    :param start: when counting began, in nanoseconds since the epoch
    :param now: the time, likewise
    """
    metrics = [*_metrics(families, start, now)]
    scope = sdk.ScopeMetrics(origin.scope, metrics, origin.scope.schema_url or "")
    return sdk.MetricsData(
        [sdk.ResourceMetrics(origin.resource, [scope], origin.resource.schema_url)]
    )


def _metrics(families: Iterable[Family], start: int, now: int) -> Iterator[sdk.Metric]:
    for family in families:
        if not family.values:
            continue
        points: Any
        data: sdk.Sum | sdk.Gauge | sdk.Histogram
        if isinstance(family, Distribution):
            points = [
                sdk.HistogramDataPoint(
                    attributes=_attributes(family, key),
                    start_time_unix_nano=start,
                    time_unix_nano=now,
                    count=sum(histogram.counts),
                    sum=histogram.sum,
                    bucket_counts=[*histogram.counts],
                    explicit_bounds=histogram.bounds,
                    min=None,  # type: ignore[arg-type]  # it is not known
                    max=None,  # type: ignore[arg-type]
                )
                for key, histogram in family.values.items()
            ]
            data = sdk.Histogram(points, _ALWAYS)
        else:
            points = [
                sdk.NumberDataPoint(_attributes(family, key), start, now, value)
                for key, value in family.values.items()
            ]
            if isinstance(family, Sum):
                data = sdk.Sum(points, _ALWAYS, is_monotonic=True)
            else:
                data = sdk.Gauge(points)
        yield sdk.Metric(family.name, family.help, _unit(family.name), data)


def _attributes(family: Family, key: Any) -> dict[str, Any]:
    """Labels with a value; an empty one is none."""
    return {name: value for name, value in zip(family.labels, key, strict=True) if value != ""}


def _unit(name: str) -> str:
    if name.startswith("gen_ai."):
        return "{token}" if name.endswith("usage") else "s"
    return "s" if name.endswith("_seconds") else "By" if name.endswith("_bytes") else ""
