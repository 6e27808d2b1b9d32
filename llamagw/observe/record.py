"""
The record of one request: what is known of it when it has ended.

Filled in at the request's ends, never at its chunks, and told once to those who listen (access log,
counters). No I/O here.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from llamagw.observe.trace import Trace
from llamagw.observe.usage import Usage


class Outcome(str, Enum):
    """How a request ended."""

    OK = "ok"
    #: The client closed its connection before the answer was whole.
    CLIENT_LEFT = "client_left"
    #: The gateway answered with an error of its own.
    REFUSED = "refused"
    #: The backend broke off.
    BACKEND_LOST = "backend_lost"
    #: The gateway's patience ended: in the queue, or for the load.
    TIMEOUT = "timeout"


#: The header of an answer that did not wait.
AT_ONCE = b"Server-Timing: queue;dur=0, load;dur=0\r\n"

#: The outcome of a request that ended with an error of the gateway's, by the error's code.
_OUTCOMES = {
    "backend_lost": Outcome.BACKEND_LOST,
    "queue_timeout": Outcome.TIMEOUT,
    "load_timeout": Outcome.TIMEOUT,
    "request_timeout": Outcome.TIMEOUT,
}


class Record(Struct, kw_only=True, gc=False):
    """
    One request. Times are seconds of the reactor's clock; None for what did not happen.

    :ivar id: as in ``X-Request-Id``
    :ivar path: as received, without the query
    :ivar client: the client's address
    :ivar key: the name of the API key; "" without one
    :ivar asked: the model's name in the request, or the default; None if it asks for no model
    :ivar model: the name of the configured model that answered; "" if none did
    :ivar stream: whether a stream was asked for
    :ivar arrived: when the whole request had arrived; None if it was refused before
    :ivar queued: when it had to wait for its model
    :ivar admitted: when it got its last lease
    :ivar load_sec: seconds of the wait in which its model was loading
    :ivar timing: the header ``Server-Timing`` of its answer
    :ivar connected: when it had a connection to its last backend
    :ivar first: when the first bytes of the answer's body came: the head of a stream comes before
        the engine has read the prompt
    :ivar last: when the answer, or the request without one, had ended
    :ivar tries: to how many backends it was sent
    :ivar status: of the answer; 0 if the client left before one
    :ivar bytes_in: size of the request's body
    :ivar bytes_out: size of the answer's body
    :ivar error: the code of the gateway's own error; "" without one
    :ivar reason: why it failed, in the gateway's words or the engine's; "" if it did not
    :ivar answers: how many were asked for at once, if that is known (`n`)
    :ivar captured: the number of its content in `llamagw.observe.Capture`; 0 if that is not kept
    :ivar trace: its spans; None while none are exported
    """

    id: str
    arrived: float | None
    method: bytes = b""
    path: bytes = b""
    client: str = ""
    key: str = ""
    asked: str | None = None
    model: str = ""
    stream: bool = False
    queued: float | None = None
    admitted: float | None = None
    load_sec: float = 0.0
    timing: bytes = AT_ONCE
    connected: float | None = None
    first: float | None = None
    last: float = 0.0
    tries: int = 0
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    outcome: Outcome = Outcome.OK
    error: str = ""
    reason: str = ""
    usage: Usage | None = None
    answers: int = 1
    captured: int = 0
    trace: Trace | None = None

    @property
    def error_type(self) -> str:
        """How it failed, in one word: the error's code, else the outcome or status; "" if not."""
        if self.error:
            return self.error
        if self.outcome is not Outcome.OK:
            return str(self.outcome.value)
        return str(self.status) if self.status >= 400 else ""

    @property
    def waited(self) -> float:
        """Seconds in the queue of its model; of a request that has ended, or was admitted."""
        if self.queued is None:
            return 0.0
        return (self.last if self.admitted is None else self.admitted) - self.queued

    def was_admitted(self, now: float, run_since: float) -> None:
        """
        Note that it got a lease after it had waited.

        :param now: the time
        :param run_since: when the run of its model began
        """
        assert self.queued is not None, "it has waited"
        waited = now - self.queued
        self.load_sec = min(waited, max(now - run_since, 0.0))
        self.timing = b"Server-Timing: queue;dur=%.1f, load;dur=%.1f\r\n" % (
            waited * 1000,
            self.load_sec * 1000,
        )

    def failed(self, code: str, message: str) -> None:
        """
        Note an error of the gateway's own.

        :param code: the error's
        :param message: the error's
        """
        self.error, self.reason = code, message
        self.outcome = _OUTCOMES.get(code, Outcome.REFUSED)
