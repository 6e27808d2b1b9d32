"""
What engines print: kept for a while, logged, and told to who wants to hear it.

A `Log` is a model's, for all of its lives; an `Output` is that of one engine.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence

from twisted.logger import Logger

from llamagw.listeners import Listeners
from llamagw.text import harmless

#: Lines of a backend's output that are kept, and how much of one line.
KEPT_LINES, LINE_BYTES = 200, 4096

#: Lines among which an engine's last words are looked for.
RECENT_LINES = 20

#: Lines that are handed on in one turn of the reactor. One costs some 30 µs with a log file, and
#: clients can have an engine print thousands.
LINES_A_TURN = 200


class Log:
    """
    What the engines of one model printed, one after the other.

    Each line is also logged under the model's name.

    :ivar lines: the last `KEPT_LINES` of them
    """

    def __init__(self, name: str) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._log = Logger(namespace=f"backend.{name}")
        self._followers = Listeners[Sequence[str]]()

    def follow(self, tell: Callable[[Sequence[str]], object]) -> Callable[[], None]:
        """
        Hear the lines that are printed from now on, those of one turn of the reactor together.

        :return: call it to hear no more
        """
        return self._followers.add(tell)

    def add(self, *lines: str) -> None:
        """These lines were printed."""
        self.lines.extend(lines)
        for line in lines:
            self._log.info("{line}", line=line)
        self._followers.tell(lines)


class Output:
    """
    What one engine printed.

    It is text, whoever had it printed: clients can, and what would act on a terminal or begin a new
    line is written out before anybody sees it.

    :ivar count: lines handed on so far
    :ivar recent: the last of them
    """

    def __init__(self, log: Log) -> None:
        self.count = 0
        self.recent: deque[str] = deque(maxlen=RECENT_LINES)
        self._log = log
        self._partial = {1: b"", 2: b""}
        #: Not handed on yet.
        self._waiting: deque[bytes] = deque()

    def received(self, fd: int, data: bytes) -> None:
        """It printed this; its lines wait to be handed on."""
        *lines, rest = (self._partial[fd] + data).split(b"\n")
        # A line that never ends must not grow for ever.
        if len(rest) > LINE_BYTES:
            lines.append(rest)
            rest = b""
        self._partial[fd] = rest
        self._waiting.extend(lines)

    def closed(self) -> None:
        """No more will come: what has no line's end yet is a line all the same."""
        for fd, rest in self._partial.items():
            self._partial[fd] = b""
            if rest:
                self._waiting.append(rest)

    def hand_on(self) -> bool:
        """
        Hand on what waits, `LINES_A_TURN` at most.

        :return: whether more waits
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


def _line(raw: bytes) -> str:
    return harmless(raw[:LINE_BYTES].decode(errors="replace").rstrip("\r"))
