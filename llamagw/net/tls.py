"""
Listening with TLS: reading the files of an `ssl:` address, and renewing the certificate.

The files are read before anything listens, so that an error names its file. Certificates of
backends are verified in connect.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet import endpoints
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from llamagw.config import cannot_listen, endpoint_string


class Tls(NamedTuple):
    """
    A parsed `ssl:` address, with the contents of its files.

    :ivar interface: IP address to listen on; empty for all
    :ivar backlog: how many connections may wait to be accepted
    :ivar options: Twisted's CertificateOptions: private key, certificate and chain
    """

    interface: str
    port: int
    backlog: int
    options: Any

    @property
    def where(self) -> tuple[str, int]:
        """Interface and port."""
        return self.interface, self.port


def read_tls(description: str) -> Tls | None:
    """
    Parse an `ssl:` address, read its files, and check that they can be used.

    Needs no reactor and has no side effects, so it may run in a thread.

    :param description: anything that `llamagw.config.endpoint_string` takes
    :return: None for an address that is not `ssl:`
    :raises ValueError: if it cannot be used; the message names the file
    """
    text = endpoint_string(description)
    if not text.startswith("ssl:"):
        return None
    read: list[Tls] = []
    try:
        endpoints.serverFromString(_Reads(), text).listen(None).addCallback(read.append)
        read[0].options.getContext()  # OpenSSL checks them only here
    except Exception as exc:  # TypeError for an unknown option, OSError, OpenSSL's own
        why = _fault_of_tls_files(text) or str(exc) or type(exc).__name__
        raise cannot_listen(description, why) from exc
    return read[0]


class _Reads:
    """A reactor for Twisted's parser of `ssl:` strings that returns what was parsed."""

    def listenSSL(
        self, port: int, factory: None, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> Tls:
        return Tls(interface, port, backlog, contextFactory)


#: The names of positional values in an `ssl:` string, in order.
_SSL_VALUES = ("kind", "port", "privateKey", "certKey", "sslmethod", "interface")
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def _fault_of_tls_files(text: str) -> str | None:
    """A message about the first file of an `ssl:` string that cannot be used; None if all can."""
    from OpenSSL.crypto import FILETYPE_PEM
    from twisted.internet.ssl import Certificate, KeyPair

    files = {"privateKey": "server.pem"}
    for number, part in enumerate(re.split(r"(?<!\\):", text)):
        name, named, value = part.partition("=")
        if not named and number < len(_SSL_VALUES):
            name, value = _SSL_VALUES[number], part
        files[name] = re.sub(r"\\(.)", r"\1", value)
    files.setdefault("certKey", files["privateKey"])

    def chain(content: bytes) -> None:
        for pem in _PEM.findall(content) or [content]:
            Certificate.loadPEM(pem)

    loads: dict[str, Callable[[bytes], Any]] = {
        "privateKey": lambda content: KeyPair.load(content, FILETYPE_PEM),
        "certKey": Certificate.loadPEM,
        "extraCertChain": chain,
    }
    loaded = {}
    for name in filter(files.__contains__, loads):
        try:
            with open(files[name], "rb") as file:
                content = file.read()
        except OSError as error:
            return f"{name} {files[name]} cannot be read: {error.strerror}"
        try:
            loaded[name] = loads[name](content)
        except Exception:  # cryptography, pyOpenSSL and Twisted each have their own
            what = "private key" if name == "privateKey" else "certificate"
            return f"{name} {files[name]} has no {what} in it that can be used (PEM is expected)"
    if not loaded["privateKey"].matches(loaded["certKey"].getPublicKey()):
        return f"privateKey {files['privateKey']} is not the key of certKey {files['certKey']}"
    return None


@implementer(IStreamServerEndpoint)
class TlsEndpoint:
    """
    Listens with TLS; the certificate can be renewed.

    :param reactor: listens
    :param tls: from `read_tls`
    """

    def __init__(self, reactor: Any, tls: Tls) -> None:
        self._reactor = reactor
        self._tls = tls
        self._factory: _TlsFactory | None = None

    def __repr__(self) -> str:
        return f"<TlsEndpoint on {self._tls.where}>"

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Bind and listen at once.

        :return: has fired already, with the port or with CannotListenError
        """
        tls = self._tls
        self._factory = _TlsFactory(self._reactor, protocolFactory, tls)
        listen = self._reactor.listenTCP
        listening: Deferred[IListeningPort] = execute(
            listen, tls.port, self._factory, tls.backlog, tls.interface
        )
        return listening

    def renew(self, tls: Tls) -> bool:
        """
        Use another certificate for new connections; established ones are not affected.

        :return: whether it is in use; False if `tls` is for another address
        """
        if self._factory is None or tls.where != self._tls.where:
            return False
        self._factory.renew(tls)
        return True


@implementer(IProtocolFactory)
class _TlsFactory:
    """Makes each connection's protocol with the latest certificate."""

    def __init__(self, reactor: Any, factory: IProtocolFactory, tls: Tls) -> None:
        self._reactor = reactor
        self._factory = factory
        self.renew(tls)

    def renew(self, tls: Tls) -> None:
        from twisted.protocols.tls import TLSMemoryBIOFactory  # needs pyOpenSSL

        self._now = TLSMemoryBIOFactory(tls.options, False, self._factory, clock=self._reactor)

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        return self._now.buildProtocol(addr)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()
