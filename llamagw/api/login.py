"""
Logging in to the dashboard, and out: a key becomes a session, whose cookie the browser sends.

Sessions are kept by `llamagw.gate`; from which pages a cookie counts is in `llamagw.proxy`.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from llamagw.errors import BadRequest, Unauthorized
from llamagw.gate import COOKIE, LONGEST_SEC, Gate, token_of
from llamagw.proxy import Request

#: What says that a cookie is for this site's own requests, and that no script may read it.
_GUARDS = b"Path=/; HttpOnly; SameSite=Strict"


class _Login(Struct):
    """The body of ``POST /ui/login``."""

    key: str


async def log_in(request: Request, clock: IReactorTime) -> bytes:
    """
    Begin a session, if the key in the body is valid; its cookie goes with the answer.

    :param clock: by which the answer to a wrong key is late
    :return: the body, for Klein to write
    :raises NotAllowed: if a page of another origin asks
    :raises BadRequest: if the body has no key, or there are no keys
    :raises Unauthorized: if the key is not valid
    """
    request.guard_own()
    gate = _gate(request)
    if gate is None:
        raise BadRequest("This server has no API keys: nobody needs to log in.")
    try:
        key = msgspec.json.decode(request.body, type=_Login).key.strip()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest('The body must be a JSON object such as {"key": "lgw_…"}.') from None
    try:
        token = gate.log_in(key.encode(errors="surrogatepass"))
    except Unauthorized as error:
        await deferLater(clock, request.wrong_key(gate))
        raise error
    # Who logs in anew gives up the session that the browser had.
    _forget(request, gate)
    return _with_cookie(request, token, int(LONGEST_SEC))


def log_out(request: Request) -> bytes:
    """
    End the request's session, if it has one.

    :return: the body, for Klein to write
    """
    request.guard_own()
    gate = _gate(request)
    if gate is not None and request.session is not None:
        _forget(request, gate)
    return _with_cookie(request, b"", 0)


def told(request: Request) -> bytes:
    """
    Who the caller is, and what it may do.

    :return: the body, for Klein to write
    """
    request.guard_own()
    caller, session = request.caller, request.session
    answer = {
        "name": caller.name or None,
        "scopes": sorted(scope.name.lower() for scope in caller.scopes),
        "models": caller.models,
        "csrf": None if session is None else session.csrf,
    }
    return request.prepare(200, msgspec.json.encode(answer), [(b"Cache-Control", b"no-store")])


def _gate(request: Request) -> Gate | None:
    return request.channel.connections.gate


def _forget(request: Request, gate: Gate) -> None:
    token = token_of(request.given)
    if token is not None:
        gate.sessions.end(token)


def _with_cookie(request: Request, token: bytes, seconds: int) -> bytes:
    """
    Answer with the session's cookie alone.

    :param seconds: for which the browser keeps it
    """
    # A browser that spoke TLS to a reverse proxy in between says so by its page's origin.
    origins = request.given.get(b"Origin", ())
    secure = request.isSecure() or any(one.lower().startswith(b"https://") for one in origins)
    cookie = b"%b=%b; Max-Age=%d; %b" % (COOKIE, token, seconds, _GUARDS)
    headers = [
        (b"Set-Cookie", cookie + (b"; Secure" if secure else b"")),
        (b"Cache-Control", b"no-store"),
    ]
    return request.prepare(204, b"", headers)
