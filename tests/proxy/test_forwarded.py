"""Promises of llamagw.proxy.forwarded: who the client is, as far as a trusted proxy has said it."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamagw.config import ForwardedEntry
from llamagw.observe import Record
from llamagw.proxy import Forwarded
from llamagw.proxy.forwarded import _LONGEST
from tests.support.bench import BenchTestCase

PROXY = "10.0.0.1"
TRUSTED = ForwardedEntry(trusted=["10.0.0.0/8", "fd00::/8", "192.0.2.1"])
NETWORKS = [ipaddress.ip_network(text) for text in TRUSTED.trusted]


def by(text: str, peer: str = PROXY, header: bytes = b"X-Forwarded-For") -> str:
    return Forwarded(TRUSTED).client(peer, {header: [text.encode("latin-1")]})


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),
        ("6.6.6.6,203.0.113.7,10.2.3.4,192.0.2.1", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:DB8::7]:4711", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("10.9.9.9, 10.2.3.4", "10.9.9.9"),
        ("fe80::1%eth0", "fe80::1"),
        # What cannot be read ends it: what stands before was written by nobody that is trusted.
        ("", PROXY),
        ("6.6.6.6, ", PROXY),
        ("6.6.6.6, unknown", PROXY),
        ("6.6.6.6, unknown, 10.2.3.4", "10.2.3.4"),
        ("6.6.6.6, 203.0.113.700", PROXY),
        ("6.6.6.6, 203.0.113.7 x", PROXY),
        ("6.6.6.6, [2001:db8::7", PROXY),
        ("6.6.6.6, 1.2.3.4:", PROXY),
        ("6.6.6.6, \xff", PROXY),
        ("6.6.6.6, " + "1" * 300, PROXY),
        ("6.6.6.6, 010.011.012.013", PROXY),
    ],
)
def test_the_last_one_that_is_not_trusted_is_the_client(text: str, client: str) -> None:
    assert by(text) == client


@pytest.mark.parametrize(
    ("text", "client"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ("For=6.6.6.6, FOR=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7"),
        ('proto=http; for="203.0.113.7:80" ; host=a', "203.0.113.7"),
        ('for="[2001:db8::7]:4711", for=10.2.3.4', "2001:db8::7"),
        ('for=6.6.6.6, for="[2001:db8::7]"', "2001:db8::7"),
        # A client's own quote does not swallow what the proxy adds.
        ('for=6.6.6.6;x=", for=203.0.113.7', "203.0.113.7"),
        ("for=6.6.6.6, for=unknown", PROXY),
        ("for=6.6.6.6, for=_hidden", PROXY),
        ("for=6.6.6.6, proto=https", PROXY),
        ("for=6.6.6.6, 203.0.113.7", PROXY),
        ("for=6.6.6.6, xfor=203.0.113.7", PROXY),
        # No part of what a proxy has quoted is an element.
        ('for=203.0.113.7;host="a, for=6.6.6.6"', PROXY),
        ('for=203.0.113.7;host="a, for=6.6.6.6;x="', PROXY),
        ('for=203.0.113.7;host="a, for=6.6.6.6;x=\\""', PROXY),
    ],
)
def test_forwarded_is_read_as_well(text: str, client: str) -> None:
    assert by(text, header=b"Forwarded") == client


def test_who_is_not_trusted_is_not_believed() -> None:
    for peer in ("203.0.113.9", "11.0.0.1", "::1", "unix", "", "2001:db8::1"):
        assert by("6.6.6.6", peer) == peer
        assert by("for=6.6.6.6", peer, b"Forwarded") == peer


def test_a_trusted_one_is_known_however_its_address_is_written() -> None:
    for peer in ("10.255.0.1", "::ffff:10.0.0.1", "fd12::1", "192.0.2.1"):
        assert by("203.0.113.7", peer) == "203.0.113.7"


def test_a_unix_socket_is_trusted_if_that_is_said() -> None:
    forwarded = Forwarded(ForwardedEntry(trusted=["unix"]))
    given = {b"X-Forwarded-For": [b"203.0.113.7"]}
    assert forwarded.client("unix", given) == "203.0.113.7"
    assert forwarded.client("127.0.0.1", given) == "127.0.0.1"


def test_of_two_headers_the_usual_one_is_taken_or_the_one_that_is_named() -> None:
    given = {b"Forwarded": [b"for=6.6.6.6"], b"X-Forwarded-For": [b"203.0.113.7"]}
    for header, client in (
        (None, "203.0.113.7"),
        ("x-forwarded-for", "203.0.113.7"),
        ("forwarded", "6.6.6.6"),
    ):
        entry = ForwardedEntry(trusted=TRUSTED.trusted, header=header)  # type: ignore[arg-type]
        assert Forwarded(entry).client(PROXY, given) == client
    only = Forwarded(ForwardedEntry(trusted=TRUSTED.trusted, header="x-forwarded-for"))
    assert only.client(PROXY, {b"Forwarded": [b"for=6.6.6.6"]}) == PROXY


def test_several_lines_are_one() -> None:
    given = {b"X-Forwarded-For": [b"6.6.6.6", b"203.0.113.7, 10.1.1.1", b"10.2.2.2"]}
    assert Forwarded(TRUSTED).client(PROXY, given) == "203.0.113.7"


def test_only_the_end_of_a_long_one_is_read() -> None:
    assert by("6.6.6.6, " + "10.1.1.1, " * 40 + "10.2.2.2") == "10.1.1.1"
    # Nor is what is left of one that is cut through.
    left = "3.0.113.7"
    tail = ", 10.1.1.1".ljust(_LONGEST - len(left))
    assert by(f"20{left}{tail}") == "10.1.1.1"
    assert by("1" * 4100 + ".2.3.4") == PROXY


@given(st.text('0123456789abcdef.:,; []"\\=for', max_size=80), st.sampled_from([0, 1]))
def test_whatever_a_client_writes_in_front_its_own_address_is_told(text: str, which: int) -> None:
    """The proxy has added the address at the end, of a client that may write what it likes."""
    header, added = [(b"X-Forwarded-For", "203.0.113.7"), (b"Forwarded", "for=203.0.113.7")][which]
    assert by(f"{text}, {added}", header=header) == "203.0.113.7"


@given(st.text(max_size=80), st.sampled_from([b"X-Forwarded-For", b"Forwarded"]))
def test_anything_else_is_the_proxy_or_an_address(text: str, header: bytes) -> None:
    found = Forwarded(TRUSTED).client(PROXY, {header: [text.encode()]})
    assert re.fullmatch(r"[0-9a-f.:]+", found)
    ipaddress.ip_address(found)


class RecordTests(BenchTestCase):
    """The address is that of the record, and so of the access log and of `GET /activity`."""

    def test_the_client_of_a_request_and_of_a_refused_one(self) -> None:
        records: list[Record] = []
        self.bench.records.add(records.append)
        wire = self.bench.client()
        peer = wire.getPeer().host
        self.bench.site.connections.forwarded = Forwarded(ForwardedEntry(trusted=[peer]))
        wire.says(b"GET /health HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")
        wire.says(b"GET /health HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\nno header\r\n\r\n")
        self.bench.settle()
        self.assertEqual([r.client for r in records], ["203.0.113.7"] * 2)
        self.assertEqual([r.status for r in records], [200, 400])

    def test_without_it_nobody_is_believed(self) -> None:
        records: list[Record] = []
        self.bench.records.add(records.append)
        wire = self.bench.client(b"GET /health HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n")
        self.bench.settle()
        self.assertEqual([r.client for r in records], [wire.getPeer().host])
