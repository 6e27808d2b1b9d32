"""
The stream endpoints that a reactor gets: uvloop's where it runs on uvloop, else Twisted's own.

Protocols work the same on both. The reactor is installed by tap.py and passed in; the addresses
come from the configuration.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from twisted.internet import endpoints
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IStreamClientEndpoint, IStreamServerEndpoint

from llamagw.config import cannot_listen, endpoint_string
from llamagw.net.certificates import Tls
from llamagw.net.connecting import UvloopClientEndpoint
from llamagw.net.listening import BACKLOG, UvloopServerEndpoint
from llamagw.net.tls import TlsEndpoint


def _uvloop_of(reactor: Any) -> asyncio.AbstractEventLoop | None:
    # AsyncioSelectorReactor has no public name for its loop; this is the only use of the private.
    loop = getattr(reactor, "_asyncioEventloop", None)
    try:
        from uvloop import Loop
    except ImportError:
        return None
    return cast(asyncio.AbstractEventLoop, loop) if isinstance(loop, Loop) else None


def uses_uvloop(reactor: Any) -> bool:
    """Whether this reactor runs on uvloop, and so gets uvloop's endpoints."""
    return _uvloop_of(reactor) is not None


def server_endpoint(
    reactor: Any, description: str, tls: Tls | None = None
) -> IStreamServerEndpoint:
    """
    The endpoint for an address to listen on.

    Whether the address is in use is not checked here: then `listen` fails with CannotListenError.

    :param description: anything that `llamagw.config.endpoint_string` takes
    :param tls: what `llamagw.net.read_tls` has read for it
    :raises ValueError: if the description is invalid; the message shows valid ones
    """
    text = endpoint_string(description) if tls is None else tls.where
    if text != description.strip():  # a short form; Twisted's default backlog is 50
        text += f":backlog={BACKLOG}"
    loop = _uvloop_of(reactor)
    try:
        if loop is None:
            plain = cast(IStreamServerEndpoint, endpoints.serverFromString(reactor, text))
        else:
            plain = UvloopServerEndpoint(reactor, loop, text)
        return plain if tls is None else TlsEndpoint(reactor, plain, tls)
    except Exception as exc:  # ValueError, TypeError for an unknown option
        raise cannot_listen(description, str(exc) or type(exc).__name__) from exc


def client_endpoint(
    reactor: Any, host: str, port: int, timeout: float = 10
) -> IStreamClientEndpoint:
    """
    The endpoint for connecting to a TCP server.

    :param host: an IP address or a name
    :param timeout: seconds for the whole attempt, including the look-up of the name
    """
    loop = _uvloop_of(reactor)
    if loop is not None:
        return UvloopClientEndpoint(loop, (host, port), timeout)
    if isIPAddress(host):
        return endpoints.TCP4ClientEndpoint(reactor, host, port, timeout)
    if isIPv6Address(host):
        return endpoints.TCP6ClientEndpoint(reactor, host, port, timeout)
    return endpoints.HostnameEndpoint(reactor, host, port, timeout)


def unix_client_endpoint(reactor: Any, path: str, timeout: float = 10) -> IStreamClientEndpoint:
    """
    The endpoint for connecting to a UNIX socket.

    :param path: of the socket file
    :param timeout: seconds for the whole attempt
    """
    loop = _uvloop_of(reactor)
    if loop is not None:
        return UvloopClientEndpoint(loop, path, timeout)
    return endpoints.UNIXClientEndpoint(reactor, path, timeout)
