"""
The record of one relayed request: what is known of it when it has ended.

Filled in by the relay at the request's ends, never at its chunks, and told once to those who
listen (access log, metrics). No I/O here.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from llamagw.observe.usage import Usage


class Outcome(str, Enum):
    """How a request ended."""

    OK = "ok"
    #: The client closed its connection before the answer was whole.
    CLIENT_LEFT = "client_left"
    #: The gateway answered with an error of its own, before any engine did.
    REFUSED = "refused"
    #: The backend broke off.
    BACKEND_LOST = "backend_lost"
    #: The gateway's patience ended: in the queue, or for the load.
    TIMEOUT = "timeout"


class Record(Struct, kw_only=True):
    """
    One request. Times are seconds of the reactor's clock; 0 for what did not happen.

    :ivar id: of the request, as in ``X-Request-Id``
    :ivar route: the first path of its route, such as ``/v1/chat/completions``
    :ivar dialect: the name of the API of its path
    :ivar client: the client's address
    :ivar asked: the model's name in the request; "" if it named none, or none could be read
    :ivar model: the name of the configured model that it was for; "" if there is none
    :ivar stream: whether a stream was asked for
    :ivar arrived: when the whole request had arrived
    :ivar queued: when it had to wait for its model
    :ivar admitted: when it got its (last) lease
    :ivar connected: when it had a connection to its (last) backend
    :ivar first: when the first bytes of the answer came
    :ivar last: when the answer, or the request without one, had ended
    :ivar tries: to how many backends it was sent
    :ivar status: of the answer; 0 if the client left before one
    :ivar bytes_in: size of the request's body
    :ivar bytes_out: size of the answer's body
    :ivar error: the ``code`` of the gateway's own error; "" without one
    """

    id: str
    method: str
    route: str
    dialect: str
    client: str
    arrived: float
    asked: str = ""
    model: str = ""
    stream: bool = False
    queued: float = 0.0
    admitted: float = 0.0
    connected: float = 0.0
    first: float = 0.0
    last: float = 0.0
    tries: int = 0
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    outcome: Outcome = Outcome.OK
    error: str = ""
    usage: Usage | None = None

    @property
    def waited(self) -> float:
        """Seconds in the queue of its model."""
        return (self.admitted or self.last) - self.queued if self.queued else 0.0

    @property
    def to_first(self) -> float | None:
        """Seconds from its arrival to the first bytes of the answer; None if none came."""
        return self.first - self.arrived if self.first else None

    @property
    def tokens_per_sec(self) -> float | None:
        """
        Generated tokens a second; None if it is not known.

        By the engine's own timing if it tells one, else from the first byte to the last.
        """
        usage = self.usage
        if usage is None or not usage.completion:
            return None
        seconds = usage.completion_sec
        if seconds is None and self.stream and self.first:
            seconds = self.last - self.first
        return usage.completion / seconds if seconds else None
