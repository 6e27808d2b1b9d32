"""
Headers that are the gateway's affair: those of one hop, which are never passed on, and CORS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Headers = Iterable[tuple[bytes, bytes]]

#: Meant for one connection only (RFC 9110, 7.6.1, and what came before it); lower case.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: On every answer, so that a page from anywhere can use the gateway. It takes no cookies, so no
#: origin gains a right by it that it would not have without a browser.
CORS = ((b"Access-Control-Allow-Origin", b"*"), (b"Access-Control-Expose-Headers", b"*"))


def end_to_end(headers: Headers, without: frozenset[bytes] = frozenset()) -> Iterator[bytes]:
    """
    The lines, ready to be sent, of the headers that are passed on.

    :param without: more names to leave out, in lower case
    """
    pairs = [(name, value, name.lower()) for name, value in headers]
    dropped = HOP_BY_HOP | without
    for _, value, lower in pairs:
        if lower == b"connection" and value.lower() not in (b"close", b"keep-alive"):
            dropped = dropped.union(token.strip().lower() for token in value.split(b","))
    for name, value, lower in pairs:
        if lower not in dropped:
            yield b"%b: %b\r\n" % (name, value)
