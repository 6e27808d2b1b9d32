"""
The commands: `llamagw run`, `check`, `init`, `ps`, `load`, `unload`, `logs`, `completion`.

Click parses, completes and prints; here is what each command does and says. Exit codes: 0 done,
1 failed, 2 called wrongly, 130 ended by Ctrl-C. What is asked for goes to stdout, the rest to
stderr. What only one command needs is imported there: completion must be quick.
"""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from llamagw import __version__
from llamagw.cli import show
from llamagw.cli.client import Client, Failed, configured_url, names

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from llamagw.config import Config, Fault

#: Seconds that completion may wait for the gateway, with somebody's finger on the tab key.
COMPLETION_PATIENCE = 0.5

#: What `run` becomes: twistd, wherever its script may be. Without this process's folder at the head
#: of sys.path, which Python puts there for -c and a script does not have.
_TWISTD = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; sys.argv[0] = 'twistd'; "
    "from twisted.scripts.twistd import run; run()"
)

_COLOURS = {"loaded": "green", "loading": "yellow", "stopping": "yellow", "failed": "red"}


def main() -> None:
    """The console command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a model's name gets a "?" in it, not a traceback.
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

Exit codes: 0 done, 1 failed, 2 called wrongly, 130 ended by Ctrl-C.""",
)
@click.version_option(__version__, prog_name="llamagw", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """One OpenAI-compatible endpoint in front of many llama-server models."""
    if os.environ.get("NO_COLOR"):
        context.color = False


# ---- Serving ----------------------------------------------------------------------------------

_config_option = click.option(
    "-c",
    "--config",
    default="config.yaml",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="The configuration file.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cli.command(
    epilog="""\b
Examples:
  llamagw run
  llamagw run -c /etc/llamagw/config.yaml --logfile /var/log/llamagw.log"""
)
@_config_option
@click.option(
    "--logfile",
    type=click.Path(dir_okay=False),
    help="Write the log there instead of to the terminal.",
)
def run(config: str, logfile: str | None) -> None:
    """
    Serve, in the foreground.

    The same as `twistd -n --pidfile= llamagw --config FILE`. Ctrl-C or SIGTERM ends it in order,
    with 0; SIGHUP reads the configuration again. For a daemon, use twistd itself.
    """
    arguments = ["-n", "--pidfile=", *(["--logfile", logfile] if logfile else [])]
    arguments += ["llamagw", "--config", config]
    # Another program in this process, so that nothing of the command line stays in its memory.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-c", _TWISTD, *arguments])


@cli.command(
    epilog="""\b
Examples:
  llamagw check
  llamagw check -c new.yaml && mv new.yaml config.yaml
  llamagw check --json | jq -r '.faults[] | "\\(.line) \\(.place)"'"""
)
@_config_option
@_json_option
@click.pass_context
def check(context: click.Context, config: str, as_json: bool) -> None:
    """
    Check a configuration, and say what would be served.

    All faults are told at once, one line each; then the exit code is 1.
    """
    from llamagw import tap

    path = os.path.abspath(config)
    loaded, faults = _checked(path)
    if as_json:
        _print_json(
            {
                "ok": not faults,
                "faults": [
                    {"file": f.file, "line": f.line, "place": f.place, "message": f.message}
                    for f in faults
                ],
                "models": _served(loaded) if loaded else [],
            }
        )
    elif loaded:
        click.echo(tap._summary(path, loaded))
    else:
        for fault in faults:
            click.echo(str(fault), err=True)
    context.exit(1 if faults else 0)


def _checked(path: str) -> tuple[Config | None, list[Fault]]:
    """What `twistd llamagw --check` looks at: the file, and whether Twisted knows the address."""
    from llamagw import tap
    from llamagw.config import ConfigError, load

    try:
        loaded = load(path)
        from twisted.internet import reactor

        tap._endpoint(reactor, loaded)
    except ConfigError as error:
        return None, error.faults
    return loaded, []


def _served(config: Config) -> list[dict[str, Any]]:
    missing = {model.name for model in config.missing_files()}
    return [
        {
            "name": model.name,
            "model_path": model.model_path or None,
            "urls": [replica.url for replica in model.replicas],
            "missing": model.name in missing,
        }
        for model in config.models
    ]


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
    default="config.yaml",
    show_default=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="The file to write; - for stdout.",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite a file that is there.")
@click.option("--llama-server", metavar="PATH", help="The engine; else the one on PATH.")
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

    Looks into the folders in DIR too. Names, sizes, context lengths and the kind of each model
    come from the files; threads and how many may be loaded at once from this machine. What is no
    model, or no whole one, is told and left out.

    Exit code 1, the file being written, when no llama-server was found: then its line is marked
    with CHANGE.
    """
    from llamagw.cli.init import Machine, config_text, find_engine, scan

    try:
        engine = find_engine(llama_server)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--llama-server") from None
    if output != "-" and os.path.lexists(output) and not force:
        raise click.ClickException(f"{output} is there already; -o another one, or --force")
    found = scan(folder)
    for path, why in found.left_out:
        click.echo(f"left out: {show.plain(path)} {why}", err=True)
    if not found.models:
        raise click.ClickException(f"no model in {show.plain(folder)}; nothing was written")
    text = config_text(folder, found.models, engine, Machine.this(), gpu_layers)
    try:
        with click.open_file(output, "w", encoding="utf-8", atomic=output != "-") as file:
            file.write(text)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from None
    count = len(found.models)
    if output != "-":
        option = "" if output == "config.yaml" else f" -c {show.plain(output)}"
        click.echo(
            f"{show.plain(output)} is written, with {count} model{'s'[: count != 1]}. "
            f"Now: llamagw check{option}; llamagw run{option}",
            err=True,
        )
    if engine is None:
        raise click.ClickException(
            "there is no llama-server on PATH: change the line that is marked with CHANGE, or "
            "give --llama-server PATH"
        )


# ---- A running gateway ------------------------------------------------------------------------


def _gateway_command(function: Callable[..., None]) -> Callable[..., None]:
    """
    A command that talks to a gateway: it gets a `Client` first, and what fails is one line.

    With --json the failure is JSON on stdout as well, so that whoever parses it always can.
    """

    @click.option(
        "--url",
        envvar="LLAMAGW_URL",
        show_envvar=True,
        help="Where llamagw runs: http://…, https://… or unix:/PATH. Else the configuration's "
        "listen_addr, else http://localhost:8000.",
    )
    @click.option(
        "-c",
        "--config",
        type=click.Path(exists=True, dir_okay=False),
        help="Take listen_addr from this file.  [default: config.yaml, if there]",
    )
    @functools.wraps(function)
    def wrapped(url: str | None, config: str | None, **arguments: Any) -> None:
        try:
            # A file that was given is meant, whatever the environment says of the usual case.
            source = click.get_current_context().get_parameter_source("url")
            if config and source is not click.core.ParameterSource.COMMANDLINE:
                url = None
            client = Client(url or configured_url(config))
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        try:
            function(client, **arguments)
        except Failed as failed:
            if arguments.get("as_json"):
                _print_json({"error": failed.error})
            raise click.ClickException(show.plain(str(failed))) from None

    return wrapped


def _complete_name(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The models of the gateway, if it can be asked at once; else nothing, and no word."""
    from click.shell_completion import CompletionItem

    try:
        url = context.params.get("url") or os.environ.get("LLAMAGW_URL")
        client = Client(url or configured_url(context.params.get("config")), COMPLETION_PATIENCE)
        found = names(client.models())
    except Exception:
        return []
    return [CompletionItem(name) for name in found if name.startswith(incomplete)]


_name_argument = click.argument("name", shell_complete=_complete_name)


@cli.command(
    epilog="""\b
Examples:
  llamagw ps
  llamagw ps --url http://gpu-box:8000
  llamagw ps --json | jq -r '.data[].id'"""
)
@_gateway_command
@_json_option
def ps(client: Client, as_json: bool) -> None:
    """
    List the models of a running gateway.

    Those in memory come first, each group in the order of the configuration. In a narrow terminal
    PORT and CONTEXT are left out; in a pipe nothing is.
    """
    answer = client.models()
    if as_json:
        _print_json(answer)
        return
    models = sorted(answer["data"], key=lambda model: _status(model) in _NOT_LOADED)
    if not models:
        click.echo("no models")
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    rows = [_row(model) for model in models]
    table = show.table(_COLUMNS, rows, width, dispensable=("PORT", "CONTEXT"))
    for number, row in enumerate(table):
        if number:
            row[1] = click.style(row[1], fg=_COLOURS.get(row[1].strip()))
        click.echo(show.GAP.join(row).rstrip())
    for model in models:
        if error := model["status"].get("error"):
            click.echo(f"\n{show.plain(model['id'])}: {show.plain(str(error))}")


_COLUMNS = ("NAME", "STATUS", "SIZE", "CONTEXT", "PORT", "ACTIVE", "WAITING", "LAST USED")
_NOT_LOADED = ("unloaded", "failed")


def _status(model: dict[str, Any]) -> str:
    value = model["status"]["value"]
    failed = value == "unloaded" and model["status"].get("failed")
    return "failed" if failed else show.plain(str(value))


def _row(model: dict[str, Any]) -> list[str]:
    """A line of the table; what a model does not have is "-"."""
    bytes_, last_used = model.get("size"), model.get("last_used")
    return [
        show.plain(model["id"]),
        _status(model),
        show.size(bytes_) if isinstance(bytes_, int) else "-",
        _number(model.get("context_size")),
        _number(model.get("port")),
        _number(model.get("in_flight")),
        _number(model.get("waiting")),
        "-" if last_used is None else show.ago(max(time.time() - last_used, 0)),
    ]


def _number(value: object) -> str:
    # Of a model elsewhere, the gateway tells what it was told.
    return str(value) if isinstance(value, int) else "-"


@cli.command(
    epilog="""\b
Examples:
  llamagw load qwen2.5-7b
  llamagw load qwen2.5-7b && echo ready"""
)
@_gateway_command
@_name_argument
@_json_option
def load(client: Client, name: str, as_json: bool) -> None:
    """
    Load a model, and wait until it is.

    When it cannot be loaded, the engine's last words are told, and the exit code is 1.
    """
    _manage(name, "loaded", as_json, lambda: client.load(name))


@cli.command(
    epilog="""\b
Examples:
  llamagw unload qwen2.5-7b
  llamagw unload --force qwen2.5-7b"""
)
@_gateway_command
@_name_argument
@click.option("-f", "--force", is_flag=True, help="Do not wait: cut off the answers it is giving.")
@_json_option
def unload(client: Client, name: str, force: bool, as_json: bool) -> None:
    """
    Unload a model, and wait until it is gone.

    It finishes the answers that it is giving first. A request for it loads it again.
    """
    _manage(name, "unloaded", as_json, lambda: client.unload(name, force))


def _manage(name: str, done: str, as_json: bool, action: Callable[[], None]) -> None:
    started = time.monotonic()
    action()
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        _print_json({"model": name, "status": done, "seconds": seconds})
    else:
        click.echo(f"{name} is {done} ({seconds:.1f} s)")


@cli.command(
    epilog="""\b
Examples:
  llamagw logs qwen2.5-7b
  llamagw logs -f -n 20 qwen2.5-7b"""
)
@_gateway_command
@_name_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), help="So many lines at most.  [default: all kept]"
)
def logs(client: Client, name: str, follow: bool, lines: int | None) -> None:
    """
    Print the last lines that a model's engine has written.

    The gateway keeps the last 200 of each engine. With --follow it goes on until Ctrl-C, which
    ends it with 130, or until the gateway ends, with 0.
    """
    if not follow:
        kept = client.logs(name)
        for line in kept if lines is None else kept[max(len(kept) - lines, 0) :]:
            click.echo(line)
        return
    # The stream begins with all that is kept; how many lines that is, it does not say.
    skip = 0 if lines is None else max(len(client.logs(name)) - lines, 0)
    with closing(client.follow(name)) as stream:  # type: ignore[type-var]
        for number, line in enumerate(stream):
            if number >= skip:
                click.echo(line)


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


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))
