"""
The commands that talk to a running gateway of its models: ps, load, unload, pin, unpin, logs; and
what all commands that talk to one share.

Their options and their output; the requests are made by client.py. The commands that tell of
requests are in activity.py, the one that shows all at once in top.py.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from llamagw.cli import show, waiting
from llamagw.cli.accounts import accounts, charge
from llamagw.cli.client import Client, Failed, configured_client, names
from llamagw.text import harmless, span

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: Seconds that completion may wait for the gateway, while the user waits at the prompt.
COMPLETION_PATIENCE = 0.5

_COLOURS = {"loaded": "green", "loading": "yellow", "stopping": "yellow", "failed": "red"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: object) -> None:
    """
    Print JSON for people and programs, in ASCII, which every terminal can show.

    :param value: of types that JSON has
    """
    click.echo(json.dumps(value, indent=2))


def gateway_command(function: Callable[..., None]) -> Callable[..., None]:
    """
    Make a command that talks to a gateway: it gets a `Client` as its first argument.

    A failure is printed as one line; with --json also as JSON on stdout, so that stdout can always
    be parsed.
    """

    @click.option(
        "--url",
        envvar="LLAMAGW_URL",
        show_envvar=True,
        help="Where llamagw runs: HOST:PORT, http://…, https://… or unix:/PATH. Else the "
        "configuration's listen_addr, else http://localhost:8000.",
    )
    @click.option(
        "-c",
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        help="Take listen_addr from this file.  [default: ./config.yaml, else "
        "~/.config/llamagw/config.yaml]",
    )
    @functools.wraps(function)
    def wrapped(url: str | None, config: str | None, **arguments: Any) -> None:
        try:
            # --config on the command line overrides LLAMAGW_URL in the environment.
            source = click.get_current_context().get_parameter_source("url")
            if config and source is not click.core.ParameterSource.COMMANDLINE:
                url = None
            client = Client(url) if url else configured_client(config)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        try:
            function(client, **arguments)
        except Failed as failed:
            if arguments.get("as_json"):
                print_json({"error": failed.error})
            raise click.ClickException(_on_stderr(show.plain(str(failed)))) from None

    return wrapped


def _on_stderr(text: str) -> str:
    """An error as it is shown: in lines as long as those of the terminal, if it goes to one."""
    if not sys.stderr.isatty():
        return text
    # Click writes this before it.
    begin = "Error: "
    width = shutil.get_terminal_size().columns
    return show.note(begin + text, width, lines=None).removeprefix(begin)


def completing_client(context: click.Context) -> Client:
    """
    A client for completion, which does not wait long.

    :param context: has what is typed so far
    :raises ValueError: when no URL can be told
    """
    url = context.params.get("url") or os.environ.get("LLAMAGW_URL")
    if url:
        return Client(url, COMPLETION_PATIENCE)
    return configured_client(context.params.get("config"), COMPLETION_PATIENCE)


def complete_name(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of the gateway's models; nothing, without a message, if it is too slow."""
    from click.shell_completion import CompletionItem

    try:
        found = names(completing_client(context).models())
    except Exception:
        return []
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


_name_argument = click.argument("name", shell_complete=complete_name)


@click.command(
    epilog="""\b
Examples:
  llamagw ps
  llamagw ps --url http://gpu-box:8000
  llamagw ps --json | jq -r '.data[].id'"""
)
@gateway_command
@json_option
def ps(client: Client, as_json: bool) -> None:
    """
    List the models of a running gateway.

    Those in memory come first, each group in the order of the configuration. RSS is the memory that
    the engine has in use, FILE the part of it that is mapped from files, such as the weights. Below
    the table: why a model has failed, what requests wait for, how far a load is, when an idle model
    is unloaded, and which are pinned. In a narrow terminal PORT, CONTEXT, FILE and SIZE are left
    out, as far as need be; in a pipe nothing is.

    Where the gateway counts memory, CHARGE is what each model is counted with, and the last lines
    tell of each device how much of it is charged, what one more model could take, and what others
    hold.
    """
    answer = client.models()
    if as_json:
        print_json(answer)
        return
    models = sorted(answer["data"], key=lambda model: _status(model) in _NOT_LOADED)
    if not models:
        click.echo("no models")
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    devices = accounts(client.health())
    columns, dispensable, rows = _COLUMNS, _DISPENSABLE, [_row(model) for model in models]
    if devices:
        columns = (*columns[:_CHARGE], "CHARGE", *columns[_CHARGE:])
        dispensable += _LESS_THAN_CHARGES
        for model, row in zip(models, rows, strict=True):
            row.insert(_CHARGE, charge(model))
    table = show.table(columns, rows, width, dispensable)
    for number, row in enumerate(table):
        if number:
            row[1] = click.style(row[1], fg=_COLOURS.get(row[1].strip()))
        click.echo(show.GAP.join(row).rstrip())
    notes = [note for model in models for note in _notes(model) if note]
    pinned = [model["id"] for model in models if model.get("pinned")]
    if pinned:
        notes.append(f"pinned: {', '.join(pinned)}")
    notes += [f"{device.device}: {device.words()}" for device in devices]
    if notes:
        click.echo()
    for note in notes:
        click.echo(show.note(show.plain(note), width))


