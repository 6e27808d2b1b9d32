"""
The commands that serve, and those for a gateway in the background: run, stop, reload, status.

twistd serves, and detaches what runs in the background. Which configuration a command takes is
decided here, for `check` too; where the files are, by places.py; which process, by daemon.py.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from llamagw.cli import places, show
from llamagw.cli.client import Failed, configured_client, configured_url
from llamagw.cli.remote import json_option, print_json
from llamagw.system import state_folder

if TYPE_CHECKING:
    from llamagw.cli.daemon import Daemon

#: The program that `run` executes: twistd, wherever its script is. For -c, unlike for a script,
#: Python puts the current folder on sys.path; files there must not be imported as modules.
_TWISTD = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; sys.argv[0] = 'twistd'; "
    "from twisted.scripts.twistd import run; run()"
)

#: Seconds that `stop` waits: more than the defaults of drain_sec and stop_timeout_sec together.
_STOP_SEC = 60

#: Seconds after which `stop` says what it waits for.
_SILENT_SEC = 1.0

#: Seconds that a gateway has to answer, when it is asked whether there is one.
_PATIENCE = 0.5

_NO_CONFIG = """\
no configuration: there is neither config.yaml in this folder nor
{user}

  llamagw init ~/models     write one, from a folder of GGUF files
  {command:<24}  take one that lies elsewhere

or write these four lines into config.yaml:

  llama_server_path: llama-server
  models:
    - name: my-model
      model_path: /path/to/my-model.gguf"""


class _NoGateway(click.ClickException):
    """None runs in the background: an answer rather than an error."""

    exit_code = 3

    def show(self, file: Any = None) -> None:
        click.echo(self.message, file=file, err=file is None)


# ---- Which configuration ------------------------------------------------------------------------


def config_argument(function: Callable[..., None]) -> Callable[..., None]:
    """
    Give a command the path of its configuration, as ``config``: FILE, or that of -c, or the one
    that is found; None if there is none.
    """

    @click.argument("file", metavar="[FILE]", required=False, type=click.Path())
    @click.option(
        "-c",
        "--config",
        metavar="FILE",
        type=click.Path(),
        help="The configuration, as FILE.  [default: ./config.yaml, else "
        "~/.config/llamagw/config.yaml]",
    )
    @functools.wraps(function)
    def wrapped(file: str | None, config: str | None, **arguments: Any) -> None:
        if file and config:
            raise click.UsageError("FILE and -c both name a configuration; give one")
        named = file or config
        if named:
            _refuse_models(named)
        function(config=named or places.find_config(), **arguments)

    return wrapped


def needed(config: str | None, as_json: bool = False) -> str:
    """
    A configuration that a command cannot do without.

    :param config: its path, if there is one
    :param as_json: whether the failure is printed as JSON too
    :raises ClickException: when there is none; it says what can be done
    """
    if config is None:
        command = f"llamagw {click.get_current_context().info_name} FILE"
        text = _NO_CONFIG.format(user=show.plain(places.user_config()), command=command)
        if as_json:
            print_json({"error": Failed(text).error})
        raise click.ClickException(text)
    return config


def _refuse_models(path: str) -> None:
    """End the command when a model, or a folder, is given for a configuration."""
    is_folder = os.path.isdir(path)
    if is_folder or path.lower().endswith(".gguf"):
        folder = path if is_folder else os.path.dirname(path) or "."
        raise click.UsageError(
            f"{show.plain(path)} is a {'folder' if is_folder else 'model'}, not a configuration. "
            f"To write one for what is there: llamagw init {show.plain(folder)}"
        )


# ---- Serving ------------------------------------------------------------------------------------

_pidfile_option = click.option(
    "--pidfile",
    metavar="FILE",
    type=click.Path(),
    help="The file with the process id.  [default: in the user's state folder, named after the "
    "configuration]",
)


@click.command(
    epilog="""\b
