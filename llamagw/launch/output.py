"""
The output of engines: its last lines are kept with their time, and passed to followers.

A `Log` belongs to a model, over all of its runs; an `Output` to one run. Which lines are repeated
in the gateway's own log is the configuration's ``engine_log``.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

from twisted.logger import Logger, LogLevel

from llamagw.launch.quiet import Quiet
from llamagw.launch.told import Told
from llamagw.listeners import Listeners
from llamagw.text import harmless

#: Lines of a model's output that are kept, and bytes of one line (beside its time).
KEPT_LINES, LINE_BYTES = 200, 4096

#: Last lines of a run among which the cause of its end is looked for.
RECENT_LINES = 20

#: Lines that are passed on in one turn of the reactor. One costs some 30 µs with a log file, and
#: clients can make an engine print thousands.
LINES_A_TURN = 200

#: A line as the engine marks it: the time since its start, the level, the text.
_MARKED = re.compile(r"[\d.]+ ([DIWE]) +(.*)")

#: A warning that an engine gives at each start of how it is used, a box of several lines (that it
#: has no API key, for one): with a gateway before it that is as it should be.
_AT_EACH_START = re.compile(r"srv +llama_server: ")

#: The engine's levels; a line without one is information.
_LEVELS = {
    "D": LogLevel.debug,
    "I": LogLevel.info,
    "W": LogLevel.warn,
    "E": LogLevel.error,
}


class Log:
    """
    What the engines of one model printed, over all of its runs.

    :param name: the model's
    :param now: the wall clock, in seconds since the epoch
    :ivar lines: the last `KEPT_LINES` lines, each with the time of day before it; a line of its own
        tells where a run begins
    """

    def __init__(self, name: str, now: Callable[[], float] = time.time) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._log = Logger(namespace=f"backend.{name}")
        self._now = now
        self._runs = 0
        self._followers = Listeners[Sequence[str]]()

    def __repr__(self) -> str:
        return f"<Log {self._log.namespace}: {len(self.lines)} lines>"

    def follow(self, tell: Callable[[Sequence[str]], object]) -> Callable[[], None]:
        """
        Follow the lines that are added from now on.

        :param tell: called with the lines of one turn of the reactor
        :return: ends that
        """
        return self._followers.add(tell)

    def begin(self, pid: int, command: str) -> None:
        """
        Tell that a process was started.

        :param command: its command line, made harmless for logs and without secrets
        """
        self._runs += 1
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._now()))
        self._keep([f"── run {self._runs}, started {since}, pid {pid} ──"])
        self.add(command)

    def add(self, *lines: str) -> None:
        """
        Keep and pass on lines.

        :param lines: without line breaks, made harmless for logs
        """
        clock = time.strftime("%H:%M:%S", time.localtime(self._now()))
        self._keep([f"{clock} {line}" for line in lines])

    def repeat(self, lines: Sequence[str], which: Literal["warn", "all", "none"]) -> None:
        """
        Repeat lines in the gateway's log, under the model's name and at the engine's level.

        :param lines: as for `add`
        :param which: ``warn`` for those from a warning up
        """
        if which == "none":
            return
        for line in lines:
            marked = _MARKED.match(line)
            level, text = (_LEVELS[marked[1]], marked[2]) if marked else (LogLevel.info, line)
            if level is LogLevel.warn and _AT_EACH_START.match(text):
                continue
            if which == "all" or level >= LogLevel.warn:
                self._log.emit(level, "{line}", line=text)

    def _keep(self, lines: Sequence[str]) -> None:
        self.lines.extend(lines)
        self._followers.tell(lines)


class Output:
    """
    What one engine printed.

    Clients can make an engine print any text, so control characters are escaped (`harmless`).

    :param log: the model's; gets the lines
    :param engine_log: gives the configuration's ``engine_log``
    :ivar heard: lines received so far
    :ivar count: lines passed on so far
    :ivar recent: the last `RECENT_LINES` of them
    :ivar quiet: leaves out lines that are not for people; None to pass on all
    :ivar told: gets each line as it is received; None when nothing more is to be learned from them
    """

    def __init__(self, log: Log, engine_log: Callable[[], Literal["warn", "all", "none"]]) -> None:
        self.heard = self.count = 0
        self.quiet: Quiet | None = None
        self.told: Told | None = None
        self.recent: deque[str] = deque(maxlen=RECENT_LINES)
        self._log = log
        self._engine_log = engine_log
        self._partial = {1: b"", 2: b""}
        #: Not passed on yet.
        self._waiting: deque[bytes] = deque()

    def __repr__(self) -> str:
        return f"<Output: {self.count} lines, {len(self._waiting)} waiting>"

    def received(self, fd: int, data: bytes) -> None:
        """
        Split received bytes into lines, which then wait for `pass_on`.

        :param fd: 1 or 2
        :param data: as read from the pipe
        """
        *lines, rest = (self._partial[fd] + data).split(b"\n")
        # A line without an end must not grow without limit.
        if len(rest) > LINE_BYTES:
            lines.append(rest)
            rest = b""
        self._partial[fd] = rest
        self._hear(lines)

    def closed(self) -> None:
        """The pipes are closed: an unfinished line counts as a line."""
        for fd, rest in self._partial.items():
            self._partial[fd] = b""
            if rest:
                self._hear([rest])

    def _hear(self, lines: list[bytes]) -> None:
        self.heard += len(lines)
        if self.told is not None:
            for line in lines:
                self.told.line(line)
        # What is not wanted is dropped before it costs more.
        self._waiting.extend(lines if self.quiet is None else self.quiet.of(lines))

    def pass_on(self) -> bool:
        """
        Pass on the lines that wait, at most `LINES_A_TURN`.

        :return: whether more lines wait
        """
        count = min(len(self._waiting), LINES_A_TURN)
        if count:
            lines = [_line(self._waiting.popleft()) for _ in range(count)]
            self.count += count
            self.recent.extend(lines)
            self._log.add(*lines)
            self._log.repeat(lines, self._engine_log())
        return bool(self._waiting)

    def last_words(self) -> str:
        """
        The cause of its end, from its output.

        The engine marks errors with an E after the time. Of the errors among the recent lines, the
        first names the cause and the last the consequence.

        :return: those two; without errors, the last line; "" if there is none
        """
        recent = [line for line in self.recent if line.strip()]
        marked = [_MARKED.match(line) for line in recent]
        errors = [" ".join(m[2].split()) for m in marked if m and m[1] == "E"]
        if errors:
            return errors[0] if len(errors) == 1 else f"{errors[0]}; {errors[-1]}"
        return recent[-1].strip() if recent else ""


def _line(raw: bytes) -> str:
    return harmless(raw[:LINE_BYTES].decode(errors="replace").rstrip("\r"))
