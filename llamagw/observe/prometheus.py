"""
`GET /metrics`: the gateway's counters in Prometheus' formats.

Made by prometheus_client when somebody asks; it keeps no numbers of its own. The engines' own
series are fetched and passed in by api/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families

from llamagw.observe.counts import Counts, Gauge, Histogram

#: What is read of one engine's metrics, in bytes; build 10068 has some 3,000.
MOST_OF_ENGINE = 64 * 1024

#: How the names of llama-server's series begin; others are left out.
_ENGINES = "llamacpp:"

#: How some versions of prometheus_client write it in OpenMetrics, as if a name had no colons.
_MISSPELT = b"\nllamacpp_"


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
            "llamagw_model_loads",
            "Loads of models, by outcome.",
            ("model", "outcome"),
            counts.loads,
        )
        yield _counter(
            "llamagw_model_unloads",
            "Ends of models' runs, by reason.",
            ("model", "reason"),
            counts.unloads,
        )
        yield _histogram(
            "llamagw_load_seconds",
            "What loads took.",
            ("model",),
            {(model,): of for model, of in counts.load_seconds.items()},
        )
        yield _counter(
            "llamagw_retries",
            "Requests sent again after a backend broke off.",
            ("model",),
            {(name,): of_model.retries for name, of_model in counts.models.items()},
        )
        yield _counter(
            "llamagw_streams_broken",
            "Answers that broke off after they had begun.",
            ("model",),
            {(name,): of_model.broken for name, of_model in counts.models.items()},
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


def _counter(name: str, help: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = CounterMetricFamily(name, help, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(gauge: Gauge) -> Metric:
    family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
    for key, value in gauge.values.items():
        family.add_metric(key, value)
    return family


def _histogram(
    name: str, help: str, labels: tuple[str, ...], values: Mapping[Any, Histogram]
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


def exposition(
    counts: Counts, gauges: Iterable[Gauge], engines: Mapping[str, bytes], accept: str
) -> tuple[bytes, str]:
    """All metrics as text; see `llamagw.observe.exposition`."""
    more = [*map(_gauge, gauges), *_labelled(engines)]
    registry = CollectorRegistry()
    registry.register(_Collector(counts))
    registry.register(_Given(more))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    # A line begins with the name of a series only: line breaks in labels and help are escaped.
    return encode(registry).replace(_MISSPELT, b"\n" + _ENGINES.encode()), content_type


def _labelled(texts: Mapping[str, bytes]) -> list[Metric]:
    """The series of engines that begin with `_ENGINES`, with the model as a label."""
    families: dict[str, Metric] = {}
    for model, text in texts.items():
        if len(text) > MOST_OF_ENGINE:
            continue
        try:
            found = list(text_string_to_metric_families(text.decode()))
        except (ValueError, UnicodeDecodeError):
            continue
        for one in found:
            if not one.name.startswith(_ENGINES) or one.type not in ("counter", "gauge"):
                continue
            # The parser appends `_total` to the name of a counter that has none.
            bare = one.type == "counter" and f"\n{one.name} ".encode() in text
            kind = "gauge" if bare else one.type
            family = families.setdefault(one.name, Metric(one.name, one.documentation, kind))
            for sample in one.samples:
                name = one.name if bare else sample.name
                family.add_sample(name, {"model": model}, sample.value)
    return list(families.values())
