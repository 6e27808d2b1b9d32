"""
Headers that are not passed on: those of one hop, and those that act on more than the answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from llamagw.config import CORS_NAMES, HOP_BY_HOP

Headers = Iterable[tuple[bytes, bytes]]

#: What ``Connection`` cannot take away (RFC 9110, 7.6.1 forbids it to name what is meant for all
#: recipients): without these, an answer would have another end or meaning.
_FOR_ALL = frozenset(
    {
        b"cache-control",
        b"content-disposition",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"date",
        b"host",
        b"location",
        b"retry-after",
        b"vary",
    }
)

#: Headers of an answer that act on the client's browser beyond that answer, or on a proxy between:
#: a backend's are dropped unless its model has them in ``pass_headers``. So is all that begins
#: with `_CROSS_ORIGIN`.
_ACTING = frozenset(
    {
        # kept by the browser for this host
        b"accept-ch",
        b"alt-svc",
        b"clear-site-data",
        b"critical-ch",
        b"expect-ct",
        b"nel",
        b"origin-agent-cluster",
        b"public-key-pins",
        b"public-key-pins-report-only",
        b"refresh",
        b"report-to",
        b"reporting-endpoints",
        b"service-worker-allowed",
        b"set-cookie",
        b"set-cookie2",
        b"set-login",
        b"strict-transport-security",
        b"timing-allow-origin",
        # heeded by nginx, Apache, lighttpd and CDNs
        b"cdn-cache-control",
        b"surrogate-control",
        b"x-accel-charset",
        b"x-accel-expires",
        b"x-accel-limit-rate",
        b"x-accel-redirect",
        b"x-lighttpd-send-file",
        b"x-reproxy-url",
        b"x-sendfile",
    }
)
_CROSS_ORIGIN = b"access-control-"


def end_to_end(
    headers: Headers, without: frozenset[bytes] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """
    The headers that are passed on, each as its name in lower case and its line, ready to be sent.

    :param without: more names to leave out, in lower case
    """
    dropped = HOP_BY_HOP | without
    nominated: set[bytes] = set()
    passed = []
    for name, value in headers:
        lower = name.lower()
        if lower == b"connection" and value.lower() not in (b"close", b"keep-alive"):
            nominated.update([token.strip().lower() for token in value.split(b",")])
        elif lower not in dropped:
            passed.append((lower, b"%b: %b\r\n" % (name, value)))
    if nominated:
        nominated -= _FOR_ALL
        passed = [one for one in passed if one[0] not in nominated]
    return passed


def of_answer(headers: Headers, passed: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """
    The headers of a backend's answer that are passed on to the client, as `end_to_end` gives them.

    :param passed: names, in lower case, of headers that are passed though they act on more than
        this answer
    """
    return [
        one
        for one in end_to_end(headers, CORS_NAMES)
        if one[0] in passed or not (one[0] in _ACTING or one[0].startswith(_CROSS_ORIGIN))
    ]
