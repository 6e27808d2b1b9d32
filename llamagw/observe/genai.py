"""
The histograms that OpenTelemetry's conventions for generative AI name, as plain numbers.

Counted from records only while metrics are exported; our own are in counts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from llamagw.observe.counts import MOST_PAIRS, OTHER, Histogram
from llamagw.observe.families import Distribution
from llamagw.observe.record import Record

#: What serves all models, to the conventions.
PROVIDER = "llama.cpp"

#: The buckets that the conventions advise.
DURATION = tuple(0.01 * 2**n for n in range(14))
FIRST = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**n) for n in range(14))

_OF = ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model")

#: Name, meaning, further labels and buckets of each histogram.
_ALL = (
    ("gen_ai.server.request.duration", "What a request took.", ("error.type",), DURATION),
    ("gen_ai.server.time_to_first_token", "From arrival to a stream's first bytes.", (), FIRST),
    ("gen_ai.server.time_per_output_token", "Of one generated token.", (), TOKEN),
    ("gen_ai.client.token.usage", "Tokens of a request.", ("gen_ai.token.type",), TOKENS),
)


class GenAi:
    """
    Counts the requests whose operation the conventions name.

    :param operations: ``gen_ai.operation.name`` of each path that has one
    :param label: the label of a model's name
    """

    def __init__(self, operations: Mapping[bytes, str], label: Callable[[str], str]) -> None:
        self._operations = operations
        self._label = label
        self._values: list[dict[tuple[str, ...], Histogram]] = [{} for _ in _ALL]

    def count(self, record: Record) -> None:
        """Count a request that has ended."""
        operation = self._operations.get(record.path)
        if not operation or record.asked is None or record.arrived is None:
            return
        of = (operation, PROVIDER, self._label(record.model or record.asked))
        self._add(0, (*of, record.error_type), record.last - record.arrived)
        if record.first is not None and record.stream:
            self._add(1, of, record.first - record.arrived)
        usage = record.usage
        if usage is None:
            return
        if usage.completion and usage.completion_sec:
            self._add(2, of, usage.completion_sec / usage.completion)
        for kind, tokens in (("input", usage.prompt), ("output", usage.completion)):
            if tokens is not None:
                self._add(3, (*of, kind), tokens)

    def _add(self, which: int, key: tuple[str, ...], value: float) -> None:
        values = self._values[which]
        histogram = values.get(key)
        if histogram is None:
            if len(values) >= MOST_PAIRS:
                key = (*key[:2], OTHER, *key[3:])
            histogram = values.setdefault(key, Histogram(_ALL[which][3]))
        histogram.add(value)

    def families(self) -> Iterator[Distribution]:
        """The histograms."""
        for (name, help, more, _), values in zip(_ALL, self._values, strict=True):
            yield Distribution(name, help, (*_OF, *more), values)
