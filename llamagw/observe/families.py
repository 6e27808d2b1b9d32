"""
The gateway's counters by name: the contract of what Prometheus and OpenTelemetry are told alike.

Made from counts.py's plain numbers when somebody wants them; formats are for prometheus.py and
otel.py. What is so at this moment (`Gauge`) comes from api/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llamagw.observe.counts import Counts, Gauge, Histogram


class Sum(NamedTuple):
    """
    A number that only grows.

    :ivar values: by the values of the labels, as text
    """

    name: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[Any, float]


class Distribution(NamedTuple):
    """
    Values counted by bucket.

    :ivar values: by the values of the labels, as text
    """

    name: str
    help: str
    labels: tuple[str, ...]
    values: Mapping[Any, Histogram]


Family = Sum | Distribution | Gauge


def families(counts: Counts) -> Iterator[Sum | Distribution]:
    """All counters and histograms."""
    yield Sum(
        "llamagw_requests_total",
        "Requests relayed or refused, by model, route and status of the answer.",
        ("model", "route", "status"),
        {(m, route, str(status)): n for (m, route, status), n in counts.requests.items()},
    )
    yield Sum(
        "llamagw_refusals_total",
        "Requests that the gateway answered with an error of its own, by its code.",
        ("reason",),
        {(code,): n for code, n in counts.refusals.items()},
    )
    yield Sum(
        "llamagw_tokens_total",
        "Tokens as the engines count them; prompt has the cached ones too.",
        ("model", "kind"),
        {
            (name, kind): getattr(of_model, kind)
            for name, of_model in counts.models.items()
            for kind in ("prompt", "cached", "completion")
        },
    )
    if counts.keys:
        yield Sum(
            "llamagw_key_requests_total",
            "Requests of each API key that a model has answered.",
            ("key",),
            {(key,): counted[0] for key, counted in counts.keys.items()},
        )
        yield Sum(
            "llamagw_key_tokens_total",
            "Tokens of each API key; estimated where an engine does not tell them.",
            ("key", "kind"),
            {
                (key, kind): counted[at]
                for key, counted in counts.keys.items()
                for at, kind in ((1, "prompt"), (2, "completion"))
            },
        )
    yield Sum(
        "llamagw_model_loads_total",
        "Loads of models, by outcome.",
        ("model", "outcome"),
        counts.loads,
    )
    yield Sum(
        "llamagw_model_unloads_total",
        "Ends of models' runs, by reason.",
        ("model", "reason"),
        counts.unloads,
    )
    yield Distribution(
        "llamagw_load_seconds",
        "What loads took.",
        ("model",),
        {(model,): of for model, of in counts.load_seconds.items()},
    )
    yield Sum(
        "llamagw_retries_total",
        "Requests sent again after a backend broke off.",
        ("model",),
        {(name,): of_model.retries for name, of_model in counts.models.items()},
    )
    yield Sum(
        "llamagw_streams_broken_total",
        "Answers that broke off after they had begun.",
        ("model",),
        {(name,): of_model.broken for name, of_model in counts.models.items()},
    )
    yield Distribution(
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
        yield Distribution(
            name,
            help,
            ("model",),
            {(model,): getattr(of_model, of) for model, of_model in counts.models.items()},
        )