_COLUMNS: tuple[str, ...] = (
    *("NAME", "STATUS", "SIZE", "RSS", "FILE", "CONTEXT", "PORT"),
    *("ACTIVE", "WAITING", "LAST USED"),
)
_DISPENSABLE: tuple[str, ...] = ("PORT", "CONTEXT", "FILE", "SIZE")

#: Where the column of charges is, if memory is counted; and what else is left out for it.
_CHARGE, _LESS_THAN_CHARGES = 5, ("LAST USED", "RSS")
_NOT_LOADED = ("unloaded", "failed")


def _status(model: dict[str, Any]) -> str:
    value = model["status"]["value"]
    failed = value == "unloaded" and model["status"].get("failed")
    return "failed" if failed else show.plain(str(value))


def _row(model: dict[str, Any]) -> list[str]:
    """A row of the table; "-" for what a model does not have."""
    memory, last_used = model.get("memory") or {}, model.get("last_used")
    return [
        show.plain(model["id"]),
        _status(model),
        _size(model.get("size")),
        _size(memory.get("rss")),
        _size(memory.get("file")),
        _number(model.get("context_size")),
        "unix" if model.get("socket") else _number(model.get("port")),
        _number(model.get("in_flight")),
        _number(model.get("waiting")),
        "-" if last_used is None else _ago(last_used),
    ]


def _number(value: object) -> str:
    # The values of a remote model come from its server, unchecked.
    return str(value) if isinstance(value, int) else "-"


def _size(value: object) -> str:
    return show.size(value) if isinstance(value, int) else "-"


def _ago(moment: float) -> str:
    return show.ago(max(time.time() - moment, 0))


def _notes(model: dict[str, Any]) -> tuple[str, ...]:
    return _failure(model), _wait(model), _load(model), _idle(model)


def _load(model: dict[str, Any]) -> str:
    """How far the model's load is; "" if it is not loading."""
    seconds, usual = model.get("load_sec"), model.get("usual_sec")
    if _status(model) != "loading" or seconds is None:
        return ""
    of = "" if usual is None else f", usually {span(round(usual) or usual)}"
    return f"{model['id']} has been loading for {span(seconds)}{of}"


def _idle(model: dict[str, Any]) -> str:
    """When the model is unloaded if nobody asks for it; "" if it is not."""
    seconds = model.get("unloads_in_sec")
    if seconds is None:
        return ""
    return f"{model['id']} will be unloaded in {span(seconds)} if it is not used"


def _failure(model: dict[str, Any]) -> str:
    """Why the model has failed, and when; "" if it has not."""
    error, failed_at = model["status"].get("error"), model["status"].get("failed_at")
    if not error:
        return ""
    return f"{model['id']}{'' if failed_at is None else f' failed {_ago(failed_at)}'}: {error}"


def _wait(model: dict[str, Any]) -> str:
    """How long the first of the model's requests has waited, and for what; "" if none waits."""
    count, seconds = model.get("waiting"), model.get("waiting_sec")
    if not count or seconds is None:
        return ""
    first = "1 waits" if count == 1 else f"{count} wait, the first"
    return f"{model['id']}: {first} for {span(seconds)}, for {model.get('waiting_for')}"


