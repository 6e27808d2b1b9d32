"""
OpenAI's API (https://platform.openai.com/docs/guides/error-codes), and llama-server's own.
"""

from __future__ import annotations

from math import ceil

import msgspec

from llamagw.dialects.base import Left, as_data, with_id
from llamagw.errors import GatewayError


class OpenAI:
    """OpenAI's API; see `llamagw.dialects.Dialect`."""

    def __repr__(self) -> str:
        return "<OpenAI>"

    def envelope(self, error: GatewayError, request_id: str = "") -> bytes:
        inside = {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
        return msgspec.json.encode({"error": inside, **with_id(request_id)})

    def event(self, envelope: bytes) -> bytes:
        return b"\n\n%b\n\n" % as_data(envelope)

    def limits(self, requests: Left | None, tokens: Left | None, now: float) -> bytes:
        # https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
        lines = b""
        for kind, left in ((b"requests", requests), (b"tokens", tokens)):
            if left is not None:
                lines += (
                    b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\n"
                    b"x-ratelimit-reset-%b: %b\r\n"
                ) % (kind, left.limit, kind, left.remaining, kind, duration(left.reset))
        return lines


def duration(seconds: float) -> bytes:
    """
    A time as OpenAI's headers have it, such as ``120ms``, ``1s``, ``6m0s`` or ``1h0m5s``.

    :param seconds: 0 or more; rounded up, since a retry that is early would be in vain
    """
    if seconds < 1:
        return b"%dms" % ceil(seconds * 1000)
    minutes, rest = divmod(ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = b"%ds" % rest
    if minutes or hours:
        text = b"%dm" % minutes + text
    return b"%dh" % hours + text if hours else text


OPENAI = OpenAI()
