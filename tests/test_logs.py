"""The log on stdout: what is shown on a terminal and on a pipe, and what is not."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from typing import Any
from unittest import mock

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from llamagw import logs
from llamagw.logs import json_observer, stdout_observer
from llamagw.observe import Record, Usage


class JsonTests(SynchronousTestCase):
    def lines(self, path: str | None, *events: tuple[str, dict[str, object]]) -> list[Any]:
        """What is written, to a file or to stdout, of events with a namespace and keys."""
        out = io.StringIO()
        self.patch(logs, "json_path", path)
        with mock.patch.object(sys, "stdout", out), mock.patch("signal.signal"):
            observer = json_observer()
        for namespace, keys in events:
            Logger(namespace=namespace, observer=observer).emit(LogLevel.warn, "{what}", **keys)
        if path is None:
            return list(map(json.loads, out.getvalue().splitlines()))
        with open(path) as file:
            return [json.loads(line) for line in file]

    def test_each_line_is_an_object_with_time_level_part_and_message(self) -> None:
        for path in (None, self.mktemp()):
            [line] = self.lines(path, ("llamagw.fleet", {"what": 'a "b"\nc'}))
            self.assertRegex(line.pop("time"), r"\A\d{4}-\d\d-\d\dT[\d:.]{12}\+00:00\Z")
            said = {"level": "warn", "part": "llamagw.fleet", "message": 'a "b"\nc'}
            self.assertEqual(line, said)

    def test_a_request_s_line_has_its_record(self) -> None:
        record = Record(id="a-1", arrived=5.0, asked="m", last=7.0, status=200)
        record.usage = Usage(prompt=3, completion=4)
        [line] = self.lines(None, ("llamagw.access", {"what": "x", "record": record}))
        self.assertEqual((line["request"]["id"], line["request"]["total_sec"]), ("a-1", 2.0))
        self.assertEqual(line["request"]["tokens"]["completion"], 4)
        self.assertLess(abs(line["request"]["time"] + 2 - time.time()), 60)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class LogsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.out: io.StringIO = Terminal()
        self.environ = {"TERM": "xterm"}

    def shown(self, level: LogLevel, text: str, namespace: str, **more: object) -> str:
        """What is printed of one event."""

        @implementer(ILogObserver)
        def observer(event: LogEvent) -> None:
            event["log_time"] = time.mktime((2026, 11, 24, 14, 3, 7, 0, 0, -1))
            printing(event)

        with mock.patch.object(sys, "stdout", self.out), mock.patch.dict(os.environ, self.environ):
            if "NO_COLOR" not in self.environ:
                os.environ.pop("NO_COLOR", None)
            printing = stdout_observer()
        Logger(namespace=namespace, observer=observer).emit(level, text, **more)
        return self.out.getvalue()

    def plain(self, level: LogLevel, text: str, namespace: str, **more: object) -> str:
        return re.sub(r"\x1b\[\d*m", "", self.shown(level, text, namespace, **more))

    def test_a_terminal_gets_the_time_of_day_and_the_text(self) -> None:
        said = self.plain(LogLevel.info, "{name} is loaded", "llamagw.fleet", name="tiny")
        self.assertEqual(said, "14:03:07 tiny is loaded\n")

    def test_an_engines_line_has_its_models_name(self) -> None:
        said = self.plain(LogLevel.warn, "{line}", "backend.org/tiny.2", line="srv  full")
        self.assertEqual(said, "14:03:07 warning: [org/tiny.2] srv  full\n")

    def test_warnings_and_errors_are_marked_and_coloured(self) -> None:
        for level, mark in (
            (LogLevel.warn, "\x1b[33mwarning: \x1b[0m"),
            (LogLevel.error, "\x1b[31merror: \x1b[0m"),
            (LogLevel.critical, "\x1b[31merror: \x1b[0m"),
        ):
            self.out = Terminal()
            said = self.shown(level, "oh", "llamagw")
            self.assertEqual(said, f"\x1b[2m14:03:07\x1b[0m {mark}oh\n")

    def test_there_are_no_colours_where_they_are_not_wanted(self) -> None:
        for environ in ({"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}):
            self.environ, self.out = environ, Terminal()
            said = self.shown(LogLevel.error, "oh", "llamagw")
            self.assertEqual(said, "14:03:07 error: oh\n")

    def test_a_pipe_gets_the_date_and_the_part_and_no_colours(self) -> None:
        self.out = io.StringIO()
        said = self.shown(LogLevel.warn, "oh", "llamagw.fleet")
        self.assertRegex(said, r"\A2026-11-24T14:03:07[+-]\d{4} \[llamagw\.fleet#warn\] oh\n\Z")

    def test_twisted_is_heard_from_a_warning_up(self) -> None:
        for out in (Terminal(), io.StringIO()):
            self.out = out
            for namespace in ("twisted.scripts._twistd_unix.UnixAppLogger", "log_legacy"):
                self.assertEqual(self.shown(LogLevel.info, "starting up", namespace), "")
            self.assertIn("oh", self.shown(LogLevel.warn, "oh", "twisted.internet.x"))

    def test_details_are_for_log_files(self) -> None:
        self.assertEqual(self.shown(LogLevel.debug, "detail", "llamagw"), "")

    def test_a_traceback_is_shown_whole(self) -> None:
        failure = Failure(ZeroDivisionError("by zero"))
        said = self.plain(LogLevel.critical, "it failed", "llamagw", log_failure=failure)
        first, *rest = said.splitlines()
        self.assertEqual(first, "14:03:07 error: it failed")
        self.assertIn("ZeroDivisionError: by zero", "\n".join(rest))
        self.assertTrue(all(line.startswith("\t") for line in rest), said)

    def test_what_is_printed_by_others_is_shown_with_whose_it_is(self) -> None:
        self.assertEqual(self.plain(LogLevel.info, "hello", "stdout"), "14:03:07 [stdout] hello\n")

    def test_a_character_that_the_terminal_lacks_does_not_cost_the_line(self) -> None:
        raw = io.BytesIO()
        with mock.patch.object(sys, "stdout", io.TextIOWrapper(raw, "ascii")):
            printing = stdout_observer()
        Logger(namespace="llamagw", observer=printing).info("caf\u00e9")
        self.assertTrue(raw.getvalue().endswith(b"] caf?\n"), raw.getvalue())