Examples:
  llamagw run
  llamagw run /etc/llamagw/config.yaml
  llamagw run -d && llamagw status"""
)
@config_argument
@click.option("-d", "--daemon", is_flag=True, help="In the background; `llamagw stop` ends it.")
@_pidfile_option
@click.option(
    "--logfile",
    metavar="FILE",
    type=click.Path(),
    help="Write the log there.  [default: the terminal; with -d, a file beside the pidfile's "
    "default]",
)
@click.pass_context
def run(
    context: click.Context,
    config: str | None,
    daemon: bool,
    pidfile: str | None,
    logfile: str | None,
) -> None:
    """
    Serve, in the foreground or in the background.

    In the foreground, Ctrl-C or SIGTERM ends it in order, with 0, and SIGHUP reads the
    configuration again; there is no pidfile unless one is named. With -d it returns when the
    address is listened on. What keeps it from serving is told before, and the exit code is 1.

    It becomes `twistd -n --pidfile= llamagw --config FILE`; with -d, twistd is run without -n.
    """
    from llamagw.cli.daemon import refuse_second, remove_stale

    config = needed(config)
    named = context.params["file"] or context.params["config"] or ""
    again = f"--pidfile {pidfile}" if pidfile else named
    files = places.daemon_files(config)
    if daemon:
        pidfile, logfile = pidfile or files[0], logfile or files[1]
    try:
        # In the foreground too: one in the background with the same configuration has its address.
        for path in filter(None, (files[0], pidfile)):
            refuse_second(path)
        for path in filter(None, (pidfile, logfile)):
            _writable(path)
        if pidfile:
            remove_stale(pidfile)
    except Failed as failed:
        raise click.ClickException(show.plain(str(failed))) from None
    options = [] if daemon else ["-n"]
    options.append(f"--pidfile={os.path.abspath(pidfile) if pidfile else ''}")
    options += [f"--logfile={os.path.abspath(logfile)}"] if logfile else []
    command = [sys.executable, "-c", _TWISTD, *options]
    command += ["llamagw", f"--config={os.path.abspath(config)}"]
    # Blocked until tap.py handles it: a SIGHUP must reload the configuration, not end the process.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    sys.stdout.flush()
    if not daemon:
        # Executed in place of this process, so that click does not stay in the gateway's memory.
        os.execv(sys.executable, command)
    assert pidfile is not None
    if subprocess.run(command, check=False).returncode:
        context.exit(1)  # it has said why
    _announce(pidfile, logfile, again)


def _announce(pidfile: str, logfile: str | None, again: str) -> None:
    """
    Tell of a gateway that has just detached.

    :param again: how to name it for `llamagw stop`
    """
    from llamagw.cli.daemon import Daemon, NotRunning

    try:
        daemon = Daemon(pidfile)
    except NotRunning:
        raise click.ClickException(f"it has ended at once; its log says why: {logfile}") from None
    click.echo(_described(daemon))
    click.echo(f"To end it: llamagw stop {show.plain(again)}".rstrip(), err=True)


def _writable(path: str) -> None:
    """Make sure that a pidfile or a log can be written: twistd would end with a traceback."""
    try:
        if os.path.dirname(path) == state_folder():
            os.makedirs(state_folder(), mode=0o700, exist_ok=True)
        with open(path, "a"):
            pass
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}") from None


# ---- In the background --------------------------------------------------------------------------


def _daemon_command(function: Callable[..., None]) -> Callable[..., None]:
    """
    Make a command for a gateway in the background: it gets a `Daemon` as its first argument.

    Where none runs, the command ends with 3, and with --json it says so on stdout too.
    """

    @config_argument
    @_pidfile_option
    @functools.wraps(function)
    def wrapped(config: str | None, pidfile: str | None, **arguments: Any) -> None:
        from llamagw.cli.daemon import Daemon, NotRunning

        as_json = arguments.get("as_json", False)
        pidfile = pidfile or places.daemon_files(needed(config, as_json))[0]
        try:
            function(Daemon(pidfile), **arguments)
        except NotRunning as why:
            if as_json:
                print_json({"running": False})
            raise _NoGateway(
                f"not running in the background: {show.plain(str(why))}{_in_the_foreground(config)}"
            ) from None
        except Failed as failed:
            if as_json:
                print_json({"error": failed.error})
            raise click.ClickException(show.plain(str(failed))) from None

    return wrapped


def _in_the_foreground(config: str | None) -> str:
    """A sentence on a gateway that has no pidfile, and answers all the same; empty if none does."""
    try:
        client = configured_client(config, _PATIENCE)
        client.models()
    except (Failed, ValueError):
        return ""
    return (
        f"\nBut one answers at {client.url}, which was not started by `run -d`: "
        "it is to be ended there"
    )


@click.command(
    epilog="""\b
