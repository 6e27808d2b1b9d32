"""
Addresses as text: ``listen_addr``, the URL of a gateway, the URL of a remote server.

A ``listen_addr`` is translated to the endpoint string that Twisted listens on, and to the URL for a
client on this machine; an address that Twisted has bound is translated back to text. Nothing is
resolved, opened or bound here.
"""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    # At run time a tenth of a second, for the `llamagw` command too, which has no use for it.
    from twisted.internet.interfaces import IAddress

#: Hosts in a ``listen_addr`` that mean all addresses of the machine.
_EVERYWHERE = ("", "0.0.0.0", "::")


# A ``listen_addr``.


def endpoint_string(address: str) -> str:
    """
    Translate a ``listen_addr`` for Twisted.

    :param address: ``:8000``, ``127.0.0.1:8000``, ``[::1]:8000`` and ``localhost:8000`` are
        translated; an endpoint string (``tcp:…``, ``unix:/path``, ``ssl:…``, or a plugin's) is
        taken as it is
    :return: a Twisted server endpoint string
    :raises ValueError: when it is invalid; the message says what would be right
    """
    text = address.strip()
    kind, colon, rest = text.partition(":")
    if "://" in text:
        raise cannot_listen(address, "that is a URL")
    if kind in ("tcp", "tcp6", "ssl"):
        first = rest.partition(":")[0].removeprefix("port=")
        if "=" not in first:
            _port(address, first)
    elif kind == "unix":
        if not rest.partition(":")[0].removeprefix("address="):
            raise cannot_listen(address, "the path of the socket is missing")
    elif text.startswith("[") or not kind or kind == "localhost" or "." in kind or rest.isdigit():
        short = re.fullmatch(
            r"\[(?P<six>.*)\]:(?P<sixport>.*)|(?P<host>[^:\[\]]*):(?P<port>.*)", text
        )
        if short is None:
            raise cannot_listen(address, "there is no port" if colon else "no host and no port")
        if short["six"] is not None:
            if not _is_ip(short["six"].partition("%")[0], 6):
                raise cannot_listen(address, f"{short['six']!r} is not an IPv6 address")
            interface = short["six"].replace(":", "\\:")
            return f"tcp6:{_port(address, short['sixport'])}:interface={interface}"
        host = short["host"] or "0.0.0.0"
        if not (_is_ip(host, 4) or re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9.-]+", host)):
            raise cannot_listen(address, f"{host!r} is neither an IPv4 address nor a host name")
        return f"tcp:{_port(address, short['port'])}:interface={host}"
    elif not rest:
        raise cannot_listen(address, "there is no port")
    return text


def cannot_listen(address: str, why: str) -> ValueError:
    """
    The error for a ``listen_addr`` that cannot be used, with examples of valid ones.

    :param address: as configured
    :param why: what is wrong with it, as a clause
    :return: to be raised
    """
    return ValueError(
        f"cannot listen on {address!r}: {why}; write ':8000', '127.0.0.1:8000', '[::1]:8000', "
        "'unix:/path/to/socket' or another Twisted server endpoint string"
    )


def speaks_tls(address: str) -> bool:
    """
    Whether it is an ``ssl:`` endpoint; the key ``tls`` is not looked at.

    :param address: the ``listen_addr``
    """
    return address.strip().startswith("ssl:")


def address_url(address: str, tls: bool = False) -> str:
    """
    The URL of a gateway on this machine, from its configuration alone.

    :param address: the ``listen_addr``
    :param tls: whether there is a ``tls:`` beside it
    :return: such as ``http://localhost:8000``, or ``unix:/path`` for a socket
    :raises ValueError: when it is invalid, or no URL can express it
    """
    kind, *parts = _split(endpoint_string(address))
    options = dict(part.split("=", 1) for part in parts if "=" in part)
    first = next((part for part in parts if "=" not in part), "")
    if kind == "unix":
        return f"unix:{options.get('address', first)}"
    if kind not in ("tcp", "tcp6", "ssl"):
        raise ValueError(f"no URL for {address!r}")
    host, port = options.get("interface", ""), options.get("port", first)
    if host in _EVERYWHERE:
        # Not localhost for IPv6: a client might resolve that to IPv4 only.
        host = "::1" if kind == "tcp6" else "localhost"
    return f"{_scheme(tls or speaks_tls(address))}://{_joined(host, port)}"


