"""
OpenAI's API (https://platform.openai.com/docs/guides/error-codes), and llama-server's own.
"""

from __future__ import annotations

import msgspec

from llamagw.dialects.base import as_data, with_id
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


OPENAI = OpenAI()
