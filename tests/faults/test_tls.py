"""A certificate that is renewed, or spoilt, under a gateway that listens with TLS: real ones, over
real sockets, on uvloop's transports and on Twisted's own."""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.faults.support import STOCK, Faulty, plain
from tests.support.authority import Authority
from tests.whole.harness import DEADLINE, wait_until
from tests.whole.test_elsewhere import listens_with_tls


@pytest.fixture(params=[None, STOCK], ids=["uvloop", "stock"])
def reactor(request: pytest.FixtureRequest) -> str | None:
    found: str | None = request.param
    return found


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def gateway(reactor: str | None, authority: Authority) -> Iterator[Faulty]:
    gateway = listens_with_tls(Faulty(plain("m"), reactor=reactor), authority, "localhost")
    assert isinstance(gateway, Faulty)
    try:
        yield gateway
        gateway.stop()
    finally:
        gateway.clean_up()


class Client:
    """A connection that stays open."""

    def __init__(self, gateway: Faulty, authority: Authority) -> None:
        self.context = ssl.create_default_context(cafile=str(authority.path))
        plain = socket.create_connection(("127.0.0.1", gateway.port), DEADLINE)
        self.sock = self.context.wrap_socket(plain, server_hostname="localhost")

    @property
    def serial(self) -> int:
        """Of the certificate that it was shown."""
        der = self.sock.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number

    def asks(self) -> bool:
        self.sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        return self.sock.recv(65536).startswith(b"HTTP/1.1 200")


