"""Promises of llamagw.net.address: an address is shown without its key."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from llamagw.net import Address


class AddressTests(SynchronousTestCase):
    def test_its_url_has_the_port_that_is_not_the_scheme_s_own(self) -> None:
        for address, url in (
            (Address("10.0.0.1", 8000), "http://10.0.0.1:8000"),
            (Address("models.example", 443, tls=True, prefix="/api"), "https://models.example/api"),
            (Address("::1", 80), "http://[::1]"),
        ):
            self.assertEqual(address.url, url)

    def test_a_socket_is_shown_by_its_path_and_called_localhost(self) -> None:
        address = Address.of_socket("/run/x.sock", "secret")
        self.assertEqual(repr(address), "<Address unix:/run/x.sock>")
        self.assertEqual((address.shown, address.url), ("unix:/run/x.sock", "http://localhost"))
        self.assertEqual((address.authority, address.api_key), ("localhost", "secret"))
        self.assertEqual(Address("10.0.0.1", 8000).shown, "http://10.0.0.1:8000")

    def test_it_is_shown_without_its_key(self) -> None:
        address = Address("10.0.0.1", 8000, api_key="secret", model="their name")
        self.assertEqual(repr(address), "<Address http://10.0.0.1:8000, 'their name' there>")
        self.assertNotIn("secret", f"{address} {address!r} {[address]}")
