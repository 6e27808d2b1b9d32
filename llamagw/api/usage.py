"""`GET /usage`: what keys have used, by day, key and model; who may not observe sees its own."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec

from llamagw.dialects import Scope
from llamagw.errors import BadRequest, NotPermitted
from llamagw.gate import DAY, KEPT_DAYS, Tally
from llamagw.proxy import Request

#: How many days are told if the query does not say, and how many rows at most.
USUAL_DAYS, MOST = 30, 10_000


async def usage(request: Request, tally: Tally | None) -> dict[str, Any]:
    """
    What a query asks for: ``days`` (this one among them) and ``key``.

    :param tally: counts; None where nothing is counted
    :return: ``data``, the newest day first; ``more``: whether there are further rows; ``limits``:
        of the caller's own key, those that it has
    :raises BadRequest: if ``days`` is no number of days
    :raises NotPermitted: if another key's usage is asked for, and may not be seen
    """
    days, key = _days(request), _last(request, b"key")
    caller = request.caller
    if not (Scope.OBSERVE in caller.scopes and caller.every_model):
        if key not in (None, caller.name):
            raise NotPermitted(
                f"The API key `{caller.name}` may see its own usage only: others' needs the scope "
                "`observe`, for all models."
            )
        key = caller.name
    rows = [] if tally is None else await tally.rows(days, key, MOST + 1)
    told = [
        {
            "day": datetime.fromtimestamp(row.day * DAY, timezone.utc).date().isoformat(),
            "key": row.key,
            "model": row.model,
            "requests": row.requests,
            "prompt_tokens": row.prompt,
            "completion_tokens": row.answer,
        }
        for row in rows[:MOST]
    ]
    limits = None if caller.limits is None else msgspec.to_builtins(caller.limits)
    return {"data": told, "more": len(rows) > MOST, "limits": limits}


def _last(request: Request, name: bytes) -> str | None:
    [value] = request.args.get(name, [None])[-1:]
    return None if value is None else bytes(value).decode(errors="replace")


def _days(request: Request) -> int:
    text = _last(request, b"days")
    if text is None:
        return USUAL_DAYS
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= KEPT_DAYS):
        raise BadRequest(f"?days= must be a whole number, 1 to {KEPT_DAYS}.", param="days")
    return int(text)
