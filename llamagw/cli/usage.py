"""`llamagw usage`: what keys have used, as a running gateway tells it."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import click

from llamagw.cli import show
from llamagw.cli.client import Client
from llamagw.cli.remote import gateway_command, json_option, print_json

#: Days that are kept at most, as in llamagw.gate, which would take long to import.
MOST_DAYS = 400

_COLUMNS = ("DAY", "KEY", "MODEL", "REQUESTS", "PROMPT", "ANSWER")


@click.command(
    epilog="""\b
Examples:
  llamagw usage
  llamagw usage --days 1 --key alice
  llamagw usage --json | jq '[.data[].completion_tokens] | add'"""
)
@gateway_command
@click.option(
    "--days",
    type=click.IntRange(1, MOST_DAYS),
    default=30,
    show_default=True,
    help="So many days, of UTC; today is one of them.",
)
@click.option("--key", metavar="NAME", help="Only what this key has used.")
@json_option
def usage(client: Client, days: int, key: str | None, as_json: bool) -> None:
    """
    Tell what each key has used: requests, and tokens of prompts and answers.

    By day and model, the last day first; the last line is the sum. Without a key that may observe
    (LLAMAGW_API_KEY), only what that key itself has used is told.
    """
    answer = client.usage(days, key)
    if as_json:
        print_json(answer)
        return
    rows = [_row(entry) for entry in answer["data"]]
    if not rows:
        click.echo("nothing was used", err=True)
        return
    sums = [sum(entry[name] for entry in answer["data"]) for name in _NUMBERS]
    rows.append(["all", "", "", *(str(number) for number in sums)])
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in show.table(_COLUMNS, rows, width, shortened="MODEL"):
        click.echo(show.GAP.join(row).rstrip())
    if answer.get("more"):
        click.echo("there is more: ask for fewer --days, or for one --key", err=True)


_NUMBERS = ("requests", "prompt_tokens", "completion_tokens")


def _row(entry: dict[str, Any]) -> list[str]:
    words = [show.plain(str(entry[name])) for name in ("day", "key", "model")]
    return [*words, *(str(entry[name]) for name in _NUMBERS)]
