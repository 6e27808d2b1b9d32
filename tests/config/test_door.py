"""Promises of the keys `tls` and `forwarded`: what is right is resolved, what is not is told."""

from __future__ import annotations

from llamagw.config import ForwardedEntry, TlsEntry
from llamagw.config.secrets import unmasked
from tests.config.support import GATEWAY, ConfigCase

PAIR = "tls: {cert: c.pem, key: k.pem}"


class TlsTests(ConfigCase):
    def test_paths_are_those_of_the_folder_and_the_rest_has_defaults(self) -> None:
        config = self.load(GATEWAY.format(PAIR))
        cert, key = (str(self.folder / name) for name in ("c.pem", "k.pem"))
        self.assertEqual(config.tls, TlsEntry(cert=cert, key=key))
        assert config.tls is not None
        self.assertEqual((config.tls.client_ca, config.tls.min_version), (None, "1.2"))
        self.assertEqual((config.serves_tls, config.uses_tls), (True, True))

    def test_without_it_there_is_no_tls(self) -> None:
        for text in ("", "tls: null"):
            config = self.load(GATEWAY.format(text))
            self.assertEqual((config.tls, config.serves_tls, config.uses_tls), (None, False, False))

    def test_a_version_needs_no_quotes(self) -> None:
        for text in ("1.3", "'1.3'", '"1.3"'):
            config = self.load(
                GATEWAY.format(f"tls: {{cert: a, key: b, client_ca: /c, min_version: {text}}}")
            )
            assert config.tls is not None
            self.assertEqual((config.tls.min_version, config.tls.client_ca), ("1.3", "/c"))

    def test_what_is_wrong_is_told_with_its_place(self) -> None:
        for text, said in (
            (
                "tls: c.pem",
                'tls: expected keys such as {cert: cert.pem, key: key.pem}, got "c.pem"',
            ),
            ("tls: {cert: c.pem}", "tls.key: is missing; the path of a file is needed"),
            (
                "tls: {cert: c, key: k, min_version: 1.1}",
                'tls.min_version: expected "1.2" or "1.3", got "1.1"',
            ),
            (
                "tls: {cert: c, key: k, ca: x}",
                "tls.ca: unknown key; known are cert, key, client_ca, min_version",
            ),
        ):
            self.assertEqual(self.fault(GATEWAY.format(text)), f"config.yaml:2: {said}")

    def test_an_ssl_endpoint_has_a_certificate_of_its_own(self) -> None:
        said = self.fault(GATEWAY.format(PAIR + "\nlisten_addr: ssl:8443:privateKey=k.pem"))
        self.assertIn("config.yaml:2: tls: does not go together with a listen_addr that beg", said)

    def test_a_key_that_stands_where_its_path_should_is_not_shown(self) -> None:
        pem = "-----BEGIN PRIVATE KEY-----\\nsk-1\\n-----END PRIVATE KEY-----"
        said = self.fault(GATEWAY.format(f'tls: {{cert: c.pem, key: "{pem}"}}'))
        self.assertIn("tls.key: is what such a file has in it; write the path of the file", said)
        self.assertNotIn("sk-1", said)

    def test_a_path_that_was_masked_is_the_old_one(self) -> None:
        old = self.load(GATEWAY.format(PAIR))
        new = self.load(GATEWAY.format("tls: {cert: new.pem, key: '***'}"))
        found = unmasked(new, old).tls
        assert found is not None
        self.assertEqual(found.key, str(self.folder / "k.pem"))
        self.assertEqual(found.cert, str(self.folder / "new.pem"))


class ForwardedTests(ConfigCase):
    def test_networks_addresses_and_unix_sockets_are_taken(self) -> None:
        config = self.load(
            GATEWAY.format("forwarded: {trusted: [127.0.0.1, 10.0.0.0/8, 'fd00::/8', unix]}")
        )
        trusted = ["127.0.0.1", "10.0.0.0/8", "fd00::/8", "unix"]
        self.assertEqual(config.forwarded, ForwardedEntry(trusted=trusted))
        self.assertIsNone(self.load(GATEWAY.format("forwarded: null")).forwarded)

    def test_what_is_wrong_is_told_with_its_place(self) -> None:
        for text, said in (
            ("[127.0.0.1]", "forwarded: expected keys such as"),
            ("{}", "forwarded.trusted: is missing; a list of networks"),
            ("{trusted: []}", "forwarded.trusted: expected a list of networks"),
            ("{trusted: [proxy.lan]}", "forwarded.trusted[0]: expected an address or a network, "),
            ("{trusted: [1.1.1.1, 0.0.0.0/0]}", "forwarded.trusted[1]: 0.0.0.0/0 is everybody"),
            ("{trusted: ['::/0']}", "forwarded.trusted[0]: ::/0 is everybody"),
            ("{trusted: [10.0.0.1/8]}", "forwarded.trusted[0]: 10.0.0.1/8 has bits behind"),
            ("{trusted: [10.0.0.1], header: via}", "forwarded.header: expected x-forwarded-for"),
        ):
            self.assertIn(
                f"config.yaml:2: {said}", self.fault(GATEWAY.format(f"forwarded: {text}"))
            )
