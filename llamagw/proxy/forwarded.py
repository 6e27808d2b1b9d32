"""
Who the client is behind reverse proxies that are believed: by ``X-Forwarded-For`` or ``Forwarded``.

The address of the connection is all that is known for sure. What a proxy has written is taken only
from a trusted one, and from the right: each proxy adds at the end, so whatever a client has written
itself stands before that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from llamagw.config import UNIX, ForwardedEntry

#: Characters from the end of the header, and proxies in it, that are looked at.
_LONGEST, _MOST = 4096, 32

_X_FORWARDED_FOR, _FORWARDED = b"X-Forwarded-For", b"Forwarded"

#: An element of ``Forwarded`` (RFC 7239, 4), and the ``for`` in it. None has an escaped character,
#: and each quote its end: so no part of a quoted text, in which a comma stands, is taken for one.
_PAIR = r'[!#-\'*+.^_`|~0-9A-Za-z-]+=(?:"[^"\\]*"|[^\s;,"\\]+)'
_ELEMENT = re.compile(rf"\s*{_PAIR}(?:\s*;\s*{_PAIR})*\s*;?\s*")
_FOR = re.compile(r'(?:^|;)\s*for=(?:"([^"]*)"|([^\s;"]+))', re.IGNORECASE)

#: An address, with the port that it may have.
_NODE = re.compile(r"\[([0-9A-Fa-f:.]{2,45})\](?::\d{1,5})?|([0-9.]{7,15}):\d{1,5}|(\S{2,45})")


class Forwarded:
    """
    Which proxies are believed.

    :param entry: the value of ``forwarded:``
    """

    def __init__(self, entry: ForwardedEntry) -> None:
        self._unix = UNIX in entry.trusted
        self._networks = [ip_network(text) for text in entry.trusted if text != UNIX]
        self._names = [_X_FORWARDED_FOR, _FORWARDED]
        if entry.header is not None:
            self._names = [name for name in self._names if name.decode().lower() == entry.header]

    def __repr__(self) -> str:
        return f"<Forwarded by {len(self._networks)} networks{' and unix' * self._unix}>"

    def client(self, peer: str, given: Mapping[bytes, list[bytes]]) -> str:
        """
        The address of a request's client.

        :param peer: that of the connection; `llamagw.config.UNIX` for a unix socket
        :param given: the values of the request's headers, by name
        :return: the last one that no trusted proxy has; that of the connection where none is told
        """
        known = _address(peer)
        if not (self._unix if known is None else self._trusts(known)):
            return peer
        client = peer
        for node in self._told(given):
            address = _address(node)
            if address is None:
                # Who it was is not known, and what stands before was written by nobody trusted.
                break
            client = str(address)
            if not self._trusts(address):
                break
        return client

    def _trusts(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)

    def _told(self, given: Mapping[bytes, list[bytes]]) -> Iterator[str]:
        """Whom the header names, the last one first; "" for what is no address."""
        for name in self._names:
            if name not in given:
                continue
            text = b",".join(given[name]).decode("latin-1")
            if len(text) > _LONGEST:
                # The first of those that are left may have lost its beginning.
                text = text[-_LONGEST:].partition(",")[2]
            for element in reversed(text.split(",")[-_MOST:]):
                yield element.strip() if name == _X_FORWARDED_FOR else _named(element)
            return


def _named(element: str) -> str:
    """The node in an element of ``Forwarded``; "" without one."""
    found = _FOR.search(element) if _ELEMENT.fullmatch(element) else None
    return "" if found is None else found[1] or found[2] or ""


def _address(node: str) -> IPv4Address | IPv6Address | None:
    """An address, with a port or without; None for anything else."""
    found = _NODE.fullmatch(node)
    if found is None:
        return None
    try:
        address = ip_address((found[1] or found[2] or found[3]).partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
