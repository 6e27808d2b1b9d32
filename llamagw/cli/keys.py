"""
`llamagw keys`: make, list and change the keys of clients.

Works on the file of ``keys_file``; a gateway that runs with it reads it again by itself. A secret
is printed when it is made, and is nowhere else.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from llamagw.cli.places import find_config
from llamagw.cli.remote import json_option, print_json
from llamagw.text import harmless

if TYPE_CHECKING:
    from llamagw.cli.keyfile import KeyFile
    from llamagw.config import KeyEntry, LimitsEntry

_UNITS = {"m": 60, "h": 3600, "d": 86400}

_SCOPES = ("infer", "observe", "manage")


def _of_file(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command that gets the `KeyFile` first; what goes wrong is told in a line."""

    @click.option("--keys-file", type=click.Path(dir_okay=False), help="The file of the keys.")
    @click.option(
        "-c",
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        help="Take keys_file from this file.  [default: ./config.yaml, else "
        "~/.config/llamagw/config.yaml]",
    )
    @functools.wraps(function)
    def wrapped(keys_file: str | None, config: str | None, **arguments: Any) -> None:
        from llamagw.cli.keyfile import KeyFile, Unchangeable
        from llamagw.config import ConfigError

        try:
            function(KeyFile(keys_file or _configured(config)), **arguments)
        except Unchangeable as error:
            raise click.ClickException(str(error)) from None
        except ConfigError as error:
            raise click.ClickException(str(error)) from None

    return wrapped


def _configured(path: str | None) -> str:
    """The file of a configuration."""
    from llamagw.config import load

    path = path or find_config()
    if path is None:
        raise click.ClickException(
            "no configuration says which file has the keys: name it with --keys-file, such as "
            "--keys-file keys.yaml, or the configuration with -c"
        )
    config = load(os.path.abspath(path))
    if config.keys_file is None:
        raise click.ClickException(
            f"{config.path} has no keys_file; add a line such as `keys_file: keys.yaml` to it, or "
            "name one here with --keys-file"
        )
    return config.keys_file


class _Words(click.ParamType[list[str]]):
    """Words with commas between them."""

    name = "a,b"

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        self._known = known

    def convert(self, value: Any, param: Any, context: Any) -> list[str]:
        words = [word.strip() for word in str(value).split(",") if word.strip()]
        for word in words:
            if self._known and word not in self._known:
                self.fail(f"{word} is none of {', '.join(self._known)}", param, context)
        return words or self.fail("at least one is needed", param, context)


class _Span(click.ParamType[str]):
    """A number of minutes, hours or days; a time that is so far away, or a day."""

    def __init__(self, day: bool = False) -> None:
        self.name = "90d|2027-01-31" if day else "24h"
        self._day = day

    def convert(self, value: Any, param: Any, context: Any) -> str:
        from llamagw.config import when

        found = re.fullmatch(r"(\d{1,6})([mhd])", value)
        if found is not None:
            return _stamp(time.time() + int(found[1]) * _UNITS[found[2]])
        if self._day:
            try:
                when(value)
            except ValueError:
                self.fail(f"{value} is neither a span such as 90d nor a day", param, context)
            return str(value)
        return self.fail(f"{value} is no span such as 30m, 24h or 7d", param, context)