@click.command(
    epilog="""\b
Examples:
  llamagw load qwen2.5-7b
  llamagw load qwen2.5-7b && echo ready
  llamagw load --no-wait qwen2.5-7b
  llamagw load --anyway llama-3.3-70b"""
)
@gateway_command
@_name_argument
@click.option("--wait/--no-wait", default=True, help="Wait until it is loaded.  [default: wait]")
@click.option("--anyway", is_flag=True, help="Even if the figures say that it does not fit.")
@json_option
def load(client: Client, name: str, wait: bool, anyway: bool, as_json: bool) -> None:
    """
    Load a model, and wait until it is.

    Meanwhile a bar in the terminal, or lines on stderr, tell what it waits for and how far it is,
    by how long its loads took before. Ctrl-C ends that with 130; a load that has begun goes on.
    When it cannot be loaded, the engine's last words are told, and the exit code is 1.

    Where the gateway counts memory (`memory` in its configuration), a model that does not fit is
    refused, with the figures. With --anyway all that is not pinned makes room for it, and it is
    loaded, come what may.
    """
    if wait:
        _manage(name, "loaded", as_json, lambda: waiting.load(client, name, anyway))
    else:
        client.order(name, anyway)
        _tell(name, "asked for", as_json)


@click.command(
    epilog="""\b
Examples:
  llamagw unload qwen2.5-7b
  llamagw unload --force qwen2.5-7b"""
)
@gateway_command
@_name_argument
@click.option("-f", "--force", is_flag=True, help="Do not wait: cut off the answers it is giving.")
@json_option
def unload(client: Client, name: str, force: bool, as_json: bool) -> None:
    """
    Unload a model, and wait until it is gone.

    It finishes the answers that it is giving first. A request for it loads it again. The
    failure of one that has failed is forgotten.
    """
    _manage(name, "unloaded", as_json, lambda: client.unload(name, force))


@click.command(
    epilog="""\b
Examples:
  llamagw pin qwen2.5-7b
  llamagw pin qwen2.5-7b && llamagw load qwen2.5-7b"""
)
@gateway_command
@_name_argument
@json_option
def pin(client: Client, name: str, as_json: bool) -> None:
    """
    Keep a model in memory, once it is loaded.

    No other model takes its room. An unload and its idle timeout unload it all the same. That lasts
    until `llamagw unpin`, until a reload changes its configuration, or until the gateway ends.
    """
    client.pin(name, True)
    _tell(name, "pinned", as_json)


@click.command(
    epilog="""\b
Examples:
  llamagw unpin qwen2.5-7b"""
)
@gateway_command
@_name_argument
@json_option
def unpin(client: Client, name: str, as_json: bool) -> None:
    """
    Let others take the room of a model again.

    Of one that the configuration pins too: until a reload changes its configuration, or the gateway
    ends.
    """
    client.pin(name, False)
    _tell(name, "not pinned", as_json)


def _tell(name: str, status: str, as_json: bool) -> None:
    if as_json:
        print_json({"model": name, "status": status})
    else:
        click.echo(f"{name} is {status}")


def _manage(name: str, done: str, as_json: bool, action: Callable[[], None]) -> None:
    started = time.monotonic()
    action()
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        print_json({"model": name, "status": done, "seconds": seconds})
    else:
        click.echo(f"{name} is {done} ({seconds:.1f} s)")


@click.command(
    epilog="""\b
Examples:
  llamagw logs qwen2.5-7b
  llamagw logs -f -n 20 qwen2.5-7b"""
)
@gateway_command
@_name_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), help="So many lines at most.  [default: all kept]"
)
def logs(client: Client, name: str, follow: bool, lines: int | None) -> None:
    """
    Print the last lines that a model's engine has written.

    Each has the time of day before it; a line of its own tells where a run begins. The gateway
    keeps the last 200 of each model. With --follow it goes on until Ctrl-C, which ends it with 130,
    or until the gateway ends, with 0. A model that has not run yet has none: that is told, and is
    no failure.
    """
    kept = client.logs(name, 1 if follow else lines)
    if not kept and lines != 0:
        then = "its log follows when it does" if follow else f"llamagw load {show.plain(name)}"
        click.echo(f"{show.plain(name)} has not run yet: {then}", err=True)
    if not follow:
        for line in kept:
            click.echo(harmless(line))
        return
    with closing(client.follow(name, lines)) as stream:  # type: ignore[type-var]
        for line in stream:
            click.echo(harmless(line))
