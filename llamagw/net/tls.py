"""
Listening with TLS: over any endpoint, with a certificate that can be renewed, and with an answer
for those who do not speak it.

What it is spoken with is read in certificates.py. A connection's first byte says whether the client
speaks TLS; no later read is looked at.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from llamagw.net.certificates import Tls, alternative_names, common_names

#: The first byte of a handshake (RFC 8446, 5.1: ContentType.handshake), and so of all that a client
#: sends who speaks TLS.
_HANDSHAKE = b"\x16"

#: How many names of a client's certificate are taken, and of how many characters.
_NAMES, _NAME = 100, 256


@implementer(IStreamServerEndpoint)
class TlsEndpoint:
    """
    Listens with TLS; the certificate can be renewed.

    A factory that has a method ``in_clear``, which builds a protocol for an address, gets those
    clients with it that send something else than TLS.

    :param reactor: for TLS's own timers
    :param endpoint: listens, without TLS
    :param tls: from `llamagw.net.read_tls`
    """

    def __init__(self, reactor: Any, endpoint: IStreamServerEndpoint, tls: Tls) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._tls = tls
        self._factory: _TlsFactory | None = None

    def __repr__(self) -> str:
        return f"<TlsEndpoint on {self._tls.where}>"

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Bind and listen at once.

        :return: has fired already, with the port or with CannotListenError
        """
        self._factory = _TlsFactory(self._reactor, protocolFactory, self._tls)
        listening: Deferred[IListeningPort] = self._endpoint.listen(self._factory)
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
        self._in_clear = getattr(factory, "in_clear", None)
        self.renew(tls)

    def renew(self, tls: Tls) -> None:
        from twisted.protocols.tls import TLSMemoryBIOFactory  # needs pyOpenSSL

        self._now = TLSMemoryBIOFactory(tls.options, False, self._factory, clock=self._reactor)

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        protocol: Any = self._now.buildProtocol(addr)
        if protocol is not None and self._in_clear is not None:
            # In front of the class's own until the first read, which takes it away.
            protocol.dataReceived = partial(self._first_read, protocol, addr)
        return protocol  # type: ignore[no-any-return]

    def _first_read(self, protocol: Any, addr: IAddress, data: bytes) -> None:
        del protocol.dataReceived
        if data[:1] == _HANDSHAKE:
            protocol.dataReceived(data)
        else:
            self._answer_in_clear(protocol, addr, data)

    def _answer_in_clear(self, protocol: Any, addr: IAddress, data: bytes) -> None:
        """
        Have another protocol answer a client who does not speak TLS.

        The transport, which may be a wrapper of another one, goes on calling the first.
        """
        from twisted.protocols.policies import ProtocolWrapper

        transport = protocol.transport
        transport.unregisterProducer()
        # Not TLS's own, which would close the transport.
        ProtocolWrapper.connectionLost(protocol, Failure(ConnectionDone()))
        assert self._in_clear is not None
        answers = self._in_clear(addr)
        protocol.dataReceived = answers.dataReceived
        protocol.connectionLost = answers.connectionLost
        answers.makeConnection(transport)
        answers.dataReceived(data)

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()


class PeerNames(NamedTuple):
    """
    Whom a client's certificate is for, as an authority of ``tls.client_ca`` has signed it.

    :ivar common_name: that of its subject; "" if it has none
    :ivar alternative: its alternative names: DNS names, e-mail addresses, URIs, IP addresses
    """

    common_name: str
    alternative: tuple[str, ...]


def peer_names(transport: Any) -> PeerNames | None:
    """
    The names in the certificate that a client has shown.

    They are the same as long as the connection lasts; to take them out costs some 50 µs.

    :param transport: that of the connection, once its first request arrives
    :return: None without TLS, and without a certificate; a name of over 256 characters is left out,
        as are those after the first 100
    """
    ask = getattr(transport, "getPeerCertificate", None)
    shown = None if ask is None else ask()
    if shown is None:
        return None
    certificate = shown.to_cryptography()
    common = [name for name in common_names(certificate)[:1] if len(name) <= _NAME]
    names = alternative_names(certificate)
    return PeerNames("".join(common), tuple(name for name in names[:_NAMES] if len(name) <= _NAME))
