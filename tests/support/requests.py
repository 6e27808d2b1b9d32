"""A request as the readers of llamagw.proxy.call see it, without a connection."""

from __future__ import annotations

from typing import Any

from twisted.web.http import parse_qs
from twisted.web.http_headers import Headers


class _Request:
    """As much of a request as a reader looks at."""

    def __init__(
        self,
        target: str = "/",
        method: str = "POST",
        body: bytes = b"",
        headers: dict[str, list[str]] | None = None,
    ) -> None:
        self.uri, self.method, self.body = target.encode(), method.encode(), body
        self.path, _, query = self.uri.partition(b"?")
        self.args = parse_qs(query, keep_blank_values=1)
        self.requestHeaders = Headers(headers or {})


def fake(*args: Any, **more: Any) -> Any:
    return _Request(*args, **more)
