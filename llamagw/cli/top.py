"""
The command `llamagw top`: refuses where it cannot run, and starts the screen otherwise.

The screen is screen.py's. It needs Textual, which comes with the extra `[top]` and is imported by
nothing but this command.
"""

from __future__ import annotations

import importlib.util
import sys

import click

from llamagw.cli.client import Client
from llamagw.cli.remote import gateway_command


class _Unable(click.ClickException):
    """It cannot run here: one line, and the exit code of a wrong call."""

    exit_code = 2


@click.command(
    epilog="""\b
Examples:
  llamagw top
  llamagw top --url http://gpu-box:8000"""
)
@gateway_command
@click.pass_context
def top(context: click.Context, client: Client) -> None:
    """
    Watch models and requests, and load, unload, pin and cancel them.

    It asks before it interrupts anybody; ? tells the keys. When the gateway ends, it is waited for.
    """
    if importlib.util.find_spec("textual") is None:
        raise _Unable("this needs Textual: pip install 'llamagw[top]'")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise _Unable("this needs a terminal; llamagw ps and llamagw activity do not")
    from llamagw.cli.screen import Top

    context.exit(Top(client).run() or 0)