Examples:
  llamagw stop
  llamagw stop /etc/llamagw/config.yaml
  llamagw stop --timeout 300"""
)
@_daemon_command
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.IntRange(min=0),
    default=_STOP_SEC,
    show_default=True,
    help="Wait for its end for so long.",
)
def stop(daemon: Daemon, timeout: int) -> None:
    """
    End a gateway that runs in the background.

    Waits until it has ended. It takes no new requests, and lets running answers finish for
    drain_sec. To break them off, stop it a second time. Exit codes: 1 when it has not ended in
    time, 3 when none runs.
    """
    daemon.signal(signal.SIGTERM)
    if not daemon.wait(min(timeout, _SILENT_SEC)):
        click.echo(f"waiting for pid {daemon.pid} to end …", err=True)
        if not daemon.wait(max(timeout - _SILENT_SEC, 0)):
            raise Failed(
                f"pid {daemon.pid} has not ended within {timeout} s, and goes on ending; "
                "a second `llamagw stop` breaks off the running answers"
            )
    click.echo(f"pid {daemon.pid} has ended")


@click.command(
    epilog="""\b
Examples:
  llamagw reload
  llamagw reload /etc/llamagw/config.yaml"""
)
@_daemon_command
def reload(daemon: Daemon) -> None:
    """
    Reload the configuration of a gateway in the background.

    The configuration is checked first. If it has faults, they are told, nothing is changed, and
    the exit code is 1. It is 3 when no gateway runs.
    """
    from llamagw.config import ConfigError, load

    if daemon.config is not None:
        try:
            load(daemon.config)
        except ConfigError as error:
            click.echo(str(error), err=True)
            raise Failed(f"pid {daemon.pid} was not told to reload this") from None
    daemon.signal(signal.SIGHUP)
    click.echo(f"pid {daemon.pid} reloads; what changes is in its log, {daemon.logfile}")


@click.command(
    epilog="""\b
Examples:
  llamagw status
  llamagw status /etc/llamagw/config.yaml
  llamagw status --json | jq .pid"""
)
@_daemon_command
@json_option
def status(daemon: Daemon, as_json: bool) -> None:
    """
    Say whether a gateway runs in the background.

    Its process id, its address and its files are told. The exit code is 0 when one runs, 3 when
    none does.
    """
    if not as_json:
        click.echo(_described(daemon))
        return
    print_json(
        {
            "running": True,
            "pid": daemon.pid,
            "since": daemon.since,
            "url": _url(daemon),
            "config": daemon.config,
            "logfile": daemon.logfile,
            "pidfile": daemon.pidfile,
        }
    )


def _described(daemon: Daemon) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(daemon.since))
    age = show.ago(max(time.time() - daemon.since, 0))
    lines = [f"llamagw runs with pid {daemon.pid}, since {since} ({age})"]
    for what, value in (
        ("address", _url(daemon)),
        ("configuration", daemon.config),
        ("log", daemon.logfile),
        ("pidfile", daemon.pidfile),
    ):
        lines.append(f"  {what:<15}{show.plain(value or '-')}")
    return "\n".join(lines)


def _url(daemon: Daemon) -> str | None:
    """Where it listens, by its configuration as that is now; None if that cannot be told."""
    try:
        return configured_url(daemon.config) if daemon.config else None
    except ValueError:
        return None
