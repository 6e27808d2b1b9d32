"""`GET /activity`: the last requests, filtered as the query says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime

from llamagw.errors import BadRequest
from llamagw.observe import Activity, Outcome, Record
from llamagw.proxy import Request, checked_name

#: How many requests are told if the query does not say.
COUNT = 100

_OUTCOMES = [outcome.value for outcome in Outcome]


def entries(
    request: Request,
    activity: Activity,
    clock: IReactorTime,
    told: Callable[[Record], bool] | None = None,
) -> list[dict[str, Any]]:
    """
    The requests that a query asks for: ``model``, ``status``, ``outcome``, ``since``, ``limit``.

    :param clock: whose seconds the records have
    :param told: says which may be told; None for all
    :return: newest first
    :raises BadRequest: if a value is not what it should be
    """
    model, outcome = _last(request, "model"), _last(request, "outcome")
    if outcome is not None and outcome not in _OUTCOMES:
        raise BadRequest(f"?outcome= must be one of {', '.join(_OUTCOMES)}.", param="outcome")
    return activity.entries(
        time.time() - clock.seconds(),
        model=None if model is None else checked_name(model),
        status=int(_number(request, "status", 0)) or None,
        outcome=outcome,
        since=_number(request, "since", 0.0),
        count=int(_number(request, "limit", COUNT)),
        told=told,
    )


def _last(request: Request, name: str) -> str | None:
    [value] = request.args.get(name.encode(), [None])[-1:]
    return None if value is None else bytes(value).decode(errors="replace")


def _number(request: Request, name: str, default: float) -> float:
    text = _last(request, name)
    if text is None:
        return default
    try:
        value = float(text) if name == "since" else int(text)
    except ValueError:
        value = -1
    # Not "nan" either, with which every comparison is false.
    if not 0 <= value < 1e12:
        raise BadRequest(f"?{name}= must be a number, 0 or more.", param=name)
    return value
