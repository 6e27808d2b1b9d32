"""
The output of engines: its last lines are kept, each line is logged and passed to followers.

A `Log` belongs to a model, over all of its runs; an `Output` to one run.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence

from twisted.logger import Logger

from llamagw.listeners import Listeners
from llamagw.text import harmless

#: Lines of a model's output that are kept, and bytes of one line.
KEPT_LINES, LINE_BYTES = 200, 4096

#: Last lines of a run among which the cause of its end is looked for.
RECENT_LINES = 20

#: Lines that are passed on in one turn of the reactor. One costs some 30 µs with a log file, and
#: clients can make an engine print thousands.
LINES_A_TURN = 200


class Log:
    """
    What the engines of one model printed, over all of its runs.

    Each line is also logged under the model's name.

    :param name: the model's
    :ivar lines: the last `KEPT_LINES` lines
    """

    def __init__(self, name: str) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._log = Logger(namespace=f"backend.{name}")
        self._followers = Listeners[Sequence[str]]()

    def __repr__(self) -> str:
        return f"<Log {self._log.namespace}: {len(self.lines)} lines>"

    def follow(self, tell: Callable[[Sequence[str]], object]) -> Callable[[], None]:
        """
        Follow the lines that are printed from now on.

        :param tell: called with the lines of one turn of the reactor
        :return: ends that
        """
        return self._followers.add(tell)

    def add(self, *lines: str) -> None:
        """
        Keep, log and pass on lines.

        :param lines: without line breaks, made harmless for logs
        """
        self.lines.extend(lines)
        for line in lines:
            self._log.info("{line}", line=line)
        self._followers.tell(lines)


class Output:
    """
    What one engine printed.

    Clients can make an engine print any text, so control characters are escaped (`harmless`).

    :param log: the model's; gets the lines
    :ivar count: lines passed on so far
    :ivar recent: the last `RECENT_LINES` of them
    """

    def __init__(self, log: Log) -> None:
        self.count = 0
        self.recent: deque[str] = deque(maxlen=RECENT_LINES)
        self._log = log
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
        self._waiting.extend(lines)

    def closed(self) -> None:
        """The pipes are closed: an unfinished line counts as a line."""
        for fd, rest in self._partial.items():
            self._partial[fd] = b""
            if rest:
                self._waiting.append(rest)

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
        return bool(self._waiting)

    def last_words(self) -> str:
        """
        The cause of its end, from its output.

        The engine marks errors with an E after the time. Of the errors among the recent lines, the
        first names the cause and the last the consequence.

        :return: those two; without errors, the last line; "" if there is none
        """
        recent = [line for line in self.recent if line.strip()]
        marked = [re.match(r"[\d.]+ (\w) +(.*)", line) for line in recent]
        errors = [" ".join(m[2].split()) for m in marked if m and m[1] == "E"]
        if errors:
            return errors[0] if len(errors) == 1 else f"{errors[0]}; {errors[-1]}"
        return recent[-1].strip() if recent else ""


def _line(raw: bytes) -> str:
    return harmless(raw[:LINE_BYTES].decode(errors="replace").rstrip("\r"))
