"""
The commands that tell of requests: activity, cancel.

How a request looks as text is entries.py's, going on with what comes follow.py's.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import click

from llamagw.cli import entries, show
from llamagw.cli.client import Client
from llamagw.cli.follow import Follower, coloured, width
from llamagw.cli.remote import (
    COMPLETION_PATIENCE,
    complete_name,
    completing_client,
    gateway_command,
    json_option,
    print_json,
)
from llamagw.cli.values import Ending, Moment

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: How many requests are told if -n does not say.
COUNT = 20


def _complete_ended(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the ids of the last requests."""
    from click.shell_completion import CompletionItem

    try:
        found = completing_client(context).activity({"limit": COUNT})["data"]
    except Exception:
        return []
    return [
        CompletionItem(entry["id"], help=_in_short(entries.row(entry)))
        for entry in found
        if entry["id"].startswith(incomplete)
    ]


def _complete_live(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the ids of the requests that are under way."""
    from click.shell_completion import CompletionItem

    try:
        with closing(completing_client(context).events(COMPLETION_PATIENCE)) as events:
            found = next(events)["now"]
        return [
            CompletionItem(entry["id"], help=_in_short(entries.live_row(entry)))
            for entry in found
            if entry["id"].startswith(incomplete)
        ]
    except Exception:
        return []


def _in_short(cells: Sequence[str]) -> str:
    return " ".join(cells[:3])


@click.command(
    epilog="""\b
Examples:
  llamagw activity
  llamagw activity -f --model qwen2.5-7b
  llamagw activity --since 10m --status refused
  llamagw activity 8a4be1f0c2d7-1
  llamagw activity --json -n 1000 | jq '.data[] | select(.total_sec > 10)'"""
)
@gateway_command
@click.argument("id", required=False, shell_complete=_complete_ended)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n",
    "--number",
    type=click.IntRange(0, 1_000_000),
    help=f"So many requests at most.  [default: {COUNT}]",
)
@click.option("--model", metavar="NAME", shell_complete=complete_name, help="Only for this model.")
@click.option("--status", type=Ending(), help="Only with this status (503), or so ended: refused.")
@click.option("--since", type=Moment(), help="Only those that ended since then: 10m, 14:03.")
@json_option
def activity(
    client: Client,
    id: str | None,
    follow: bool,
    number: int | None,
    model: str | None,
    status: str | None,
    since: float | None,
    as_json: bool,
) -> None:
    """
    List the last requests, or tell all of the one with this ID.

    Times are in seconds: WAITED in the queue and for the load, FIRST until the first byte, TOTAL
    until the last. TOK/S are the tokens that the engine generated in a second. A narrow terminal
    has no room for ID, CLIENT, PATH and PROMPT; a pipe has.

    With --follow each request is told when it has ended, and before that if it takes longer; with
    --json as well, one object a line when it has ended. When the gateway ends, it is waited for.
    """
    if id is not None:
        if follow or (number, model, status, since) != (None,) * 4:
            raise click.UsageError("with an ID there is one request; the other options are for all")
        _tell(client, id, as_json)
        return
    count = COUNT if number is None else number
    filters: dict[str, str | float] = {"limit": count}
    if model is not None:
        filters["model"] = model
    if status is not None:
        filters["status" if status.isdigit() else "outcome"] = status
    if since is not None:
        filters["since"] = since
    if follow:
        Follower(client, filters, as_json).run()
        return
    answer = client.activity(filters)
    if as_json:
        print_json(answer)
    elif answer["data"]:
        rows = [entries.row(entry) for entry in reversed(answer["data"])]
        bad = [entries.failed(entry) for entry in reversed(answer["data"])]
        columns = width()
        if columns is not None:
            for row in rows:
                row[1] = show.middle(row[1], entries.NAME)
        table = show.table(
            entries.COLUMNS,
            rows,
            columns,
            dispensable=entries.DISPENSABLE,
            shortened="MODEL",
        )
        click.echo(show.GAP.join(table[0]).rstrip())
        for cells, red in zip(table[1:], bad, strict=True):
            click.echo(coloured(cells, table[0], "red" if red else None))
    else:
        click.echo("no requests", err=True)


def _tell(client: Client, id: str, as_json: bool) -> None:
    entry = client.request(id)
    if as_json:
        print_json(entry)
        return
    try:
        "█─".encode(sys.stdout.encoding or "ascii")
        bar = "█"
    except (UnicodeError, LookupError):
        bar = "#"
    for line in entries.described(entry, bar):
        click.echo(line)


@click.command(
    epilog="""\b
Examples:
  llamagw cancel 8a4be1f0c2d7-17"""
)
@gateway_command
@click.argument("id", shell_complete=_complete_live)
@json_option
def cancel(client: Client, id: str, as_json: bool) -> None:
    """
    Break off a request that is waiting or being answered.

    Its client gets an error. `llamagw activity -f` and `llamagw top` tell the IDs.
    """
    client.cancel(id)
    if as_json:
        print_json({"id": id, "status": "cancelled"})
    else:
        click.echo(f"{show.plain(id)} is cancelled")
