"""
How a line of the log looks, and which lines stdout shows.

For a terminal, with short times and colours; for a pipe as in a log file, which Twisted writes
(twistd's ``--logfile``); as JSON, wherever it goes. What is logged is for the parts to decide.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any, TextIO

import msgspec
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
from twisted.python.logfile import LogFile

from llamagw.observe import Record, entry

#: Namespaces of Twisted's own, of which only warnings and errors are shown: not that a reactor or a
#: factory starts.
_TWISTED = ("twisted", "log_legacy")

#: How a level is marked on a terminal, and in which colour; none for a usual line.
_MARKS = {
    LogLevel.warn: ("warning: ", "33"),
    LogLevel.error: ("error: ", "31"),
    LogLevel.critical: ("error: ", "31"),
}


#: The file that `json_observer` writes to; None for stdout. Set by tap.py, since twistd calls
#: `json_observer` without arguments.
json_path: str | None = None


def stdout_observer() -> ILogObserver:
    """The observer for stdout as it is now; tap.py gives this function's name to twistd."""
    out = _stdout()
    if out.isatty():
        dumb = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        paint = _plain if dumb else _coloured
        observer = FileLogObserver(out, partial(terminal_line, paint=paint))
    else:
        observer = textFileLogObserver(out)
    return _filtered(observer)


def json_observer() -> ILogObserver:
    """The observer for ``log_format: json``; tap.py gives this function's name to twistd."""
    if json_path is None:
        return _filtered(FileLogObserver(_stdout(), json_line))
    file = LogFile.fromFullPath(json_path)
    # As twistd does for a text file, for programs that move log files away.
    signal.signal(signal.SIGUSR1, lambda *_: file.rotate())
    return FileLogObserver(file, json_line)


def _stdout() -> TextIO:
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        # A character that the terminal cannot show becomes "?", and the line is not lost.
        out.reconfigure(errors="replace")
    return out


def _filtered(observer: ILogObserver) -> ILogObserver:
    shown = LogLevelFilterPredicate()
    for namespace in _TWISTED:
        shown.setLogLevelForNamespace(namespace, LogLevel.warn)
    return FilteringLogObserver(observer, [shown])


def json_line(event: LogEvent) -> str | None:
    """
    An event as a JSON object: ``time``, ``level``, ``part`` and ``message``; of a request's line
    what its record has too, under ``request``.

    :return: one line; None if the event has no text
    """
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    if not text:
        return None
    level = event.get("log_level")
    moment = datetime.fromtimestamp(event["log_time"], tz=timezone.utc)
    told: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": level.name if level is not None else "info",
        "part": event.get("log_namespace", ""),
        "message": text,
    }
    record = event.get("record")
    if isinstance(record, Record):
        told["request"] = entry(record, event["log_time"] - record.last)
    return msgspec.json.encode(told).decode() + "\n"


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
