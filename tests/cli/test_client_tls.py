"""Promises of the commands towards a gateway that speaks TLS: whom they trust, what they show."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from llamagw.cli.client import CLIENT_CERT, Client, Failed, _reason, configured_client
from tests.support.authority import Authority


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}')

    def log_message(self, *_: object) -> None: ...


class Server(http.server.ThreadingHTTPServer):
    """Speaks TLS, for a host that is not the one it is asked at."""

    def __init__(self, authority: Authority, clients: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        key, cert = authority.issue("llm.example")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
        if clients:
            context.load_verify_locations(str(authority.path))
            context.verify_mode = ssl.CERT_REQUIRED
        self.cert = cert
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_: object) -> None: ...

    def client(self, cert: Path) -> Client:
        values = {
            "listen_addr": f"127.0.0.1:{self.server_address[1]}",
            "tls": {"cert": cert.name, "key": "secret"},
        }
        path = cert.parent / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        return configured_client(str(path))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=[False, True], ids=["anybody", "clients"])
def server(authority: Authority, request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(authority, request.param)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("server", [False], indirect=True)
def test_the_certificate_that_the_configuration_names_is_trusted_and_no_other(
    server: Server, authority: Authority, tmp_path: Path
) -> None:
    assert server.client(server.cert).health() == {"status": "ok"}
    # Nor is one that the same authority has signed, which the file may name after its own.
    _, other = authority.issue("other")
    chain = tmp_path / "chain.pem"
    chain.write_bytes(other.read_bytes() + authority.path.read_bytes())
    with pytest.raises(Failed, match="its certificate is not trusted"):
        server.client(chain).health()
    # Without the file it is verified as any other.
    with pytest.raises(Failed, match="its certificate is not trusted"):
        server.client(tmp_path / "gone.pem").health()


def test_a_gateway_that_asks_for_a_certificate_is_told_by_what_names_one() -> None:
    refused = ssl.SSLError(1, "[SSL: …] tlsv13 alert certificate required")
    refused.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"  # as OpenSSL says it
    assert _reason(refused).startswith(f"it asks for a client's certificate ({CLIENT_CERT} names")


@pytest.mark.parametrize("server", [True], indirect=True)
def test_a_client_certificate_is_shown_if_the_environment_names_one(
    server: Server, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Failed):
        server.client(server.cert).health()
    key, cert = authority.issue("alice")
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    monkeypatch.setenv(CLIENT_CERT, str(both))
    assert server.client(server.cert).health() == {"status": "ok"}
    for path, why in ((cert, "it has no certificate and key"), ("gone", "No such file")):
        monkeypatch.setenv(CLIENT_CERT, str(path))
        with pytest.raises(Failed, match=why):
            server.client(server.cert).health()
