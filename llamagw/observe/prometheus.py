"""
`GET /metrics`: the gateway's counters in Prometheus' formats.

Made by prometheus_client when somebody asks; it keeps no numbers of its own. The engines' own series
are fetched and passed in by api/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from llamagw.observe.counts import Counts, Histogram

__all__ = ["exposition"]


class _Collector:
    """Makes the families of metrics from the counters, when they are asked for."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        yield _counter(
            "llamagw_requests",
            "Requests relayed or refused, by model, route and status of the answer.",
            ("model", "route", "status"),
            {(m, route, str(status)): n for (m, route, status), n in counts.requests.items()},
        )
        yield _counter(
            "llamagw_refusals",
            "Requests that the gateway answered with an error of its own, by its code.",
            ("reason",),
            {(code,): n for code, n in counts.refusals.items()},
        )
        yield _counter(
            "llamagw_tokens",
            "Tokens as the engines count them; prompt has the cached ones too.",
            ("model", "kind"),
            {
                (name, kind): getattr(of_model, kind)
                for name, of_model in counts.models.items()
                for kind in ("prompt", "cached", "completion")
            },
        )
        yield _counter(
            "llamagw_retries",
            "Requests sent again after a backend broke off.",
            ("model",),
            {(name,): of_model.retries for name, of_model in counts.models.items()},
        )
        yield _histogram(
            "llamagw_request_duration_seconds",
            "From the request's arrival to the end of its answer.",
            ("model", "route"),
            counts.durations,
        )
        for name, help, of in (
            ("llamagw_queue_seconds", "Time in the queue of the model.", "queue"),
            ("llamagw_time_to_first_byte_seconds", "From arrival to the answer's start.", "first"),
            ("llamagw_time_per_output_token_seconds", "Of one generated token.", "token"),
        ):
            yield _histogram(
                name,
                help,
                ("model",),
                {(model,): getattr(of_model, of) for model, of_model in counts.models.items()},
            )


def _counter(
    name: str, help: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> Metric:
    family = CounterMetricFamily(name, help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def gauge(
    name: str, help: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> Metric:
    """A family of gauges, by the values of their labels."""
    family = GaugeMetricFamily(name, help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, help: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], Histogram]
) -> Metric:
    family = HistogramMetricFamily(name, help, labels=labels)
    for key, histogram in values.items():
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        family.add_metric(
            key, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum
        )
    return family


class _Given:
    """Metrics that are given as they are."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(counts: Counts, more: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """
    All metrics as text.

    :param more: further families, such as gauges of the moment
    :param accept: the scraper's Accept header; chooses between Prometheus' format and OpenMetrics
    :return: the text, and its Content-Type
    """
    registry = CollectorRegistry()
    registry.register(_Collector(counts))  # type: ignore[arg-type]
    registry.register(_Given(more))  # type: ignore[arg-type]
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
