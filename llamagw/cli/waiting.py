"""
What a person sees who waits for a load: a bar in a terminal, lines elsewhere; both on stderr.

How far the load is comes from the gateway's events. A gateway that has none is waited for all the
same.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from queue import Empty, Queue
from typing import Any

import click

from llamagw.cli import show
from llamagw.cli.client import Client, Failed
from llamagw.text import span

#: Seconds before anything is shown, between two drawings of a bar, and between two lines.
BEGIN, REDRAW, REPEAT = 0.5, 0.25, 10.0

#: Characters of a bar.
BAR = 24


class _Done:
    """
    The load has ended.

    :ivar error: why it has failed; None if it has not
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


def load(client: Client, name: str, anyway: bool = False) -> None:
    """
    Load a model, and show how far it is.

    :param name: its name or an alias
    :param anyway: whether to load it even if the figures say that it does not fit
    :raises Failed: when it cannot be loaded
    :raises click.Abort: when the user ends the wait, which is told
    """
    news: Queue[_Done | dict[str, Any]] = Queue()

    def order() -> None:
        try:
            client.load(name, anyway)
        except Exception as error:
            news.put(_Done(error))
        else:
            news.put(_Done())

    def follow() -> None:
        try:
            own = client.own_name(name)
            for event in client.changes():
                if event.get("model") == own and event.get("event") == "progress":
                    news.put(event["data"])
        except (Failed, KeyError, ValueError):
            pass  # it is only to be shown

    display = Display(show.plain(name))
    threading.Thread(target=order, daemon=True).start()
    try:
        new = _next(news, BEGIN)
        if new is None:
            threading.Thread(target=follow, daemon=True).start()
        while not isinstance(new, _Done):
            if new is not None:
                display.progress(new)
            display.draw()
            new = _next(news, REDRAW)
    except KeyboardInterrupt:
        display.clear()
        click.echo(display.farewell(), err=True)
        raise click.Abort from None
    display.clear()
    if new.error is not None:
        raise new.error


def _next(news: Queue[Any], seconds: float) -> Any:
    """The next of the news; None if none comes in time."""
    try:
        return news.get(timeout=seconds)
    except Empty:
        return None


class Display:
    """
    Shows the last that was told.

    :param name: the model's, as it is shown
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar = sys.stderr.isatty()
        self._began = time.monotonic()
        #: What was told, and when.
        self._told: dict[str, Any] = {}
        self._at = self._began
        #: When the last line was printed, and what for; of news at the start there is none.
        self._printed, self._said = self._began, self._what

    def __repr__(self) -> str:
        return f"<Display of {self._name}: {self._told}>"

    def progress(self, told: Any) -> None:
        """
        Keep what was told.

        :param told: the ``data`` of an event ``progress`` of ``/models/sse``
        """
        if isinstance(told, dict):
            self._told, self._at = told, time.monotonic()

    def draw(self) -> None:
        """Show it: over the last line in a terminal, else as a line if there is news."""
        now = time.monotonic()
        if self._bar:
            # One character less: at the edge some terminals begin a new line.
            room = shutil.get_terminal_size().columns - 1
            text = self.text(now, BAR)
            text = text if len(text) <= room else f"{text[: room - 1]}…"
            click.echo(f"\r{text}\x1b[K", nl=False, err=True)
            return
        if self._what != self._said or now >= self._printed + REPEAT:
            self._said, self._printed = self._what, now
            click.echo(self.text(now, 0), err=True)

    def clear(self) -> None:
        """Remove the line from the terminal."""
        if self._bar:
            click.echo("\r\x1b[K", nl=False, err=True)

    def farewell(self) -> str:
        """What becomes of the load for which nobody waits here any more."""
        if self._state == "loading":
            return f"Stopped waiting: {self._name} goes on loading."
        return f"Stopped waiting: the order to load {self._name} is withdrawn."

    @property
    def _what(self) -> tuple[object, ...]:
        """What makes a new line when it changes."""
        return tuple(self._told.get(key) for key in ("state", "position", "waiting_for"))

    @property
    def _state(self) -> str:
        return str(self._told.get("state", ""))

    def text(self, now: float, width: int) -> str:
        """
        The line that is shown.

        :param now: seconds of the monotonic clock
        :param width: characters of the bar; 0 for none
        """
        told, since = self._told, now - self._at
        usual = _number(told, "usual_sec")
        if self._state == "loading":
            elapsed = (_number(told, "elapsed_sec") or 0.0) + since
            done = _number(told, "done")
            if done is None and usual:
                done = elapsed / usual
            if done is None or not width:
                than = f", usually {_about(usual)}" if usual else ""
                return f"{self._name}: loading for {span(elapsed)}{than}"
            of = f" of usually {_about(usual)}" if usual else ""
            return f"{self._name}: loading {_bar(done, width)} {span(elapsed)}{of}"
        if self._state != "waiting":
            return f"{self._name}: asked for {span(now - self._began)} ago"
        position = told.get("position")
        place = f" (position {position})" if isinstance(position, int) else ""
        then = f"; its load usually takes {_about(usual)}" if usual else ""
        what = show.plain(str(told.get("waiting_for") or "its load"))
        return f"{self._name}: waiting for {span(now - self._began)}{place}, for {what}{then}"


def _number(told: dict[str, Any], key: str) -> float | None:
    value = told.get(key)
    return float(value) if isinstance(value, int | float) else None


def _about(seconds: float) -> str:
    """A usual time, for people."""
    return span(round(seconds) or seconds)


def _bar(done: float, width: int) -> str:
    """A bar that is full only when it is over."""
    filled = min(int(done * width), width - 1)
    return f"[{'#' * filled}{'-' * (width - filled)}]"
