"""
What asks a gateway for `llamagw top`, in threads: polls of its models, its events, and commands.

What is told goes into a queue, from which the screen takes it when it draws. Nothing is kept here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from llamagw.cli.client import Client, Failed

#: Seconds between two polls, and between two attempts to reach a gateway that has gone.
PAUSE = 1.0

#: How much may wait for the screen; a thread that has more waits.
ROOM = 1000


class Watch:
    """
    Asks a gateway all the time.

    :ivar told: what it has said: a kind, as in `Board.take`, or ``done`` or ``failed`` for the end
        of a command; and a value
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = threading.Event()
        self.told: queue.Queue[tuple[str, Any]] = queue.Queue(ROOM)

    def start(self) -> None:
        """Begin to ask."""
        self._thread(self._poll)
        self._thread(self._listen)

    def stop(self) -> None:
        """End; what waits for an answer is left to the end of the process."""
        self._over.set()

    def command(self, done: str, action: Callable[[], None]) -> None:
        """
        Have something done, and tell how it went.

        :param done: what to say when it is
        :param action: may raise `Failed`
        """

        def act() -> None:
            try:
                action()
                self._tell("done", done)
            except Failed as failed:
                self._tell("failed", str(failed))

        self._thread(act)

    def _thread(self, target: Callable[[], None]) -> None:
        # The end of the process does not wait for these: they may wait for an answer.
        threading.Thread(target=target, daemon=True).start()

    def _tell(self, kind: str, value: Any) -> None:
        while not self._over.is_set():
            try:
                return self.told.put((kind, value), timeout=1)
            except queue.Full:
                continue

    def _poll(self) -> None:
        while True:
            try:
                self._tell("health", self._client.health())
                self._tell("models", self._client.models())
            except Failed as failed:
                self._tell("gone", str(failed))
            if self._over.wait(PAUSE):
                return

    def _listen(self) -> None:
        while True:
            try:
                with closing(self._client.events()) as events:
                    for event in events:
                        self._tell("event", event)
                        if self._over.is_set():
                            return
                self._tell("deaf", "the gateway has ended")
            except Failed as failed:
                self._tell("deaf", str(failed))
            if self._over.wait(PAUSE):
                return