def _port(address: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise cannot_listen(address, f"the port is {text!r}, not a number")
    if len(text) > 5 or int(text) > 65535:
        raise cannot_listen(address, f"port {text} is above 65535")
    return int(text)


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _split(endpoint: str) -> list[str]:
    """Split an endpoint string at its colons; a backslash escapes the next character."""
    parts, rest = [""], iter(endpoint)
    for character in rest:
        if character == ":":
            parts.append("")
        else:
            parts[-1] += next(rest, "") if character == "\\" else character
    return parts


def _scheme(tls: bool) -> str:
    return "https" if tls else "http"


def _joined(host: str, port: object) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# What is listened on.


def shown_address(bound: IAddress) -> str:
    """
    A bound address as text.

    :param bound: the address of an ``IListeningPort``
    :return: ``127.0.0.1:8000``, ``[::1]:8000``, or the path of a socket
    """
    host = _host(bound)
    if host is not None:
        return _joined(host, getattr(bound, "port", ""))
    return os.fsdecode(getattr(bound, "name", str(bound)))


def is_loopback(bound: IAddress) -> bool:
    """
    Whether only programs on this machine (web browsers included) can connect to an address.

    :param bound: the address of an ``IListeningPort``
    """
    host = _host(bound)
    return host is not None and ipaddress.ip_address(host.partition("%")[0]).is_loopback


def base_url(bound: IAddress, tls: bool) -> str:
    """
    The URL under which a client on this machine reaches the gateway.

    :param bound: the address of its ``IListeningPort``
    :param tls: whether clients connect with TLS
    :return: such as ``http://localhost:8000``
    """
    scheme, host = _scheme(tls), _host(bound)
    if host is None and hasattr(bound, "name"):
        return f"{scheme}+unix://{shown_address(bound)}"
    if host in _EVERYWHERE:
        return f"{scheme}://localhost:{getattr(bound, 'port', '')}"
    return f"{scheme}://{shown_address(bound)}"


def _host(bound: IAddress) -> str | None:
    """The IP address; None for an address without one, such as a unix socket."""
    host = getattr(bound, "host", None)
    return host if isinstance(host, str) else None


# A remote server.


class Origin(NamedTuple):
    """
    The parts of a remote server's URL.

    :ivar tls: whether the scheme is https
    :ivar host: a name or an IP address; an IPv6 address without brackets
    :ivar port: the default of the scheme if the URL has none
    :ivar prefix: to be put before each path; without a slash at its end
    """

    tls: bool
    host: str
    port: int
    prefix: str


def origin(url: str) -> Origin:
    """
    Parse the URL of a remote server.

    :param url: with scheme http or https; a ``/v1`` at its end, as clients write it, is dropped
    :raises ValueError: when it is invalid; the message says what would be right
    """
    example = 'write one such as "http://10.0.0.5:8000" or "https://models.example/api"'
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL: {error}; {example}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} begins with neither http:// nor https://; {example}")
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9._:%-]+", parts.hostname):
        raise ValueError(f"{url!r} names no host; {example}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{url!r} has more than a host and a path; {example} (api_key: has a key)")
    if re.search(r"[^!-~]", parts.path):
        raise ValueError(f"the path of {url!r} has characters that need %-encoding")
    if port == 0:
        raise ValueError(f"{url!r} has the port 0; {example}")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Origin(tls, parts.hostname, port or (443 if tls else 80), prefix)