def serial(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def shown(gateway: Faulty, authority: Authority) -> int:
    return Client(gateway, authority).serial


def refusal(gateway: Faulty) -> str:
    """What the log says of a reload that must have been refused."""
    before = len(gateway.log)
    gateway.hang_up()
    told = gateway.log[before:]
    assert "the configuration was not reloaded; all goes on as before" in told
    assert "Traceback" not in told
    return told


def test_a_renewed_certificate_is_for_new_connections_and_old_ones_live_on(
    gateway: Faulty, authority: Authority
) -> None:
    gateway.start()
    first = serial(authority.path.with_name("ca-localhost.crt"))
    old = Client(gateway, authority)
    assert old.serial == first
    _, cert = authority.issue("localhost")
    assert shown(gateway, authority) == first, "nobody has said that there is another one"
    gateway.hang_up()
    assert shown(gateway, authority) == serial(cert) != first
    assert old.asks()
    assert gateway.chat("m").status == 200
    # At the same address, from other files.
    other = Authority(authority.path.parent, "other")
    key, cert = other.issue("localhost")
    address = f"ssl:{gateway.port}:privateKey={key}:certKey={cert}:interface=127.0.0.1"
    gateway.reload(listen_addr=address)
    assert shown(gateway, other) == serial(cert)
    assert old.asks()


def test_a_certificate_that_is_broken_is_refused_and_the_old_one_goes_on(
    gateway: Faulty, authority: Authority
) -> None:
    gateway.start()
    key, cert = (authority.path.with_name(f"ca-localhost.{kind}") for kind in ("key", "crt"))
    first, good = serial(cert), cert.read_bytes()
    good_key = key.read_bytes()

    cert.write_bytes(good[: len(good) // 2])
    assert f"listen_addr: cannot listen on 'ssl:{gateway.port}:" in refusal(gateway)
    assert f"certKey {cert} has no certificate in it that can be used" in refusal(gateway)
    cert.unlink()
    assert f"certKey {cert} cannot be read: No such file" in refusal(gateway)
    cert.write_bytes(good)
    key.write_bytes(b"nothing of a key")
    assert f"privateKey {key} has no private key in it that can be used" in refusal(gateway)
    other_key, _ = Authority(authority.path.parent, "other").issue("localhost")
    shutil.copy(other_key, key)
    assert f"privateKey {key} is not the key of certKey {cert}" in refusal(gateway)

    assert shown(gateway, authority) == first
    # The same is told at the start, and by --check.
    checked = gateway.run([*gateway.command(), "--check"])
    assert checked.returncode == 1
    assert f"is not the key of certKey {cert}" in checked.stdout
    key.write_bytes(good_key)
    gateway.hang_up()
    assert shown(gateway, authority) == first


def test_a_renewed_chain_is_for_new_connections_and_a_broken_one_is_refused(
    gateway: Faulty, authority: Authority
) -> None:
    """A client that knows the root alone needs what stands between."""
    folder = authority.path.parent
    between = Authority(folder, "between")
    authority._certificate(between._name, between._key, folder / "between.pem", ca=True)
    key, cert = between.issue("localhost")
    chain = folder / "chain.pem"
    shutil.copy(authority.path, chain)  # of no use, and no harm
    gateway.config["listen_addr"] = (
        f"ssl:{gateway.port}:privateKey={key}:certKey={cert}:extraCertChain={chain}"
        ":interface=127.0.0.1"
    )
    gateway.write_config()
    gateway.spawn(gateway.command("-n", "--pidfile="))
    wait_until(lambda: "listening on" in gateway.log, "it listens")
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(gateway, authority)
    shutil.copy(folder / "between.pem", chain)
    gateway.hang_up()
    assert Client(gateway, authority).asks()
    chain.write_bytes(b"-----BEGIN CERTIFICATE-----\nbroken\n-----END CERTIFICATE-----\n")
    assert f"extraCertChain {chain} has no certificate in it that can be used" in refusal(gateway)
    assert Client(gateway, authority).asks()


def in_clear(gateway: Faulty, head: bytes) -> bytes:
    """The whole answer to a request without TLS."""
    with socket.create_connection(("127.0.0.1", gateway.port), DEADLINE) as sock:
        sock.sendall(head)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer


def test_with_the_key_tls_it_is_the_same_and_http_is_answered(
    gateway: Faulty, authority: Authority
) -> None:
    gateway.start()
    old = Client(gateway, authority)
    key, cert = authority.issue("localhost")
    tls = {"cert": str(cert), "key": str(key)}
    gateway.reload(listen_addr=f"127.0.0.1:{gateway.port}", tls=tls)
    assert shown(gateway, authority) == serial(cert) != old.serial
    assert old.asks()

    answer = in_clear(gateway, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"This port speaks https" in answer
    page = b"GET /ui/ HTTP/1.1\r\nHost: localhost:1\r\nAccept: text/html\r\n\r\n"
    assert b"\r\nLocation: https://localhost:1/ui/\r\n" in in_clear(gateway, page)
    assert old.asks()

    key.write_bytes(b"nothing of a key")
    assert f"tls.key: {key} has no private key in it" in refusal(gateway)
    key, cert = authority.issue("localhost")
    gateway.hang_up()
    assert shown(gateway, authority) == serial(cert)
    del gateway.config["tls"]
    gateway.write_config()
    assert "is listened on with TLS; a change of tls there wants a restart" in refusal(gateway)
    assert old.asks()


def test_a_client_needs_a_certificate_where_client_ca_asks_for_one(
    gateway: Faulty, authority: Authority
) -> None:
    key, cert = authority.issue("localhost")
    gateway.config["listen_addr"] = f"127.0.0.1:{gateway.port}"
    gateway.config["tls"] = {
        "cert": str(cert),
        "key": str(key),
        "client_ca": str(authority.path),
        "min_version": 1.3,
    }
    gateway.write_config()
    gateway.spawn(gateway.command("-n", "--pidfile="))
    wait_until(lambda: "listening on" in gateway.log, "it listens")
    assert "TLS with the certificate of localhost, valid until" in gateway.log
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Client(gateway, authority).asks()
    context = ssl.create_default_context(cafile=str(authority.path))
    own_key, own = authority.issue("alice")
    context.load_cert_chain(own, own_key)
    plain = socket.create_connection(("127.0.0.1", gateway.port), DEADLINE)
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        assert sock.version() == "TLSv1.3"
