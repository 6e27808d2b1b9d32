"""
`GET /metrics`: the gateway's counters (families.py) in Prometheus' formats.

Made by prometheus_client when somebody asks; it keeps no numbers of its own. The engines' own
series are fetched and passed in by api/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families

from llamagw.observe.counts import Gauge
from llamagw.observe.families import Distribution, Family, Sum

#: What is read of one engine's metrics, in bytes; build 10068 has some 3,000.
MOST_OF_ENGINE = 64 * 1024

#: How the names of llama-server's series begin; others are left out.
_ENGINES = "llamacpp:"

#: How some versions of prometheus_client write it in OpenMetrics, as if a name had no colons.
_MISSPELT = b"\nllamacpp_"


def _metric(family: Family) -> Metric:
    if isinstance(family, Sum):
        return _counter(family)
    return _histogram(family) if isinstance(family, Distribution) else _gauge(family)


def _counter(counter: Sum) -> Metric:
    family = CounterMetricFamily(counter.name, counter.help, labels=counter.labels)
    for key, value in counter.values.items():
        family.add_metric(key, value)
    return family


def _gauge(gauge: Gauge) -> Metric:
    family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
    for key, value in gauge.values.items():
        family.add_metric(key, value)
    return family


def _histogram(distribution: Distribution) -> Metric:
    family = HistogramMetricFamily(distribution.name, distribution.help, labels=distribution.labels)
    for key, histogram in distribution.values.items():
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
    families: Iterable[Family], engines: Mapping[str, bytes], accept: str
) -> tuple[bytes, str]:
    """All metrics as text; see `llamagw.observe.exposition`."""
    registry = CollectorRegistry()
    registry.register(_Given([*map(_metric, families), *_labelled(engines)]))
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
