"""
The `llamagw` command, and those of its subcommands that need no running gateway: check, init,
completion. Those that serve are in serve.py, those that ask a gateway in remote.py, activity.py,
fit.py and top.py; cert.py makes certificates.

Click parses, completes and prints. Exit codes: 0 done, 1 failed, 2 called wrongly, 3 not running in
the background, 130 ended by Ctrl-C. Results go to stdout, everything else to stderr. What only one
command needs is imported there: completion must be quick.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from llamagw import __version__
from llamagw.cli import activity, cert, fit, keys, remote, serve, show, top, usage
from llamagw.cli.places import CONFIG
from llamagw.cli.remote import json_option, print_json
from llamagw.cli.serve import config_argument, needed

if TYPE_CHECKING:
    from llamagw.config import Config, Fault
    from llamagw.launch import Note
    from llamagw.models import Estimate


def main() -> None:
    """The entry point of the console command; ends the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal cannot show becomes "?", not a traceback.
            stream.reconfigure(errors="replace")
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  llamagw init ~/models          write config.yaml from the GGUF files there
  llamagw check                  is it right?
  llamagw run                    serve
  llamagw ps                     what is loaded?

Exit codes: 0 done, 1 failed, 2 called wrongly, 3 not running in the background,
130 ended by Ctrl-C.""",
)
@click.version_option(__version__, prog_name="llamagw", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """One OpenAI-compatible endpoint in front of many llama-server models."""
    if os.environ.get("NO_COLOR"):
        context.color = False


# ---- Configurations ----------------------------------------------------------------------------


@cli.command(
    epilog="""\b
Examples:
  llamagw check
  llamagw check new.yaml && mv new.yaml config.yaml
  llamagw check --json | jq -r '.faults[] | "\\(.line) \\(.place)"'"""
)
@config_argument
@json_option
@click.pass_context
def check(context: click.Context, config: str | None, as_json: bool) -> None:
    """
    Check a configuration, and say what would be served.

    All faults are told at once, one line each; then the exit code is 1.
    """
    from llamagw.announce import summary
    from llamagw.config import ConfigError
    from llamagw.tap import check as examine

    path = os.path.abspath(needed(config, as_json))
    try:
        loaded, notes, needs, together = examine(path)
    except ConfigError as error:
        if as_json:
            faults = [_told(fault) for fault in error.faults]
            print_json({"ok": False, "faults": faults, "models": [], "together": [], "notes": []})
        else:
            click.echo(str(error), err=True)
        context.exit(1)
    if as_json:
        sets = [one.names for one in together.sets] if together else []
        told = {"models": _served(loaded, notes, needs), "notes": _noted(notes, "")}
        print_json({"ok": True, "faults": [], "together": sets, **told})
    else:
        click.echo(summary(path, loaded, notes, needs, together))


def _told(fault: Fault) -> dict[str, Any]:
    said = {"file": fault.file, "line": fault.line, "place": fault.place}
    return {**said, "message": fault.message}


def _served(
    config: Config, notes: list[Note], needs: dict[str, Estimate | None]
) -> list[dict[str, Any]]:
    return [
        {
            "name": model.name,
            "model_path": None if model.remote else model.model_path,
            "urls": [replica.url for replica in model.replicas] if model.remote else [],
            "threads": None if model.remote else model.threads,
            "default": model.name == config.default_model,
            "memory": _memory(needs.get(model.name)),
            "notes": _noted(notes, model.name),
        }
        for model in config.models
    ]


def _noted(notes: list[Note], model: str) -> list[dict[str, Any]]:
    return [
        {"grade": note.grade, "place": note.place, "message": note.message}
        for note in notes
        if note.model == model
    ]


def _memory(need: Estimate | None) -> dict[str, Any] | None:
    """Bytes by device; None if that is not known."""
    if need is None:
        return None
    parts = ("weights", "kv", "compute", "process", "cache", "margin", "given", "total")
    devices = {
        name: {part: getattr(found, part) for part in parts} for name, found in need.devices.items()
    }
    return {"from": need.source, "rough": need.rough, "devices": devices}


@cli.command(
    epilog="""\b
Examples:
  llamagw init ~/models
  llamagw init ~/models --llama-server /opt/llama.cpp/llama-server
  llamagw init ~/models --gpu-layers -1 --force
  llamagw init ~/models -o - | less"""
)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    default=CONFIG,
    show_default=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="The file to write; - for stdout.",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite a file that is there.")
@click.option(
    "--llama-server",
    metavar="PATH",
    help="The engine; else the one on PATH, else that of `make run`.",
)
@click.option(
    "--gpu-layers",
    type=click.IntRange(min=-1),
    default=0,
    show_default=True,
    help="Layers on the GPU, of each model; -1 for all.",
)
@click.pass_context
def init(
    context: click.Context,
    folder: str,
    output: str,
    force: bool,
    llama_server: str | None,
    gpu_layers: int,
) -> None:
    """
    Write a configuration from a folder of GGUF files.

    Looks into the folders in DIR too. Names, sizes and the kind of each model come from the files;
    threads, and contexts that fit into the memory, from this machine. What is no model, no whole
    one, or too large for this machine, is told and left out.

    Exit code 1, the file being written, when no llama-server was found: then its line is marked
    with CHANGE.
    """
    from llamagw.cli.init import Machine, config_text, find_engine, too_large
    from llamagw.cli.scan import scan

    try:
        engine = find_engine(llama_server)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--llama-server") from None
    if output != "-" and os.path.lexists(output) and not force:
        raise click.ClickException(f"{output} is there already; -o another one, or --force")
    found, machine = scan(folder), Machine.this()
    large = [*too_large(found.models, machine, gpu_layers)]
    for model, why in large:
        found.models.remove(model)
        found.left_out.append((model.path, why))
    for path, why in found.left_out:
        click.echo(f"left out: {show.plain(path)} {why}", err=True)
    if not found.models:
        raise click.ClickException(f"no model in {show.plain(folder)}; nothing was written")
    text = config_text(folder, found.models, engine, machine, gpu_layers)
    try:
        with click.open_file(output, "w", encoding="utf-8", atomic=output != "-") as file:
            file.write(text)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from None
    if output != "-":
        count = len(found.models)
        click.echo(
            f"{show.plain(output)} is written, with {count} model{'s'[: count != 1]}", err=True
        )
    if engine is None:
        raise click.ClickException(
            "there is no llama-server on PATH: change the line that is marked with CHANGE, or "
            "give --llama-server PATH"
        )
    if output != "-":
        named = "" if output == CONFIG else f" {show.plain(output)}"
        click.echo(
            f"The engine is {show.plain(engine)}\nNow: llamagw check{named}; llamagw run{named}",
            err=True,
        )


# ---- The shell ----------------------------------------------------------------------------------


@cli.command(
    epilog="""\b
Examples:
  llamagw completion bash > ~/.local/share/bash-completion/completions/llamagw
  llamagw completion zsh > "${fpath[1]}/_llamagw"
  llamagw completion fish > ~/.config/fish/completions/llamagw.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """
    Print the script by which a shell completes this command.

    Names of models are completed too, from the running gateway.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "llamagw", "_LLAMAGW_COMPLETE").source())


for command in (serve.run, serve.stop, serve.reload, serve.status):
    cli.add_command(command)
for command in (remote.ps, remote.load, remote.unload, remote.pin, remote.unpin, remote.logs):
    cli.add_command(command)
for command in (activity.activity, activity.cancel, top.top, fit.fit):
    cli.add_command(command)
for command in (cert.cert, keys.keys, usage.usage):
    cli.add_command(command)
