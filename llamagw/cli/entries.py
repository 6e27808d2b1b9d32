"""
What the gateway tells of requests, as text: rows of a table, and one request in full.

What stands in an entry comes from clients and engines: its types are not relied upon, and its text
is made harmless for a terminal. The commands are in activity.py.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any, NamedTuple

from llamagw.cli import show
from llamagw.text import harmless

#: A request that is under way (``request`` of an event of ``GET /activity/sse``), or that has ended
#: (an item of ``GET /activity``).
Entry = dict[str, Any]

COLUMNS = (
    *("TIME", "MODEL", "STATUS", "WAITED", "FIRST", "TOTAL", "PROMPT", "TOKENS", "TOK/S"),
    *("PATH", "CLIENT", "ID"),
)
#: Which are left out of a narrow terminal, in this order.
DISPENSABLE = ("ID", "CLIENT", "PATH", "PROMPT")

#: Characters of a model's name on a terminal at most; other columns need the room more.
NAME = 24

#: No number that is told is this large.
MOST = 1e15

#: Characters of a bar that is as long as the request took.
BAR = 40


def text(entry: Entry, *keys: str) -> str:
    """
    The first of these values that is there, harmless for a terminal.

    :return: on one line; "" without one
    """
    return next((show.plain(str(entry[key])) for key in keys if entry.get(key)), "")


def number(entry: Entry, *keys: str) -> float | None:
    """
    A number of an entry.

    :param keys: where it is: a key, or those of objects in each other
    :return: None if there is none
    """
    value: Any = entry
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    # Neither NaN nor what no float can hold.
    return value if isinstance(value, (int, float)) and -MOST < value < MOST else None


def status(entry: Entry) -> str:
    """How a request ended, such as ``200`` or ``504 queue_timeout``."""
    outcome = text(entry, "outcome")
    code = number(entry, "status")
    words = [] if code is None else [f"{code:g}"]
    if outcome != "ok":
        words.append(text(entry, "error", "outcome"))
    return " ".join(filter(None, words)) or "-"


def failed(entry: Entry) -> bool:
    """Whether a request that has ended was not answered as it should be."""
    return entry.get("outcome") != "ok" or (number(entry, "status") or 0) >= 400


def speed(entry: Entry) -> float | None:
    """Tokens a second that the engine generated; None if they are not known."""
    tokens, seconds = number(entry, "tokens", "completion"), number(entry, "completion_sec")
    return tokens / seconds if tokens and seconds else None


def row(entry: Entry) -> list[str]:
    """The cells of `COLUMNS` for a request that has ended; "-" for what is not known."""
    return [
        clock(number(entry, "time")),
        text(entry, "model", "asked") or "-",
        status(entry),
        *(_seconds(number(entry, key)) for key in ("waited_sec", "first_byte_sec", "total_sec")),
        *(_count(number(entry, "tokens", key)) for key in ("prompt", "completion")),
        _count(speed(entry)),
        *_origin(entry),
    ]


def live_row(entry: Entry) -> list[str]:
    """The cells of `COLUMNS` for a request that is under way."""
    return [
        clock(number(entry, "time")),
        text(entry, "model", "asked") or "-",
        f"… {state(entry)}",
        *(_seconds(number(entry, key)) for key in ("waited_sec", "first_byte_sec")),
        *("", "", "", ""),
        *_origin(entry),
    ]


def state(entry: Entry) -> str:
    """The state of a request that is under way, such as ``waiting (3)`` with its position."""
    position = number(entry, "position")
    told = text(entry, "state") or "-"
    return told if position is None or told != "waiting" else f"{told} ({position:g})"


def clock(moment: float | None) -> str:
    """
    A time of today as ``14:03:07``, another with its date.

    :param moment: seconds since the epoch
    """
    if moment is None:
        return "-"
    try:
        then = time.localtime(moment)
    except (OverflowError, ValueError, OSError):
        return "?"
    today = then[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if today else "%m-%d %H:%M:%S", then)


def _origin(entry: Entry) -> list[str]:
    return [text(entry, key) or "-" for key in ("path", "client", "id")]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


# ---- One request --------------------------------------------------------------------------------


class Phase(NamedTuple):
    """
    A part of a request's time.

    :ivar begin: seconds from its arrival
    :ivar end: seconds from its arrival
    """

    name: str
    begin: float
    end: float


def phases(entry: Entry) -> list[Phase]:
    """
    Where the time of a request went: queue, load, prefill, generation.

    The engine tells how long prefill and generation took, not when; they are taken to have been
    its last work. Without its word there is one phase until the first byte, and one after it.
    """
    total, waited, load, first, prefill, generation = (
        max(number(entry, key) or 0.0, 0.0)
        for key in (
            *("total_sec", "waited_sec", "load_sec"),
            *("first_byte_sec", "prompt_sec", "completion_sec"),
        )
    )
    waited = min(waited, total)
    queued = max(waited - load, 0.0)
    found = [Phase("queue", 0.0, queued), Phase("load", queued, waited)]
    if prefill or generation:
        begun = max(total - generation, waited)
        found.append(Phase("prefill", max(begun - prefill, waited), begun))
        found.append(Phase("generation", begun, total))
    elif first:
        first = min(max(first, waited), total)
        found.append(Phase("first byte", waited, first))
        found.append(Phase("answer", first, total))
    return [phase for phase in found if phase.end > phase.begin]


def described(entry: Entry, bar: str = "█") -> list[str]:
    """
    All that is known of a request that has ended.

    :param bar: the character that the bars are made of
    :return: lines, harmless for a terminal
    """
    facts = [
        ("id", text(entry, "id")),
        ("arrived", _arrived(number(entry, "time"))),
        ("client", text(entry, "client")),
        ("key", text(entry, "key")),
        ("request", " ".join(filter(None, (text(entry, "method"), text(entry, "path"))))),
        ("model", _model(entry)),
        ("status", status(entry)),
        ("reason", text(entry, "reason")),
        ("tries", f"{number(entry, 'tries') or 0:g}"),
        (
            "bytes",
            f"{number(entry, 'bytes_in') or 0:g} in, {number(entry, 'bytes_out') or 0:g} out",
        ),
        ("tokens", _tokens(entry)),
    ]
    lines = [f"{name:<12}{value}" for name, value in facts if value]
    lines += ["", *_waterfall(entry, bar)]
    for side in ("request", "response"):
        kept = entry.get(side)
        if isinstance(kept, dict):
            lines += ["", f"── {side} ──", *_kept(kept)]
    return lines


def _arrived(moment: float | None) -> str:
    if moment is None:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
    except (OverflowError, ValueError, OSError):
        return "?"


def _model(entry: Entry) -> str:
    name, asked = text(entry, "model"), text(entry, "asked")
    words = name or asked
    if name and asked and asked != name:
        words += f", asked for as {asked}"
    return words + (", a stream" if entry.get("stream") else "")


def _tokens(entry: Entry) -> str:
    prompt, completion = (number(entry, "tokens", key) for key in ("prompt", "completion"))
    if prompt is None and completion is None:
        return ""
    cached, fast = number(entry, "tokens", "cached"), speed(entry)
    words = f"{_count(prompt)} of the prompt"
    words += f" ({cached:g} cached)" if cached else ""
    words += f", {_count(completion)} generated"
    return words + ("" if fast is None else f", {fast:.1f} a second")


def _waterfall(entry: Entry, bar: str) -> list[str]:
    total = number(entry, "total_sec")
    if total is None:
        return []
    lines = []
    for name, begin, end in phases(entry):
        at = round(begin / total * BAR)
        drawn = bar * max(round(end / total * BAR) - at, 1)
        line = f"{' ' * min(at, BAR - len(drawn))}{drawn}".ljust(BAR)
        lines.append(f"{name:<12}{line}  {end - begin:8.3f} s")
    first = number(entry, "first_byte_sec")
    told = "" if first is None else f"first byte after {first:.3f} s"
    lines.append(f"{'in all':<12}{told.ljust(BAR)}  {total:8.3f} s")
    return lines


def _kept(kept: dict[str, Any]) -> list[str]:
    """The headers and the body of a request or an answer that was captured."""
    lines = []
    headers = kept.get("headers")
    if isinstance(headers, dict):
        lines += [harmless(f"{name}: {value}") for name, value in headers.items()] + [""]
    body = str(kept.get("body") or "")
    with contextlib.suppress(ValueError, RecursionError):
        body = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    lines += [harmless(line) for line in body.splitlines()]
    if kept.get("truncated"):
        lines.append("[the rest was not kept]")
    return lines
