"""
What engines print: kept for a while, logged, and told to who wants to hear it.

A `Log` is a model's, for all of its lives; an `Output` is that of one engine.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from twisted.logger import Logger

from llamagw.fleet.listeners import Listeners

#: Lines of a backend's output that are kept, and how much of one line.
KEPT_LINES, LINE_BYTES = 200, 4096

#: Lines among which an engine's last words are looked for.
RECENT_LINES = 20


class Log:
    """
    What the engines of one model printed, one after the other.

    Each line is also logged under the model's name.

    :ivar lines: the last `KEPT_LINES` of them
    """

    def __init__(self, name: str) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._log = Logger(namespace=f"backend.{name}")
        self._followers = Listeners[str]()

    def follow(self, tell: Callable[[str], object]) -> Callable[[], None]:
        """
        Hear each line that is printed from now on.

        :return: call it to hear no more
        """
        return self._followers.add(tell)

    def add(self, line: str) -> None:
        """A line was printed."""
        self.lines.append(line)
        self._log.info("{line}", line=line)
        self._followers.tell(line)


class Output:
    """
    What one engine printed.

    :ivar count: lines seen so far
    :ivar recent: the last of them
    """

    def __init__(self, log: Log) -> None:
        self.count = 0
        self.recent: deque[str] = deque(maxlen=RECENT_LINES)
        self._log = log
        self._partial = {1: b"", 2: b""}

    def received(self, fd: int, data: bytes) -> None:
        *lines, rest = (self._partial[fd] + data).split(b"\n")
        # A line that never ends must not grow for ever.
        if len(rest) > LINE_BYTES:
            lines.append(rest)
            rest = b""
        self._partial[fd] = rest
        for line in lines:
            self._line(line)

    def closed(self) -> None:
        """No more will come: what has no line's end yet is a line all the same."""
        for fd, rest in self._partial.items():
            self._partial[fd] = b""
            if rest:
                self._line(rest)

    def _line(self, raw: bytes) -> None:
        line = raw[:LINE_BYTES].decode(errors="replace").rstrip("\r")
        self.count += 1
        self.recent.append(line)
        self._log.add(line)

    def last_words(self) -> str:
        """
        Why it ended, in its own words.

        The engine marks errors with an E after the time; the first of the last stretch says the
        cause, the last the consequence. Without any, the last line.
        """
        recent = [line for line in self.recent if line.strip()]
        marked = [re.match(r"[\d.]+ (\w) +(.*)", line) for line in recent]
        errors = [" ".join(m[2].split()) for m in marked if m and m[1] == "E"]
        if errors:
            return errors[0] if len(errors) == 1 else f"{errors[0]}; {errors[-1]}"
        return recent[-1].strip() if recent else ""
