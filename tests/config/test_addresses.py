"""Promises of addresses: listen_addr in both directions, and the URLs of remote servers."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from llamagw.config import (
    Origin,
    address_url,
    base_url,
    endpoint_string,
    is_loopback,
    origin,
    shown_address,
    speaks_tls,
)
from tests.config.support import GATEWAY, ConfigCase


class ListenAddrTests(ConfigCase):
    def test_addresses_become_endpoint_strings(self) -> None:
        for address, endpoint in [
            (":8000", "tcp:8000:interface=0.0.0.0"),
            ("0.0.0.0:8080", "tcp:8080:interface=0.0.0.0"),
            ("127.0.0.1:8000", "tcp:8000:interface=127.0.0.1"),
            ("[::1]:8000", r"tcp6:8000:interface=\:\:1"),
            ("localhost:8000", "tcp:8000:interface=localhost"),
            ("tcp:8000", "tcp:8000"),
            ("tcp6:8000", "tcp6:8000"),
            ("unix:/run/llamagw.sock", "unix:/run/llamagw.sock"),
            ("tcp:8000:interface=127.0.0.1", "tcp:8000:interface=127.0.0.1"),
        ]:
            self.assertEqual(endpoint_string(address), endpoint)
            self.assertEqual(
                self.load(GATEWAY.format(f"listen_addr: '{address}'")).listen_addr, address
            )

    def test_twisted_understands_what_comes_out(self) -> None:
        for address, port, interface in [
            (":8000", 8000, "0.0.0.0"),
            ("127.0.0.1:8001", 8001, "127.0.0.1"),
            ("[::1]:8002", 8002, "::1"),
        ]:
            endpoint = serverFromString(MemoryReactor(), endpoint_string(address))
            self.assertEqual((endpoint._port, endpoint._interface), (port, interface))

    def test_bad_addresses(self) -> None:
        for address, wrong in [
            ("localhost", "no host and no port"),
            ("8000", "there is no port"),
            ("[::1]", "there is no port"),
            (":", "the port is '', not a number"),
            (":http", "the port is 'http', not a number"),
            (":65536", "port 65536 is above 65535"),
            ("127.0.0.1:99999", "port 99999 is above 65535"),
            ("tcp:70000", "port 70000 is above 65535"),
            ("ssl:70000", "port 70000 is above 65535"),
            ("[zz]:80", "'zz' is not an IPv6 address"),
            ("1.2.3.4.5:80", "'1.2.3.4.5' is neither an IPv4 address nor a host name"),
            ("http://127.0.0.1:8000", "that is a URL"),
            ("unix:", "the path of the socket is missing"),
        ]:
            said = self.fault(GATEWAY.format(f"listen_addr: '{address}'"))
            start = f"config.yaml:2: listen_addr: cannot listen on '{address}': {wrong}; write "
            self.assertTrue(said.startswith(start), said)

    def test_a_port_of_thousands_of_digits(self) -> None:
        said = self.fault(GATEWAY.format(f"listen_addr: ':{'9' * 5000}'"))
        self.assertTrue(said.startswith("config.yaml:2: listen_addr: "))


class ListeningTests(SynchronousTestCase):
    def test_addresses_are_shown_as_a_person_writes_them(self) -> None:
        for address, shown in (
            (IPv4Address("TCP", "0.0.0.0", 8000), "0.0.0.0:8000"),
            (IPv6Address("TCP", "::1", 8000), "[::1]:8000"),
            (UNIXAddress("/run/llamagw.sock"), "/run/llamagw.sock"),
        ):
            self.assertEqual(shown_address(address), shown)

    def test_the_url_is_one_that_a_client_here_can_use(self) -> None:
        cases: list[tuple[Any, bool, str]] = [
            (IPv4Address("TCP", "127.0.0.1", 80), False, "http://127.0.0.1:80"),
            (IPv4Address("TCP", "0.0.0.0", 8000), False, "http://localhost:8000"),
            (IPv6Address("TCP", "::", 8000), False, "http://localhost:8000"),
            (IPv6Address("TCP", "::1", 8000), False, "http://[::1]:8000"),
            (IPv4Address("TCP", "0.0.0.0", 8443), True, "https://localhost:8443"),
            (UNIXAddress("/run/s"), False, "http+unix:///run/s"),
        ]
        for address, tls, url in cases:
            self.assertEqual(base_url(address, tls), url)

    def test_loopback_is_what_only_this_machine_reaches(self) -> None:
        for host, only_here in (("127.0.0.1", True), ("127.8.9.1", True), ("10.0.0.1", False)):
            self.assertEqual(is_loopback(IPv4Address("TCP", host, 80)), only_here, host)
        for host, only_here in (("::1", True), ("::", False), ("fe80::1%eth0", False)):
            self.assertEqual(is_loopback(IPv6Address("TCP", host, 80)), only_here, host)
        self.assertFalse(is_loopback(UNIXAddress("/run/s")))

    def test_tls_is_spoken_where_the_address_says_ssl(self) -> None:
        for listen_addr, tls in ((":8000", False), ("ssl:1", True), (" ssl:1", True), ("s", False)):
            self.assertEqual(speaks_tls(listen_addr), tls, listen_addr)


class OriginTests(SynchronousTestCase):
    def test_a_url_is_taken_apart(self) -> None:
        for url, found in (
            ("http://a", Origin(False, "a", 80, "")),
            ("https://a.b:8443/", Origin(True, "a.b", 8443, "")),
            ("https://a/v1", Origin(True, "a", 443, "")),
            ("http://a:1/api/v1/", Origin(False, "a", 1, "/api")),
            ("http://[::1]:8000/x", Origin(False, "::1", 8000, "/x")),
            ("HTTP://A:80", Origin(False, "a", 80, "")),
        ):
            self.assertEqual(origin(url), found)

    def test_what_is_none_is_told(self) -> None:
        for url in (
            "a", "a:80", "//a", "http://", "http:///x", "http://a:x", "http://a:99999", "http://a:0",
            "http://a b", "http://u:p@a", "http://a?x", "http://a#x", "http://a/ß", "http://[::1",
            "unix:/x", "ws://a",
        ):  # fmt: skip
            self.assertRaises(ValueError, origin, url)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (":8000", "http://localhost:8000"),
        ("0.0.0.0:81", "http://localhost:81"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("gpu-box:8000", "http://gpu-box:8000"),
        ("gpu.lan:8000", "http://gpu.lan:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("[::]:8000", "http://[::1]:8000"),
        ("tcp:8000", "http://localhost:8000"),
        ("tcp:port=8000:interface=10.0.0.1", "http://10.0.0.1:8000"),
        ("tcp6:8000:interface=fe80\\:\\:1", "http://[fe80::1]:8000"),
        ("ssl:8443:privateKey=k.pem:certKey=c.pem", "https://localhost:8443"),
        ("unix:/run/x.sock:mode=660", "unix:/run/x.sock"),
        ("unix:address=/run/a\\:b", "unix:/run/a:b"),
        ("systemd:domain=INET:index=0", None),
    ],
)
def test_a_listen_addr_is_an_url_for_this_machine(address: str, url: str | None) -> None:
    if url is None:
        with pytest.raises(ValueError, match=r"URL|listen"):
            address_url(address)
    else:
        assert address_url(address) == url


def test_with_tls_beside_it_the_url_is_https() -> None:
    assert address_url("gpu-box:8443", tls=True) == "https://gpu-box:8443"
    assert address_url("unix:/run/x", tls=True) == "unix:/run/x"
