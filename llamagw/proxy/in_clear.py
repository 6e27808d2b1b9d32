"""
What answers a client who speaks HTTP where TLS is spoken.

It reads one head, under the limits of all connections, and serves nothing.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from twisted.web.http_headers import Headers

from llamagw.errors import WantsHttps
from llamagw.proxy.channel import Channel

#: The host of a request, as a browser sends it; nothing else is sent back.
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")

#: What stays as it is in the target of a request: what a URL may have.
_SAFE = "!#$%&'()*+,/:;=?@[]~"


class InClear(Channel):
    """One connection whose requests all get `WantsHttps`: as a browser's page, a redirection."""

    def allHeadersReceived(self) -> None:
        method, target = self.request_line
        headers = self.requests[-1].requestHeaders
        self.refuse(WantsHttps(_location(method, target, headers)))

    def malformed(self) -> None:
        self.refuse(WantsHttps())


def _location(method: bytes, target: bytes, headers: Headers) -> str | None:
    """Where a browser finds by https what it has asked for; None for another client."""
    accepted = b",".join(headers.getRawHeaders(b"accept", ()))
    hosts = headers.getRawHeaders(b"host", ())
    if method not in (b"GET", b"HEAD") or b"text/html" not in accepted or len(hosts) != 1:
        return None
    if target[:1] != b"/" or not _HOST.fullmatch(hosts[0]):
        return None
    return f"https://{hosts[0].decode()}{quote(target, safe=_SAFE)}"
