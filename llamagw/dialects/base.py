"""
What differs between the APIs that clients speak: how an error looks, and how it ends a stream.
"""

from __future__ import annotations

from typing import Protocol

from llamagw.errors import GatewayError


class Dialect(Protocol):
    """An API, as far as the gateway itself speaks it. What engines answer passes unchanged."""

    def envelope(self, error: GatewayError) -> bytes:
        """
        An error as JSON.

        :return: the body of an answer with the error's status
        """

    def event(self, envelope: bytes) -> bytes:
        """
        An envelope as a server-sent event.

        :return: the event; the blank line before it ends one that may have been cut in two
        """


def as_data(envelope: bytes) -> bytes:
    """The lines of an event's data."""
    return b"data: " + b"\ndata: ".join(envelope.splitlines())
