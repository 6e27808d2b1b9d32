"""
`llamagw activity -f`: a line for each request that ends, and before that for each that takes
longer.

Goes on when the gateway is started again. The stream of events is client.py's.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import click

from llamagw.cli import entries, show
from llamagw.cli.client import Client, Failed
from llamagw.cli.entries import Entry
from llamagw.text import span

#: Seconds between two attempts to reach a gateway that has gone.
PAUSE = 1.0

#: How many of the requests that were printed are remembered, so that none is printed twice.
REMEMBERED = 5000

_NUMBERS = ("WAITED", "FIRST", "TOTAL", "PROMPT", "TOKENS", "TOK/S")


class Follower:
    """
    Prints requests as they begin and end.

    :param filters: as for `Client.activity`
    """

    def __init__(self, client: Client, filters: dict[str, str | float], as_json: bool) -> None:
        self._client = client
        self._filters = filters
        self._as_json = as_json
        #: Those that were told, the oldest first, by id and time: clients may choose an id twice.
        self._told: dict[tuple[str, object], None] = {}
        #: The heads of the columns, as wide as they are; empty before the first line.
        self._heads: list[str] = []
        #: When the newest of the requests ended that were printed at first.
        self._newest = -1.0

    def run(self) -> None:
        """
        Follow, until Ctrl-C.

        :raises Failed: if the gateway cannot be reached at first
        """
        self._first()
        reached, lost = False, 0.0
        while True:
            why = "the gateway has ended"
            try:
                with closing(self._client.events()) as events:
                    for event in events:
                        if lost:
                            away = span(time.monotonic() - lost)
                            click.echo(f" … it is back after {away}", err=True)
                            lost = 0.0
                        self._take(event, not reached)
                        reached = True
            except Failed as failed:
                if not reached:
                    raise
                why = str(failed)
            if not lost:
                # The line is ended when it is back.
                click.echo(f"{show.plain(why)}; trying again", err=True, nl=False)
                lost = time.monotonic()
            time.sleep(PAUSE)

    def _first(self) -> None:
        """Print the last requests, as many as were asked for."""
        count = int(self._filters["limit"])
        # One at least, so that it is known which are newer.
        data = self._client.activity({**self._filters, "limit": max(count, 1)})["data"]
        ended = data[:count][::-1]
        self._lay(ended)
        for entry in ended:
            self._ended(entry)
        self._newest = max(map(_end, data), default=-1.0)

    def _take(self, event: dict[str, Any], first: bool) -> None:
        kind, request = event.get("event"), event.get("request")
        if kind == "snapshot":
            for entry in reversed(_entries(event.get("last"))):
                if first and _end(entry) <= self._newest:
                    self._is_new(entry)  # is told, or was not asked for
                elif self._fits(entry):
                    self._ended(entry)
            for entry in _entries(event.get("now")):
                self._goes_on(entry)
        for entry in _entries([request]):
            # Not when it has begun: most end soon, and then one line is enough.
            if kind == "moved":
                self._goes_on(entry)
            elif kind == "ended" and self._fits(entry):
                self._ended(entry)

    def _fits(self, entry: Entry) -> bool:
        """Whether the filters let a request through that has ended."""
        wanted = self._filters
        return (
            wanted.get("model") in (None, entry.get("model"), entry.get("asked"))
            and wanted.get("status") in (None, str(entry.get("status")))
            and wanted.get("outcome") in (None, entry.get("outcome"))
            and _end(entry) > float(wanted.get("since", -1))
        )

    def _is_new(self, entry: Entry, state: str = "") -> bool:
        key = (entry["id"] + state, entry.get("time"))
        new = key not in self._told
        self._told[key] = None
        while len(self._told) > REMEMBERED:
            del self._told[next(iter(self._told))]
        return new

    def _goes_on(self, entry: Entry) -> None:
        wanted = self._filters.get("model") in (None, entry.get("model"), entry.get("asked"))
        by_end = "status" in self._filters or "outcome" in self._filters
        if wanted and not by_end and not self._as_json and self._is_new(entry, " goes on"):
            self._print(entries.live_row(entry), dim=True)

    def _ended(self, entry: Entry) -> None:
        if not self._is_new(entry):
            return
        if self._as_json:
            click.echo(json.dumps(entry))
        else:
            self._print(entries.row(entry), "red" if entries.failed(entry) else None)

    def _lay(self, known: Sequence[Entry]) -> None:
        """Choose the columns, and print their heads: for what is known, and what may come."""
        if self._heads or self._as_json:
            return
        longest = max((entries.row(entry)[1] for entry in known), key=len, default="")
        model = str(self._filters.get("model", longest)).ljust(12)
        model = model if width() is None else show.middle(model, entries.NAME)
        usual = ["00:00:00", model, "200 client_left", *["999.99"] * 3, *["99999"] * 2, "999"]
        usual += ["/v1/chat/completions", "127.0.0.1      ", "8a4be1f0c2d7-1000"]
        [self._heads, _] = show.table(
            entries.COLUMNS,
            [usual],
            width(),
            dispensable=entries.DISPENSABLE,
            shortened="MODEL",
        )
        click.echo(show.GAP.join(self._heads).rstrip())

    def _print(self, cells: list[str], colour: str | None = None, dim: bool = False) -> None:
        widths = {head.strip(): len(head) for head in self._heads}
        cut = width() is not None
        row = []
        for head, cell in zip(entries.COLUMNS, cells, strict=True):
            if head in widths:
                cell = show.middle(cell, widths[head]) if cut else cell
                right = head in _NUMBERS
                row.append(cell.rjust(widths[head]) if right else cell.ljust(widths[head]))
        line = coloured(row, self._heads, colour)
        click.echo(click.style(line, dim=True) if dim else line)


def _entries(values: object) -> list[Entry]:
    """Those of the values that are entries."""
    found = values if isinstance(values, list) else []
    return [e for e in found if isinstance(e, dict) and isinstance(e.get("id"), str)]


def _end(entry: Entry) -> float:
    """When a request ended, in seconds since the epoch."""
    return (entries.number(entry, "time") or 0) + (entries.number(entry, "total_sec") or 0)


def width() -> int | None:
    """Columns of the terminal; None if stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def coloured(cells: Sequence[str], heads: Sequence[str], colour: str | None) -> str:
    """
    A line of a table, with the cell of ``STATUS`` in a colour.

    :param cells: padded
    :param heads: those of the same columns
    """
    cells = list(cells)
    if colour is not None:
        at = [head.strip() for head in heads].index("STATUS")
        cells[at] = click.style(cells[at], fg=colour)
    return show.GAP.join(cells).rstrip()
