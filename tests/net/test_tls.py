"""Promises of llamagw.net.tls: any endpoint speaks TLS, with the latest certificate; who does not
is answered in clear; a client's certificate is told. In memory; over sockets in test_endpoints.py.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from llamagw.config import TlsEntry
from llamagw.net import PeerNames, TlsEndpoint, peer_names, read_tls
from tests.support.authority import Authority
from tests.support.tls import TlsClient
from tests.support.wire import Wire


class Echo(Protocol):
    """Answers what it hears."""

    transport: Any

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self.lost = 0

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def pauseProducing(self) -> None: ...

    def resumeProducing(self) -> None: ...

    def stopProducing(self) -> None: ...

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(self.mark + data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost += 1


class Secret(Factory):
    """Builds Echoes."""

    noisy = False

    def __init__(self) -> None:
        self.built: list[Echo] = []

    def buildProtocol(self, addr: object) -> Echo:
        self.built.append(Echo(b"secret "))
        return self.built[-1]


class Both(Secret):
    """Answers in clear as well."""

    def __init__(self) -> None:
        super().__init__()
        self.clear: list[Echo] = []

    def in_clear(self, addr: object) -> Echo:
        self.clear.append(Echo(b"clear "))
        return self.clear[-1]


class Listens:
    """An endpoint that keeps the factory."""

    def listen(self, factory: Any) -> Deferred[Any]:
        self.factory = factory
        return succeed(None)


class Server:
    """A `TlsEndpoint` on which nobody listens really."""

    def __init__(self, files: TlsEntry, factory: Any) -> None:
        tls = read_tls(":8443", files)
        assert tls is not None
        self.clock = Clock()
        listens: Any = Listens()
        self.endpoint = TlsEndpoint(self.clock, listens, tls)
        self.endpoint.listen(factory)
        self.listens = listens

    def connect(self) -> Wire:
        wire = Wire(self.clock)
        wire.attach(self.listens.factory.buildProtocol(wire.getPeer()))
        return wire


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def entry(authority: Authority) -> Callable[..., TlsEntry]:
    def issue(**more: Any) -> TlsEntry:
        key, cert = authority.issue("localhost")
        return TlsEntry(cert=str(cert), key=str(key), **more)

    return issue


def serial(client: TlsClient) -> int:
    return x509.load_der_x509_certificate(client.certificate()).serial_number


def test_a_client_is_served_and_no_read_but_the_first_is_looked_at(
    authority: Authority, entry: Callable[..., TlsEntry]
) -> None:
    server = Server(entry(), Both())
    wire = server.connect()
    client = TlsClient(wire, authority.path)
    assert "dataReceived" in vars(wire.protocol)
    client.shake_hands()
    assert "dataReceived" not in vars(wire.protocol)
    client.says(b"hello")
    assert client.hears() == b"secret hello"


def test_a_renewed_certificate_is_for_new_connections(
    authority: Authority, entry: Callable[..., TlsEntry]
) -> None:
    server = Server(entry(), Both())
    old = TlsClient(server.connect(), authority.path)
    old.shake_hands()
    renewed = read_tls(":8443", entry())
    assert renewed is not None
    assert server.endpoint.renew(renewed)
    new = TlsClient(server.connect(), authority.path)
    new.shake_hands()
    assert serial(new) != serial(old)
    old.says(b"still")
    assert old.hears() == b"secret still"
    elsewhere = read_tls(":8444", entry())
    assert elsewhere is not None
    assert not server.endpoint.renew(elsewhere)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"\n", b"\x80\x2e\x01"])
def test_who_does_not_speak_tls_is_answered_in_clear(
    entry: Callable[..., TlsEntry], first: bytes
) -> None:
    factory = Both()
    wire = Server(entry(), factory).connect()
    wire.says(first)
    wire.says(b"more")
    assert bytes(wire.heard) == b"clear " + first + b"clear more"
    [secret], [clear] = factory.built, factory.clear
    assert (secret.lost, clear.lost) == (1, 0)
    assert wire.producer is clear
    wire.hangs_up()
    assert (secret.lost, clear.lost) == (1, 1)


def test_who_leaves_without_a_byte_is_lost_once(entry: Callable[..., TlsEntry]) -> None:
    factory = Both()
    wire = Server(entry(), factory).connect()
    wire.hangs_up()
    assert (factory.built[0].lost, factory.clear) == (1, [])


def test_a_factory_that_has_no_answer_in_clear_ends_the_connection(
    entry: Callable[..., TlsEntry],
) -> None:
    factory = Secret()
    wire = Server(entry(), factory).connect()
    wire.says(b"GET / HTTP/1.1\r\n\r\n")
    assert b"HTTP" not in wire.heard
    assert wire.ended is not None


def test_min_version_is_the_oldest_that_is_spoken(
    authority: Authority, entry: Callable[..., TlsEntry]
) -> None:
    for oldest, newest, served in (
        ("1.2", ssl.TLSVersion.TLSv1_2, True),
        ("1.3", ssl.TLSVersion.TLSv1_3, True),
        ("1.3", ssl.TLSVersion.TLSv1_2, False),
    ):
        server = Server(entry(min_version=oldest), Both())
        client = TlsClient(server.connect(), authority.path, newest=newest)
        if served:
            client.shake_hands()
            assert client.ssl.version() == f"TLSv{newest.name[-3:].replace('_', '.')}"
        else:
            with pytest.raises(ssl.SSLError):
                client.shake_hands()


def test_a_client_must_show_a_certificate_of_the_authority(
    authority: Authority, entry: Callable[..., TlsEntry]
) -> None:
    factory = Both()
    server = Server(entry(client_ca=str(authority.path)), factory)
    own = authority.issue("alice", "alice.lan", "10.1.2.3")
    wire = server.connect()
    client = TlsClient(wire, authority.path, own=own)
    client.shake_hands()
    client.says(b"hello")
    assert client.hears() == b"secret hello"
    names = PeerNames("alice", ("alice", "alice.lan", "10.1.2.3"))
    assert peer_names(factory.built[0].transport) == names
    stranger = Authority(authority.path.parent, "stranger").issue("alice")
    for shown in (None, stranger):
        refused = TlsClient(server.connect(), authority.path, own=shown)
        refused.shake_hands()  # with TLS 1.3 the refusal comes after it
        with pytest.raises(ssl.SSLError):
            refused.hears()


def test_without_a_certificate_and_without_tls_there_are_no_names(
    authority: Authority, entry: Callable[..., TlsEntry]
) -> None:
    factory = Both()
    wire = Server(entry(), factory).connect()
    TlsClient(wire, authority.path).shake_hands()
    assert peer_names(factory.built[0].transport) is None
    assert peer_names(wire) is None