def _stamp(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@click.group(
    epilog="""\b
Examples:
  llamagw keys new alice                  for all models; printed once
  llamagw keys new web --models 'qwen*' --expires 90d
  llamagw keys new grafana --scope observe
  llamagw keys new kid --tokens-per-day 100000 --parallel 1
  llamagw keys list
  llamagw keys rotate alice --overlap 7d  the old one works a week more"""
)
def keys() -> None:
    """Make, list and change the keys of clients (`keys_file`)."""


_amount = click.IntRange(min=1)

#: How limits are called in a table.
_SHORT = {
    "requests_per_min": "req/min",
    "tokens_per_min": "tok/min",
    "tokens_per_day": "tok/day",
    "parallel": "at once",
    "max_body_mb": "MB",
    "max_tokens": "tok/answer",
}


def _given(limits: LimitsEntry | None) -> dict[str, float]:
    """Those limits that there are."""
    import msgspec

    return {} if limits is None else msgspec.to_builtins(limits)


def _in_short(limits: LimitsEntry | None) -> str:
    told = [f"{value:g} {_SHORT[name]}" if isinstance(value, float) else f"{value} {_SHORT[name]}"
            for name, value in _given(limits).items()]  # fmt: skip
    return ", ".join(told) or "none"


def _checked_name(context: click.Context, parameter: click.Parameter, value: str) -> str:
    import msgspec

    from llamagw.config import KeyEntry

    try:
        msgspec.convert({"name": value, "hash": f"sha256:{'0' * 64}"}, KeyEntry)
    except msgspec.ValidationError:
        raise click.BadParameter(
            f"{value} is no name of 1 to 64 letters, digits, dots, dashes, underscores and @"
        ) from None
    return value


@keys.command()
@click.argument("name", callback=_checked_name)
@click.option(
    "--models",
    type=_Words(),
    metavar="a,b*",
    default="*",
    show_default="all",
    help="Names and patterns of models.",
)
@click.option(
    "--scope",
    type=_Words(_SCOPES),
    metavar="a,b",
    default="infer",
    show_default=True,
    help="Of infer, observe and manage.",
)
@click.option(
    "--expires",
    type=_Span(day=True),
    metavar="90d|DAY",
    help="From when on it is not valid, such as 2027-01-31.  [default: never]",
)
@click.option(
    "--priority",
    type=click.IntRange(-100, 100),
    metavar="N",
    default=0,
    show_default=True,
    help="Of requests that wait, those with a higher one go first.",
)
@click.option(
    "--share",
    type=click.FloatRange(0.01, 100),
    metavar="N",
    default=1,
    show_default=True,
    help="How often its turn comes, beside others that wait.",
)
@click.option(
    "--certificate",
    metavar="NAME",
    help="A name in a client's certificate (tls.client_ca) that stands for the secret.",
)
@click.option(
    "--requests-per-min", type=_amount, metavar="N", help="Requests for models in a minute."
)
@click.option("--tokens-per-min", type=_amount, metavar="N", help="Of prompts and answers.")
@click.option("--tokens-per-day", type=_amount, metavar="N", help="The same in a day (UTC).")
@click.option("--parallel", type=_amount, metavar="N", help="Requests for models at once.")
@click.option(
    "--max-body-mb", type=click.FloatRange(min=0, min_open=True), metavar="MB", help="Of a request."
)
@click.option("--max-tokens", type=_amount, metavar="N", help="Of an answer.")
@_of_file
def new(
    file: KeyFile,
    name: str,
    models: list[str],
    scope: list[str],
    expires: str | None,
    priority: int,
    share: float,
    certificate: str | None,
    **limits: float | None,
) -> None:
    """
    Make a key, and print its secret: this once.

    Numbers that are not given are not limited.
    """
    import msgspec

    from llamagw.config import KeyEntry, LimitsEntry
    from llamagw.gate import digest_of, new_secret

    given: Any = {limit: value for limit, value in limits.items() if value is not None}
    secret = new_secret()
    entry = KeyEntry(
        name=name,
        hash=digest_of(secret.encode()),
        models=models,
        scopes=scope,  # type: ignore[arg-type]
        expires=expires,
        priority=priority,
        share=share,
        certificate=certificate,
        limits=LimitsEntry(**given) if given else None,
    )
    try:
        msgspec.convert(msgspec.to_builtins(entry), KeyEntry)
    except msgspec.ValidationError as error:
        raise click.UsageError(f"that cannot be in a file of keys: {error}") from None
    file.add(entry)
    click.echo(secret)
    click.echo(_said(entry, file, "It is not shown again."), err=True)


@keys.command("list")
@json_option
@_of_file
def list_(file: KeyFile, as_json: bool) -> None:
    """List the keys."""
    entries = file.entries()
    if as_json:
        print_json([_told(one) for one in entries])
        return
    if not entries:
        click.echo(f"No keys in {file.path}; `llamagw keys new NAME` makes one.")
        return
    rows: list[tuple[str, ...]] = [("NAME", "STATE", "SCOPES", "MODELS", "LIMITS", "EXPIRES")]
    rows += [
        (
            one.name,
            _state(one),
            ",".join(one.scopes),
            harmless(",".join(one.models)),
            _in_short(one.limits),
            one.expires or "never",
        )
        for one in entries
    ]
    if all(one.limits is None for one in entries):
        rows = [(*row[:4], row[5]) for row in rows]
    last = len(rows[0]) - 1
    widths = [max(len(row[column]) for row in rows) for column in range(last)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[last]]))


@keys.command()
@click.argument("name")
@_of_file
def disable(file: KeyFile, name: str) -> None:
    """Make a key invalid until it is enabled again."""
    _switch(file, name, False)


@keys.command()
@click.argument("name")
@_of_file
def enable(file: KeyFile, name: str) -> None:
    """Make a disabled key valid again."""
    _switch(file, name, True)


@keys.command()
@click.argument("name")
@click.option(
    "--overlap",
    type=_Span(),
    metavar="7d",
    default="24h",
    show_default=True,
    help="How long the old secret works beside it: 30m, 24h, 7d.",
)
@_of_file
def rotate(file: KeyFile, name: str, overlap: str) -> None:
    """Give a key a new secret; the old one works a while."""
    from msgspec.structs import replace

    from llamagw.gate import digest_of, new_secret

    secret = new_secret()
    file.change(
        name,
        lambda one: replace(
            one, hash=digest_of(secret.encode()), old_hash=one.hash, old_expires=overlap
        ),
    )
    click.echo(secret)
    click.echo(f"The old secret of {name} works until {overlap}. {_TAKEN}", err=True)


@keys.command()
@click.argument("name")
@_of_file
def rm(file: KeyFile, name: str) -> None:
    """Remove a key."""
    file.change(name, lambda one: None)
    click.echo(f"{name} is gone. {_TAKEN}")


#: When a change is in force.
_TAKEN = "A gateway that runs with this file takes it within seconds."


def _switch(file: KeyFile, name: str, enabled: bool) -> None:
    from msgspec.structs import replace

    file.change(name, lambda one: replace(one, enabled=enabled))
    click.echo(f"{name} is {'enabled' if enabled else 'disabled'}. {_TAKEN}")


def _said(entry: KeyEntry, file: KeyFile, once: str) -> str:
    models = "all models" if "*" in entry.models else harmless(", ".join(entry.models))
    until = f"until {entry.expires}" if entry.expires else "without end"
    scopes = ", ".join(entry.scopes)
    return f"{entry.name}: {scopes} with {models}, {until}; in {file.path}. {once} {_TAKEN}"


def _state(entry: KeyEntry) -> str:
    from llamagw.config import when

    if not entry.enabled:
        return "disabled"
    if entry.expires is not None and when(entry.expires) <= time.time():
        return "expired"
    if entry.old_expires is not None and when(entry.old_expires) > time.time():
        return "rotating"
    return "valid"


def _told(entry: KeyEntry) -> dict[str, Any]:
    """An entry for programs, without hashes."""
    return {
        "name": entry.name,
        "state": _state(entry),
        "scopes": entry.scopes,
        "models": entry.models,
        "limits": _given(entry.limits),
        "expires": entry.expires,
        "old_expires": entry.old_expires,
    }
