"""
Which requests of web pages are answered: CORS headers, and refusals.

A browser sends a page's origin with its requests. Requests that use a model, or list the models,
are open to the origins of ``cors_origins``. All others (`llamagw.dialects.Scope`) are open to the
gateway's own pages and to origins that are listed by name only: a POST of plain text needs no
preflight, so that CORS alone would not prevent a page from unloading a model.

To its browser, a page whose host name resolves to the gateway's address (DNS rebinding) has the
gateway's own origin; if the gateway listens on loopback only, the ``Host`` header reveals it.
Programs other than browsers send none of these headers, and are not restricted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from urllib.parse import unquote_to_bytes

from twisted.web.http_headers import Headers

from llamagw.config import ANY_ORIGIN, LOCALHOST
from llamagw.errors import NotAllowed
from llamagw.text import harmless

Pairs = Sequence[tuple[bytes, bytes]]

_EXPOSE = (b"Access-Control-Expose-Headers", b"*")
_OPEN: Pairs = ((b"Access-Control-Allow-Origin", b"*"), _EXPOSE)
_VARY = (b"Vary", b"Origin")


class Origins:
    """
    The origins of ``cors_origins``.

    :param listed: origins such as ``https://chat.example``; ``*`` for any, ``localhost`` for any
        loopback origin
    :ivar lines: the CORS headers of an answer that is open to all, to a request without ``Origin``
    """

    def __init__(self, listed: Iterable[str]) -> None:
        listed = [origin.lower() for origin in listed]
        self._any = ANY_ORIGIN in listed
        self._localhost = LOCALHOST in listed
        self._named = {o.encode() for o in listed if o not in (ANY_ORIGIN, LOCALHOST)}
        self._hosts = {_host_of(_authority(origin)) for origin in self._named}
        self.lines = as_lines(self.headers(None, open_to_all=True))

    def __repr__(self) -> str:
        listed = [*self._named, *([b"localhost"] if self._localhost else [])]
        return f"<Origins {[b'*', *listed] if self._any else listed}>"

    def named(self, origin: bytes) -> bool:
        """Whether an origin is listed, other than by ``*``."""
        origin = origin.lower()
        if origin in self._named:
            return True
        return self._localhost and _is_loopback(_host_of(_authority(origin)))

    def headers(self, origin: bytes | None, open_to_all: bool) -> Pairs:
        """
        The CORS headers of an answer.

        :param origin: the request's header ``Origin``; None without one
        :param open_to_all: whether ``*`` counts
        """
        varies = (_VARY,) if self._named or self._localhost else ()
        if origin is not None and varies and self.named(origin):
            return (
                (b"Access-Control-Allow-Origin", origin),
                (b"Access-Control-Allow-Credentials", b"true"),
                # Without `_EXPOSE`: its wildcard has no meaning with credentials.
                *varies,
            )
        return (*_OPEN, *varies) if self._any and open_to_all else varies

    def check(self, headers: Headers, loopback: bool) -> None:
        """
        Check a request that is not open to all.

        :param headers: the request's
        :param loopback: whether the gateway listens on loopback addresses only
        :raises NotAllowed: if it was sent by a web page that must not send it
        """
        host = self._own_host(headers, loopback)
        origin = _only(headers, b"origin")
        if origin is None:
            # The request for an image or a script, or a form's GET, has no Origin.
            site, mode = _only(headers, b"sec-fetch-site"), _only(headers, b"sec-fetch-mode")
            kind = _only(headers, b"sec-fetch-dest")
            embedded = mode != b"navigate" or kind not in (None, b"document")
            if site in (b"cross-site", b"same-site") and embedded:
                raise NotAllowed(
                    "A web page of another origin may not ask this; list that origin in "
                    "cors_origins if it may."
                )
        elif not self.named(origin) and not _same(origin, host):
            shown = harmless(origin.decode("latin-1"), 100)
            raise NotAllowed(
                f"A web page of `{shown}` may not ask this: that is not this server's own origin, "
                "and cors_origins does not list it by name (`*` does not count here)."
            )

    def check_own(self, headers: Headers, loopback: bool) -> None:
        """
        Check a request that only the gateway's own pages may send; ``cors_origins`` does not count.

        :param headers: the request's
        :param loopback: whether the gateway listens on loopback addresses only
        :raises NotAllowed: if another page has sent it
        """
        host = self._own_host(headers, loopback)
        origin, site = _only(headers, b"origin"), _only(headers, b"sec-fetch-site")
        # Browsers tell the site to https: and localhost only, and no origin with most GETs.
        opened = site == b"none" and _only(headers, b"sec-fetch-mode") == b"navigate"
        foreign = site not in (None, b"same-origin") and not opened
        if foreign or (origin is not None and not _same(origin, host)):
            shown = harmless((origin or b"another origin").decode("latin-1"), 100)
            raise NotAllowed(
                f"A web page of `{shown}` may not use a session of the dashboard, which is for the "
                "gateway's own pages alone. (A reverse proxy has to pass on the header Host.)"
            )

    def _own_host(self, headers: Headers, loopback: bool) -> bytes | None:
        """
        The host of a request.

        :return: None if it names none
        :raises NotAllowed: if it is another's, as far as that is seen
        """
        host = _only(headers, b"host")
        if loopback and host and not self._is_ours(host):
            shown = harmless(_host_of(host).decode("latin-1"), 100)
            raise NotAllowed(
                f"The host `{shown}` is not this server's, which listens on a loopback address: a "
                "web page may have been made to lead here. If it is meant (a reverse proxy under "
                f"that name), list its origin, such as https://{shown}, in cors_origins."
            )
        return host

    def _is_ours(self, host: bytes) -> bool:
        name = _host_of(host)
        return _is_loopback(name) or name in self._hosts


def decoded_path(target: bytes) -> str:
    """
    The decoded path of a request, as the resource tree reads it, for `llamagw.dialects.scope_of`.

    :param target: path and query, as received
    """
    before = target.partition(b"?")[0]
    path = (unquote_to_bytes(before) if b"%" in before else before).decode("latin-1")
    # Werkzeug takes any number of slashes at the beginning for one.
    return "/" + path.lstrip("/") if path.startswith("//") else path


def joined(values: Sequence[bytes] | None) -> bytes | None:
    """A header's value; several are joined, and so are neither an origin nor a host."""
    return b", ".join(values) if values else None


def as_lines(pairs: Pairs) -> bytes:
    """Headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % pair for pair in pairs])


def _only(headers: Headers, name: bytes) -> bytes | None:
    return joined(headers.getRawHeaders(name))


def _authority(origin: bytes) -> bytes:
    return origin.partition(b"://")[2]


def _same(origin: bytes, host: bytes | None) -> bool:
    """Whether an origin is that of the request's host, with http or https."""
    scheme, _, authority = origin.lower().partition(b"://")
    port = {b"http": b":80", b"https": b":443"}.get(scheme)
    if host is None or port is None or not authority:
        return False
    return authority.removesuffix(port) == host.lower().removesuffix(port)


def _host_of(authority: bytes) -> bytes:
    """An authority's host in lower case, without port, brackets and final dot."""
    if authority.startswith(b"["):
        return authority[1:].partition(b"]")[0].lower()
    return authority.partition(b":")[0].lower().removesuffix(b".")


def _is_loopback(host: bytes) -> bool:
    if host == b"localhost" or host.endswith(b".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode("latin-1")).is_loopback
    except ValueError:
        return False
