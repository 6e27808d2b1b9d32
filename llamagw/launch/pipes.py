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

#: Seconds that the pipes of an ended process may stay open (a child of its own may hold them)
#: before the end is reported anyway.
PIPE_GRACE_SEC = 0.2

#: How often that time may be prolonged while received output is still being handled.
PIPE_GRACES = 25


class EngineProtocol(ProcessProtocol):
    """
    One process, from spawn to end.

    While lines wait to be handled, its pipes are not read.

    :param output: gets what it prints
    :param call_later: the reactor's ``callLater``
    :param ended: called once, with how it ended, in words, and its exit status (None if a signal
        ended it); at most some `PIPE_GRACE_SEC` after the process has ended, even if a child of its
        own still holds the pipes open
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
        #: More lines wait for the next turn of the reactor.
        self._busy = False
        #: The pipes are closed or given up; when all lines are handled, the end is reported.
        self._closed = False

    transport: IProcessTransport

    def connectionMade(self) -> None:
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._output.received(childFD, data)
        if not self._busy:
            self._pass_on()

    def _pass_on(self) -> None:
        was, self._busy = self._busy, self._output.pass_on()
        pipes = cast(IPushProducer, self.transport)
        if self._busy:
            self._call_later(0, self._pass_on)
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
        # The pipes usually close at once; the last lines say why it ended, so wait for them.
        self._grace = self._call_later(PIPE_GRACE_SEC, self._pipes_stay_open)

    def processEnded(self, reason: Failure) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._close()

    def _pipes_stay_open(self) -> None:
        self._graces -= 1
        if self._busy and self._graces:
            # The last lines may be queued behind these.
            self._grace = self._call_later(PIPE_GRACE_SEC, self._pipes_stay_open)
            return
        self.transport.loseConnection()
        self._close()

    def _close(self) -> None:
        self._grace = None
        self._closed = True
        self._output.closed()
        if not self._busy:
            self._pass_on()


def _how_it_ended(reason: Failure) -> str:
    """How a process ended, in words, from Twisted's `ProcessDone` or `ProcessTerminated`."""
    number = getattr(reason.value, "signal", None)
    if number is None:
        return f"exited with status {getattr(reason.value, 'exitCode', None) or 0}"
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"was killed by signal {number}"
