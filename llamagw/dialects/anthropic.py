"""
Anthropic's Messages API (https://docs.anthropic.com/en/api/errors).
"""

from __future__ import annotations

from datetime import datetime, timezone
from math import ceil

import msgspec

from llamagw.dialects.base import Left, as_data, with_id
from llamagw.errors import GatewayError

#: ``error.type`` by status. Other statuses are an ``invalid_request_error`` below 500, else an
#: ``api_error``.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Anthropic:
    """Anthropic's API; see `llamagw.dialects.Dialect`."""

    def __repr__(self) -> str:
        return "<Anthropic>"

    def envelope(self, error: GatewayError, request_id: str = "") -> bytes:
        other = "invalid_request_error" if error.status < 500 else "api_error"
        kind = _TYPES.get(error.status, other)
        inside = {"type": kind, "message": error.message}
        return msgspec.json.encode({"type": "error", "error": inside, **with_id(request_id)})

    def event(self, envelope: bytes) -> bytes:
        return b"\n\nevent: error\n%b\n\n" % as_data(envelope)

    def limits(self, requests: Left | None, tokens: Left | None, now: float) -> bytes:
        # https://docs.anthropic.com/en/api/rate-limits#response-headers
        lines = b""
        for kind, left in ((b"requests", requests), (b"tokens", tokens)):
            if left is not None:
                when = datetime.fromtimestamp(ceil(now + left.reset), timezone.utc)
                begin = b"anthropic-ratelimit-%b-" % kind
                lines += b"%blimit: %d\r\n%bremaining: %d\r\n%breset: %b\r\n" % (
                    *(begin, left.limit, begin, left.remaining, begin),
                    when.strftime("%Y-%m-%dT%H:%M:%SZ").encode(),
                )
        return lines


ANTHROPIC = Anthropic()
