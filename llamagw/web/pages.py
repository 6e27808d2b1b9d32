"""
Answers with the dashboard's files and with the offer to load a model; and who wants a page.

The pages load nothing but the files of this package, have no script in their HTML, and are of no
use to another origin (`llamagw.proxy.origins` guards what their scripts ask for).
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from llamagw import __version__
from llamagw.dialects import ANY, OWN, ROUTES
from llamagw.errors import SHOWN, PathNotFound
from llamagw.proxy import Request
from llamagw.text import harmless

#: Bytes of an Accept header that are looked at; browsers send some 150.
MOST_ACCEPT = 1000

#: The files of the pages, by the folder of their address: ``/web/`` and ``/ui/``.
_WEB = Path(__file__).parent
_UI = _WEB / "ui"

_HTML = b"text/html; charset=utf-8"
_KINDS = {
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}

#: What a page may load: only files of this origin. Nothing may frame it.
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'"
)

_HEADERS = (
    (b"Content-Security-Policy", POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)


def wanted(request: Request) -> bool:
    """
    Whether a request is a browser's for a page: a GET that prefers HTML to JSON.

    Programs that accept anything (``*/*``, or no Accept at all) do not.
    """
    if request.method not in (b"GET", b"HEAD"):
        return False
    accept = b",".join(request.requestHeaders.getRawHeaders(b"accept", []))[:MOST_ACCEPT]
    weights = dict(map(_weight, accept.split(b",")))
    html = weights.get(b"text/html", 0.0)
    json = weights.get(b"application/json")
    if json is not None:
        return html > json
    return html > 0 and html >= max(weights.get(b"application/*", 0.0), weights.get(b"*/*", 0.0))


def _weight(part: bytes) -> tuple[bytes, float]:
    """The media type of a part of an Accept header, and its weight."""
    kind, *parameters = part.lower().split(b";")
    weight = 1.0
    for parameter in parameters:
        found = re.fullmatch(rb"\s*q=([01](?:\.\d{0,3})?)\s*", parameter)
        if found is not None:
            weight = float(found[1])
    return kind.strip(), weight


def moved(request: Request, where: bytes) -> bytes:
    """
    Answer with a redirect.

    :param where: relative, so that it holds below a prefix that a reverse proxy adds
    :return: the body, for Klein to write
    """
    request.setResponseCode(302)
    request.responseHeaders.setRawHeaders(b"Location", [where])
    return _send(request, b"", _HTML, b"no-store")


def dashboard(request: Request, name: str = "") -> bytes:
    """
    Answer with the dashboard, or with a file that it loads.

    :param name: of the file; "" for the page
    :return: the body, for Klein to write
    :raises PathNotFound: if there is none of this name
    """
    body, kind = (_page(), _HTML) if name == "" else _file(_UI, name)
    # Asked for each time, and so of one version; sent only if it is another than the browser has.
    tag = _tag(body)
    request.responseHeaders.setRawHeaders(b"ETag", [tag])
    if tag in request.requestHeaders.getRawHeaders(b"if-none-match", []):
        request.setResponseCode(304)
        body = b""
    return _send(request, body, kind, b"no-cache")


def offer(request: Request, model: str) -> bytes:
    """
    Answer with the offer to load a model; status 409, as for other clients.

    :param request: for a path of the engine's
    :param model: the configured name
    :return: the body, for Klein to write
    """
    request.setResponseCode(409)
    # Relative, so that the page works below a prefix that a reverse proxy adds.
    root = "../" * (request.path.count(b"/") - 1)
    page = Template(_read(_WEB, "offer.html").decode()).substitute(root=root, model=escape(model))
    return _send(request, page.encode(), _HTML, b"no-store")


def asset(request: Request, name: str) -> bytes:
    """
    Answer with a file that the offer loads, or the icon.

    :return: the body, for Klein to write
    :raises PathNotFound: if there is none of this name
    """
    return _send(request, *_file(_WEB, name), b"no-store")


def _send(request: Request, body: bytes, kind: bytes, kept: bytes) -> bytes:
    """
    Set the headers of an answer.

    :param kept: the value of ``Cache-Control``
    :return: the body
    """
    request.open_to_all = False
    for name, value in _HEADERS:
        request.responseHeaders.setRawHeaders(name, [value])
    if kind is _HTML:
        request.responseHeaders.addRawHeader(b"Vary", b"Accept")
    request.responseHeaders.setRawHeaders(b"Cache-Control", [kept])
    request.responseHeaders.setRawHeaders(b"Content-Type", [kind])
    if request.code != 304:
        request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
    return body


def _file(folder: Path, name: str) -> tuple[bytes, bytes]:
    """
    The content of a file, and its media type.

    :raises PathNotFound: if there is none of this name
    """
    kind = _KINDS.get(Path(name).suffix)
    if kind is None or name not in _names(folder):
        raise PathNotFound(f"There is no file {harmless(name, SHOWN)} here.")
    return _read(folder, name), kind


@cache
def _names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir())


@cache
def _read(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


@cache
def _tag(body: bytes) -> bytes:
    return b'"%s"' % hashlib.sha256(body).hexdigest()[:16].encode()


@cache
def _page() -> bytes:
    page = Template(_read(_UI, "index.html").decode())
    return page.substitute(version=escape(__version__), endpoints=_endpoints()).encode()


def _endpoints() -> str:
    """The rows of the table of endpoints."""
    told: list[tuple[str, tuple[str, ...], str]] = [
        *((own.method, (own.path,), own.what) for own in OWN),
        *(
            ("any" if route.methods is ANY else ", ".join(route.methods), route.paths, route.what)
            for route in ROUTES
        ),
    ]
    return "\n".join(
        f"<tr><td>{method}<td>{'<br>'.join(map(_code, paths))}<td>{_marked(what)}"
        for method, paths, what in told
    )


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _marked(text: str) -> str:
    """Text as HTML, what is between backticks as code."""
    parts = text.split("`")
    return "".join(
        _code(part) if number % 2 else escape(part, quote=False)
        for number, part in enumerate(parts)
    )
