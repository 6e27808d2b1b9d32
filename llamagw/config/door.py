"""
Who is let in and how, as far as the file says it: ``tls`` and ``forwarded``.

Only what can be checked without other files. Certificates and keys are read by llamagw.net, when
something is to listen with them.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from llamagw.config.addresses import speaks_tls
from llamagw.config.document import Document, show
from llamagw.config.schema import UNIX, ConfigFile, ForwardedEntry, TlsEntry
from llamagw.config.walk import fields, takes


def tls(document: Document, raw: dict[Any, Any], listen_addr: str) -> TlsEntry | None:
    """
    The value of ``tls``, which goes with a ``listen_addr`` that is no ``ssl:`` endpoint.

    :param document: gets the faults
    :param raw: the whole file
    :param listen_addr: its value
    :return: None if there is none, and if it has faults
    """
    given = _mapping(document, raw, "tls")
    if given is None:
        return None
    before = len(document.faults)
    if isinstance(given.get("min_version"), float):
        given = {**given, "min_version": str(given["min_version"])}  # 1.2, without quotes
    for key, value in given.items():
        if isinstance(value, str) and "-----BEGIN" in value:
            # Not shown again: it may be the private key.
            document.fault(
                f"tls.{key}", "is what such a file has in it; write the path of the file"
            )
            return None
    values = fields(document, TlsEntry, given, "tls")
    if speaks_tls(listen_addr):
        document.fault(
            "tls",
            "does not go together with a listen_addr that begins with ssl:, which has a "
            'certificate of its own; write listen_addr: ":8443", or leave tls out',
        )
    return TlsEntry(**values) if len(document.faults) == before else None


def forwarded(document: Document, raw: dict[Any, Any]) -> ForwardedEntry | None:
    """
    The value of ``forwarded``, whose networks are valid, and not everybody.

    :param document: gets the faults
    :param raw: the whole file
    :return: None if there is none, and if it has faults
    """
    given = _mapping(document, raw, "forwarded")
    if given is None:
        return None
    before = len(document.faults)
    values = fields(document, ForwardedEntry, given, "forwarded")
    for number, text in enumerate(values.get("trusted", ())):
        why = _no_network(text)
        if why:
            document.fault(f"forwarded.trusted[{number}]", why)
    return ForwardedEntry(**values) if len(document.faults) == before else None


def _mapping(document: Document, raw: dict[Any, Any], key: str) -> dict[Any, Any] | None:
    given = raw.get(key)
    if given is None or isinstance(given, dict):
        return given
    document.fault(key, f"expected {takes(ConfigFile)[key]}, got {show(given)}")
    return None


def _no_network(text: str) -> str:
    """Why a text is no network that may be trusted; "" if it is one."""
    if text == UNIX:
        return ""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return (
            "expected an address or a network, such as 127.0.0.1, 10.0.0.0/8 or fd00::/8, or "
            f"{UNIX} for those who connect to a unix socket, got {show(text)}"
        )
    if not network.prefixlen:
        return f"{text} is everybody, who could then write any address; name the proxies alone"
    if "/" in text and network.network_address != ipaddress.ip_address(text.partition("/")[0]):
        return f"{text} has bits behind its prefix; write {network}, or the address alone"
    return ""
