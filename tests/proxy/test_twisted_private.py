"""The private names of Twisted that llamagw.proxy.twisted_private stands on are there."""

from __future__ import annotations

import inspect

from twisted.internet.testing import StringTransport
from twisted.protocols.basic import LineReceiver
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel, _ChunkedTransferDecoder
from twisted.web.http import Request as HTTPRequest
from twisted.web.http_headers import Headers

from llamagw.proxy.twisted_private import KnownChannel, KnownRequest
from tests.support.bench import Bench
from tests.support.messages import CHAT, request


class PrivateNameTests(SynchronousTestCase):
    def test_a_channel_has_the_state_that_is_read(self) -> None:
        channel = HTTPChannel()
        for name, kind in (
            ("_handlingRequest", bool),
            ("_busyReceiving", bool),
            ("_waitingForTransport", bool),
            ("_buffer", bytes),
            ("_dataBuffer", list),
        ):
            self.assertIsInstance(getattr(channel, name), kind, name)
        self.assertIs(HTTPRequest._disconnected, False)
        decoder = _ChunkedTransferDecoder(lambda data: None, lambda extra: None)
        decoder.dataReceived(b"0\r\nX: a\r\n")
        self.assertEqual(decoder._trailerHeaders, [b"X: a"])

    def test_twisted_itself_calls_the_hooks_that_are_overridden(self) -> None:
        source = inspect.getsource(HTTPChannel)
        for name in ("_respondToBadRequestAndDisconnect", "_send100Continue"):
            self.assertTrue(callable(getattr(HTTPChannel, name)), name)
            self.assertIn(f"self.{name}()", source)
        self.assertIn("self._busyReceiving = True", inspect.getsource(LineReceiver))

    def test_the_request_line_is_known_from_its_arrival_to_the_end_of_its_body(self) -> None:
        channel = Bench().client().protocol
        self.assertIsInstance(channel, KnownChannel)
        says = request(b"12345")
        self.assertEqual(channel.request_line, (b"", b""))
        channel.dataReceived(says[:40])
        self.assertEqual(channel.request_line, (b"POST", CHAT.encode()))
        channel.dataReceived(says[40:])
        self.assertEqual(channel.request_line, (b"", b""))

    def test_what_came_early_is_handed_over_once(self) -> None:
        channel = KnownChannel()
        channel.makeConnection(StringTransport())
        channel._dataBuffer = [b"early"]
        self.assertEqual((channel.take_early(), channel.early), ([b"early"], []))

    def test_a_header_is_found_by_its_usual_name_however_it_was_spelled(self) -> None:
        channel = Bench().client().protocol
        channel.dataReceived(
            b"GET / HTTP/1.1\r\nhost: here\r\nCONNECTION: close\r\nx-request-ID: b\r\norigin: c\r\n"
            b"Origin: d\r\ncontent-length: 5\r\n\r\n"
        )
        [asked] = channel.requests
        given = {
            b"Host": [b"here"],
            b"Connection": [b"close"],
            b"X-Request-Id": [b"b"],
            b"Origin": [b"c", b"d"],
            b"Content-Length": [b"5"],
        }
        self.assertEqual(asked.given, given)

    def test_a_name_that_came_before_is_read_as_twisted_reads_it_for_the_first_time(self) -> None:
        names = (b"X-Odd", b"x-odd", b"ETag", b"content-md5")
        values = (b"a", b" a b\t", b"\t", b":", b"")
        lines = [b"%b:%b" % (name, value) for name in names for value in values]
        twisted = HTTPChannel()
        twisted.requests = [Bench().client().protocol]
        twisted.requests[0].requestHeaders = Headers()
        ours = KnownChannel()
        ours.requests = [KnownRequest.__new__(KnownRequest)]
        for _ in range(2):
            ours.requests[0].requestHeaders = Headers()
            twisted.requests[0].requestHeaders = Headers()
            for line in lines:
                self.assertIs(ours.headerReceived(line), True)
                self.assertIs(twisted.headerReceived(line), True)
            self.assertEqual(
                [*ours.requests[0].requestHeaders.getAllRawHeaders()],
                [*twisted.requests[0].requestHeaders.getAllRawHeaders()],
            )

    def test_what_twisted_refuses_of_a_header_is_refused_though_its_name_came_before(self) -> None:
        usual = b"X-Usual: a\r\n"
        for lines in (b"X-Usual\r\n", usual * 501, b"Content-Length: 1\r\nContent-Length: 2\r\n"):
            client = Bench().client()
            client.says(b"GET /health HTTP/1.1\r\nHost: a\r\n" + usual + b"\r\n")
            answers = client.heard.count(b"HTTP/1.1 ")
            client.says(b"GET /health HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
            self.assertEqual(client.heard.count(b"HTTP/1.1 400"), 1, (lines[:30], client.heard))
            self.assertEqual(answers, 1)
