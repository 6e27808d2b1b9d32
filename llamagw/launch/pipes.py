"""
One engine's process as Twisted reports it: what comes through its pipes, and how it ended.

Passes output on at the pace at which it is handled, and reports the end once. Starting, stopping
and restarting a process is for local.py; its lines are kept and logged by output.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IPushProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from llamagw.launch.output import Output

#: Seconds that the pipes of an ended process may stay open (a grandchild may hold them) before
#: its end is told all the same.
PIPE_GRACE_SEC = 0.2

#: How often that time may be prolonged while what has come is still being handed on.
PIPE_GRACES = 25


class EngineProtocol(ProcessProtocol):
    """
    One process, from spawn to end; tells `ended` once, and does not wait for its pipes long.

    While lines of it wait to be handed on, its pipes are not read.
    """

    def __init__(
        self,
        output: Output,
        call_later: Callable[..., IDelayedCall],
        ended: Callable[[str, int | None], None],
    ) -> None:
        self._output = output
        self._call_later = call_later
        self._ended = ended
        self._how = ""
        self._code: int | None = None
        self._grace: IDelayedCall | None = None
        self._graces = PIPE_GRACES
        #: The next lines are handed on in another turn.
        self._busy = False
        #: No more will come; when all is handed on, its end is told.
        self._closed = False

    transport: IProcessTransport

    def connectionMade(self) -> None:
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._output.received(childFD, data)
        if not self._busy:
            self._hand_on()

    def _hand_on(self) -> None:
        was, self._busy = self._busy, self._output.hand_on()
        pipes = cast(IPushProducer, self.transport)
        if self._busy:
            self._call_later(0, self._hand_on)
        if self._closed:
            if not self._busy:
                self._ended(self._how, self._code)
        elif self._busy and not was:
            pipes.pauseProducing()
        elif was and not self._busy:
            pipes.resumeProducing()

    def processExited(self, reason: Failure) -> None:
        self._how = _how_it_ended(reason)
        # None if a signal ended it.
        self._code = getattr(reason.value, "exitCode", None)
        # Most often the pipes close in the same breath; their last words are worth it.
        self._grace = self._call_later(PIPE_GRACE_SEC, self._pipes_stay_open)

    def processEnded(self, reason: Failure) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._close()

    def _pipes_stay_open(self) -> None:
        self._graces -= 1
        if self._busy and self._graces:
            # Its last words may be behind what has come.
            self._grace = self._call_later(PIPE_GRACE_SEC, self._pipes_stay_open)
            return
        self.transport.loseConnection()
        self._close()

    def _close(self) -> None:
        self._grace = None
        self._closed = True
        self._output.closed()
        if not self._busy:
            self._hand_on()


def _how_it_ended(reason: Failure) -> str:
    """Twisted's `ProcessDone` or `ProcessTerminated`, in words."""
    number = getattr(reason.value, "signal", None)
    if number is None:
        return f"exited with status {getattr(reason.value, 'exitCode', None) or 0}"
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"was killed by signal {number}"
