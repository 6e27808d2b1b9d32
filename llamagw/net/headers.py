"""
Which headers are passed on: not hop-by-hop headers, nor those that affect more than the answer.
"""

from __future__ import annotations

from collections.abc import Iterable

from llamagw.config import CORS_NAMES, HOP_BY_HOP

Headers = Iterable[tuple[bytes, bytes]]

#: Headers that ``Connection`` must not name (RFC 9110, 7.6.1: they are meant for all recipients).
#: Without them the length or the meaning of an answer would change, so they are passed on even if
#: it does.
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

#: Headers of an answer that affect the client's browser beyond that answer, or a proxy on the way.
#: They are dropped unless the model has them in ``pass_headers``; so are headers that begin with
#: `_CROSS_ORIGIN`.
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
    The headers without the hop-by-hop ones.

    :param headers: as received
    :param without: further names to leave out, in lower case
    :return: each as its name in lower case and its line, including CR LF
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
    The headers of a backend's answer that are passed on to the client.

    :param headers: as received
    :param passed: ``pass_headers`` of the model, in lower case
    :return: as `end_to_end`
    """
    return [
        one
        for one in end_to_end(headers, CORS_NAMES)
        if one[0] in passed or not (one[0] in _ACTING or one[0].startswith(_CROSS_ORIGIN))
    ]
