"""What shows up in logs and failed tests says what state it is in."""

from __future__ import annotations

from tests.support.bench import BenchTestCase
from tests.support.messages import CHAT, request


class ReprTests(BenchTestCase):
    def test_a_connection_of_a_client(self) -> None:
        client = self.bench.client()
        channel = client.protocol
        self.assertIn("idle, 0 bytes held>", repr(channel))
        client.says(request(b"x" * 10)[:-1])
        self.assertIn("receiving, 9 bytes held>", repr(channel))
        client.says(b"x")
        self.bench.settle()
        self.assertIn("1 of 1000", repr(self.bench.site.connections))

    def test_a_request_and_its_connection_to_a_backend(self) -> None:
        client = self.bench.client(request({"model": "small"}))
        [asked] = client.protocol.requests
        self.assertEqual(repr(asked), f"<Request POST {CHAT} of 192.0.2.7: waiting>")
        backend = self.bench.backend()
        upstream = backend.protocol._wrappedProtocol
        waiting = "<Upstream to http://127.0.0.1:9001: waiting for the head>"
        self.assertEqual(repr(upstream), waiting)
        backend.says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        self.assertEqual(repr(asked), f"<Request POST {CHAT} of 192.0.2.7: answered 200, 3 B>")
        self.assertIn("in the body", repr(upstream))
        backend.says(b"defghi")
        self.assertIn("idle, reused", repr(upstream))
        self.assertTrue(repr(asked).endswith("answered 200, 9 B, finished>"), asked)

    def test_one_that_has_not_arrived_or_never_connected(self) -> None:
        channel = self.bench.site.buildProtocol(None)
        self.assertEqual(repr(channel), "<Channel: not connected>")
        client = self.bench.client(b"GET / HTTP/1.1\r\n")
        self.assertEqual(repr(client.protocol.requests), "[<Request: arriving>]")
