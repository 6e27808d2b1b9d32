"""
Makes the endpoint for a backend's address: TCP, or a UNIX socket, or TLS with the certificate
verified.

TLS is Twisted's (pyOpenSSL, and service-identity for the host's name), over the endpoints of
endpoints.py. It is imported when the first address needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint

from llamagw.config import Config
from llamagw.net.address import Address
from llamagw.net.endpoints import client_endpoint, unix_client_endpoint

#: Timeout for an attempt to connect, in seconds.
CONNECT_SEC = 10.0

#: Makes the endpoint for an address.
Connect = Callable[[Address], IStreamClientEndpoint]


def has_tls() -> bool:
    """Whether this process can speak TLS; tap.py keeps OpenSSL from being imported if unused."""
    return sys.modules.get("OpenSSL", True) is not None


class Connector:
    """
    A `Connect`: TCP or a UNIX socket for plain addresses, verified TLS for the others.

    :param reactor: connects
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        #: By host and CA file: reading the system's certificates takes longer than connecting.
        self._tls: dict[tuple[str, str | None], IOpenSSLClientConnectionCreator] = {}

    def __call__(self, address: Address) -> IStreamClientEndpoint:
        """
        The endpoint for an address; an attempt takes at most `CONNECT_SEC`.

        :raises ConnectError: when its ``ca_file`` cannot be used
        """
        if address.socket is not None:
            return unix_client_endpoint(self._reactor, address.socket, CONNECT_SEC)
        endpoint = client_endpoint(self._reactor, address.host, address.port, CONNECT_SEC)
        if not address.tls:
            return endpoint
        from twisted.internet.endpoints import wrapClientTLS

        key = address.host, address.ca_file
        if key not in self._tls:
            self._tls[key] = _verifying(*key)
        return wrapClientTLS(self._tls[key], endpoint)

    def apply(self, config: Config) -> None:
        """A configuration was loaded: read certificate files again when they are next needed."""
        self._tls.clear()


def _verifying(host: str, ca_file: str | None) -> IOpenSSLClientConnectionCreator:
    from twisted.internet.ssl import (
        Certificate,
        optionsForClientTLS,
        platformTrust,
        trustRootFromCertificates,
    )

    if ca_file is None:
        return optionsForClientTLS(host, platformTrust())
    end = "-----END CERTIFICATE-----"
    try:
        with open(ca_file) as file:
            pems = [part[part.index("-----BEGIN") :] + end for part in file.read().split(end)[:-1]]
        trusted = trustRootFromCertificates([Certificate.loadPEM(pem.encode()) for pem in pems])
    except Exception as error:
        raise ConnectError(string=f"ca_file {ca_file} cannot be used: {error}") from error
    return optionsForClientTLS(host, trusted)
