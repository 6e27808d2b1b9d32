"""Values of options that click has no type for: a moment, the end of a request."""

from __future__ import annotations

import datetime
import re
import time
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: How a request may have ended, as the gateway tells it.
OUTCOMES = ("ok", "client_left", "refused", "backend_lost", "timeout")

_SPAN = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class Moment(click.ParamType[float]):
    """``10m``, ``14:03`` or ``2026-11-24 14:03``, as seconds since the epoch."""

    name = "when"

    def convert(self, value: Any, param: Any, context: Any) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        now = time.time()
        span = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?(s|sec|m|min|h|d)", value)
        if span:
            return max(now - float(span[1]) * _SPAN[span[2]], 0.0)
        if re.fullmatch(r"\d{9,11}(\.\d{1,9})?", value):
            return float(value)
        try:
            if re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", value):
                hour, minute, second = (int(n) for n in f"{value}:0".split(":")[:3])
                today = datetime.datetime.fromtimestamp(now)
                then = today.replace(hour=hour, minute=minute, second=second, microsecond=0)
                if then > today:
                    then -= datetime.timedelta(days=1)
                return then.timestamp()
            return max(datetime.datetime.fromisoformat(value).timestamp(), 0.0)
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is neither a span (90s, 10m, 2h, 1d) nor a time (14:03, "
                "2026-11-24 14:03)",
                param,
                context,
            )


class Ending(click.ParamType[str]):
    """A status such as 503, or an outcome such as refused."""

    name = "status"

    def convert(self, value: Any, param: Any, context: Any) -> str:
        if value in OUTCOMES or re.fullmatch(r"[1-5]\d\d", value):
            return str(value)
        self.fail(f"{value!r} is neither a status such as 503 nor one of {', '.join(OUTCOMES)}")

    def shell_complete(
        self, context: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in OUTCOMES if word.startswith(incomplete)]
