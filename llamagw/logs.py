"""
The log on stdout: what is shown of it, and how a line looks.

For a terminal, with short times and colours; for a pipe as in a log file, which Twisted writes
(twistd's ``--logfile``). What is logged is for the parts to decide.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from functools import partial

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    textFileLogObserver,
)

#: Namespaces of Twisted's own, of which only warnings and errors are shown: not that a reactor or a
#: factory starts.
_TWISTED = ("twisted", "log_legacy")

#: How a level is marked on a terminal, and in which colour; none for a usual line.
_MARKS = {
    LogLevel.warn: ("warning: ", "33"),
    LogLevel.error: ("error: ", "31"),
    LogLevel.critical: ("error: ", "31"),
}


def stdout_observer() -> ILogObserver:
    """The observer for stdout as it is now; tap.py gives this function's name to twistd."""
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        # A character that the terminal cannot show becomes "?", and the line is not lost.
        out.reconfigure(errors="replace")
    shown = LogLevelFilterPredicate()
    for namespace in _TWISTED:
        shown.setLogLevelForNamespace(namespace, LogLevel.warn)
    if out.isatty():
        dumb = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        paint = _plain if dumb else _coloured
        observer = FileLogObserver(out, partial(terminal_line, paint=paint))
    else:
        observer = textFileLogObserver(out)
    return FilteringLogObserver(observer, [shown])


def terminal_line(event: LogEvent, paint: Callable[[str, str], str]) -> str | None:
    """
    An event as a person reads it on a terminal.

    :param paint: gives a text its colour, by the number of the escape sequence
    :return: one line, and one for each line of a traceback; None if the event has no text
    """
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    if not text:
        return None
    clock = time.strftime("%H:%M:%S", time.localtime(event["log_time"]))
    mark, colour = _MARKS.get(event.get("log_level"), ("", ""))
    part, _, name = event.get("log_namespace", "").partition(".")
    # The gateway's own lines need no name; an engine's have that of its model.
    whose = "" if part == "llamagw" else f"[{name if part == 'backend' else part}] "
    text = text.replace("\n", "\n\t")
    return f"{paint(clock, '2')} {paint(mark, colour) if mark else ''}{whose}{text}\n"


def _plain(text: str, colour: str) -> str:
    return text


def _coloured(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"
