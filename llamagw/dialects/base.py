"""
What differs between the APIs of clients: the format of an error, alone and in a stream.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from llamagw.errors import GatewayError


class Left(NamedTuple):
    """
    What is left of a limit.

    :ivar limit: what may be used at most
    :ivar remaining: what may be used now
    :ivar reset: seconds until all of it is left again
    """

    limit: int
    remaining: int
    reset: float


class Dialect(Protocol):
    """An API's format of errors and of limits. The engines' own answers are passed on unchanged."""

    def envelope(self, error: GatewayError, request_id: str = "") -> bytes:
        """
        The JSON body of an answer with an error.

        :param request_id: of the request that it answers; "" if that has none
        """

    def event(self, envelope: bytes) -> bytes:
        """
        A server-sent event with an error.

        :param envelope: from `envelope`
        :return: begins with a blank line, which ends an event that may have been cut off
        """

    def limits(self, requests: Left | None, tokens: Left | None, now: float) -> bytes:
        """
        The headers of an answer that tell what is left of the client's limits.

        :param requests: of its requests a minute; None where they are not limited
        :param tokens: of its tokens
        :param now: seconds since the epoch
        :return: as lines
        """


def as_data(envelope: bytes) -> bytes:
    """The data field of an event, one line for each line of the JSON."""
    return b"data: " + b"\ndata: ".join(envelope.splitlines())


def with_id(request_id: str) -> dict[str, str]:
    """The key of an envelope that names the request, as Anthropic's API has it; none without id."""
    return {"request_id": request_id} if request_id else {}
