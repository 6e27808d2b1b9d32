"""Promises of llamagw.net.client: a backend's answers arrive whole or are known not to be.

Everything in memory and on a Clock; the test plays the backend.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectError, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from llamagw.net import Address, Connector, Pool, Received, Upstream, UpstreamLost
from llamagw.net.client import MAX_HEAD, MAX_HEADERS
from llamagw.net.pool import IDLE_SEC
from tests.support.messages import chunked, cut_at, response
from tests.support.wire import BACKEND, HIGH_WATER, Wire

HERE = BACKEND
ELSEWHERE = Address("127.0.0.1", 9002)


class Recorder:
    """A Receiver that writes down what it is told."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, bytes, list[tuple[bytes, bytes]]]] = []
        self.bodies: list[bytes] = []
        self.ends: list[UpstreamLost | None] = []

    def head(
        self,
        status: int,
        reason: bytes,
        headers: list[tuple[bytes, bytes]],
        data: bytes,
        whole: bool,
    ) -> None:
        self.heads.append((status, reason, headers))
        if data:
            self.bodies.append(data)

    def body(self, data: bytes) -> None:
        self.bodies.append(data)

    def ended(self) -> None:
        self.ends.append(None)

    def lost(self, error: UpstreamLost) -> None:
        self.ends.append(error)


class UpstreamTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin()

    def begin(self) -> None:
        """One connection, with a request sent over it."""
        self.clock = MemoryReactorClock()
        self.pool = Pool(self.clock, Connector(self.clock))
        self.upstream = Upstream(self.pool, HERE)
        self.wire = Wire(self.clock)
        self.wire.attach(self.upstream)
        self.receiver = self.ask()

    def ask(self, upstream: Upstream | None = None) -> Recorder:
        receiver = Recorder()
        (upstream or self.upstream).send(b"POST / HTTP/1.1\r\n\r\n", b"{}", receiver)
        return receiver

    def settle(self) -> None:
        for _ in range(5):
            self.clock.advance(0)

    def assert_lost(self, nothing_received: bool = False) -> str:
        """The answer is known to be broken, the connection is gone; returns why."""
        self.settle()
        self.assertEqual(len(self.receiver.ends), 1)
        error = self.receiver.ends[0]
        assert error is not None
        self.assertEqual(error.received is Received.NOTHING, nothing_received)
        self.assertFalse(self.wire.connected)
        self.assertIsNone(self.pool.take(HERE))
        return str(error)


class AnswerTests(UpstreamTestCase):
    def test_a_request_is_sent_as_head_and_body(self) -> None:
        self.assertEqual(bytes(self.wire.heard), b"POST / HTTP/1.1\r\n\r\n{}")

    @settings(deadline=None, max_examples=80)
    @given(
        pieces=st.lists(st.binary(max_size=200), max_size=6),
        framing=st.sampled_from(["length", "chunked", "end"]),
        places=st.lists(st.integers(0, 1500), max_size=12),
    )
    def test_a_body_arrives_byte_for_byte_however_it_is_framed_and_read(
        self, pieces: list[bytes], framing: str, places: list[int]
    ) -> None:
        self.begin()
        whole = b"".join(pieces)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: x/y\r\n"
        if framing == "length":
            data = head + b"Content-Length: %d\r\n\r\n" % len(whole) + whole
        elif framing == "chunked":
            data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces)
        else:
            data = head + b"\r\n" + whole
        for read in cut_at(data, places):
            self.wire.says(read)
        if framing == "end":
            self.assertEqual(self.receiver.ends, [])
            self.wire.hangs_up()
        self.assertEqual(b"".join(self.receiver.bodies), whole)
        self.assertEqual(self.receiver.ends, [None])
        self.assertEqual([head[0] for head in self.receiver.heads], [200])

    def test_all_of_one_read_is_handed_on_at_once(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.wire.says(b"1\r\na\r\n2\r\nbc\r\n1\r\nd\r\n")
        self.assertEqual(self.receiver.bodies, [b"abcd"])

    def test_headers_come_as_they_were_written(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nX-One: a  b\r\nset-COOKIE: 1\r\nset-COOKIE: 2\r\n")
        self.wire.says(b"Content-Length: 0\r\n\r\n")
        expected = [
            (b"X-One", b"a  b"),
            (b"set-COOKIE", b"1"),
            (b"set-COOKIE", b"2"),
            (b"Content-Length", b"0"),
        ]
        self.assertEqual(self.receiver.heads, [(200, b"OK", expected)])

    def test_the_reason_phrase_comes_whole_when_it_is_read_in_parts(self) -> None:
        for read in (b"HTTP/1.1 418 I am a te", b"apot, I", b" said\r\nContent-Length: 0\r\n\r\n"):
            self.wire.says(read)
        self.assertEqual(self.receiver.heads[0][:2], (418, b"I am a teapot, I said"))

    def test_interim_answers_are_passed_over(self) -> None:
        self.wire.says(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n")
        self.assertEqual(self.receiver.heads, [])
        self.wire.says(b"\r\n" + response(b"yes", "201 Created"))
        self.assertEqual(self.receiver.heads, [(201, b"Created", [(b"Content-Length", b"3")])])
        self.assertEqual(self.receiver.bodies, [b"yes"])
        self.assertEqual(self.receiver.ends, [None])

    def test_answers_that_have_no_body_end_with_their_head(self) -> None:
        for status in (204, 304):
            self.begin()
            self.wire.says(b"HTTP/1.1 %d Nothing\r\nX: y\r\n\r\n" % status)
            self.assertEqual((self.receiver.bodies, self.receiver.ends), ([], [None]))
            self.assertIs(self.pool.take(HERE), self.upstream)

    def test_an_aborted_request_hears_nothing_more(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        self.upstream.abort()
        self.settle()
        self.assertEqual((self.receiver.bodies, self.receiver.ends), ([b"abc"], []))
        self.assertEqual(self.wire.ended, "abort")
        self.assertIsNone(self.pool.take(HERE))


class BrokenAnswerTests(UpstreamTestCase):
    def test_what_is_not_http_is_an_error(self) -> None:
        self.wire.says(b"SSH-2.0-OpenSSH_9.6\r\n")
        self.assertIn("not HTTP", self.assert_lost())

    def test_two_lengths_are_an_error(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabc")
        self.assert_lost()

    def test_a_length_beside_chunks_is_an_error(self) -> None:
        self.wire.says(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        self.assert_lost()

    def test_a_switch_of_protocols_that_nobody_asked_for_is_an_error(self) -> None:
        self.wire.says(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
        )
        self.assert_lost()

    def test_a_switch_that_does_not_say_to_what_is_an_error(self) -> None:
        for headers in (b"", b"Upgrade: x\r\n", b"Connection: upgrade\r\n"):
            for after in (b"", b"@"):
                self.begin()
                self.upstream.send(b"", b"", self.receiver, upgrade=True)
                self.wire.says(b"HTTP/1.1 101 Switching\r\n" + headers + b"\r\n" + after)
                self.wire.hangs_up()
                self.assert_lost()
                self.assertEqual(self.receiver.heads, [])

    def test_a_body_behind_the_answer_to_a_head_reaches_nobody(self) -> None:
        """The client would take it for the answer to its next request."""
        for body in (b"hello", response(b"evil")):
            for head in (response(b"")[:-2], b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"):
                self.begin()
                self.upstream.send(b"", b"", self.receiver, bare=True)
                self.wire.says(head + b"\r\n" + body)
                self.settle()
                self.assertEqual(self.receiver.bodies, [])
                self.assertEqual(self.receiver.ends, [None])
                self.assertFalse(self.wire.connected)

    def test_a_first_line_with_control_characters_is_an_error(self) -> None:
        for odd in (b"\0", b"\x1b[31m", b"\x7f"):
            self.begin()
            self.wire.says(response(b"{}", status=f"200 O{odd.decode()}K"))
            self.assertIn("control characters", self.assert_lost())

    def test_a_head_that_does_not_end_is_an_error_before_it_takes_much_memory(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\n")
        sent, line = 0, b"X-Filler: " + b"f" * 500 + b"\r\n"
        while self.wire.connected and sent <= 2 * MAX_HEAD:
            self.wire.says(line)
            self.settle()
            sent += len(line)
        self.assertLess(sent, MAX_HEAD + 2 * len(line))
        self.assertIn("head", self.assert_lost())

    def test_a_header_that_does_not_end_is_an_error_before_it_takes_much_memory(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nX-Filler: ")
        sent, part = 0, b"f" * 8192
        while self.wire.connected and sent <= 2 * MAX_HEAD:
            self.wire.says(part)
            self.settle()
            sent += len(part)
        self.assertLess(sent, MAX_HEAD + 2 * len(part))
        self.assert_lost()

    def test_interim_answers_without_end_are_an_error(self) -> None:
        interim, sent = b"HTTP/1.1 100 Continue\r\n\r\n" * 400, 0
        while self.wire.connected and sent <= 2 * MAX_HEAD:
            self.wire.says(interim)
            self.settle()
            sent += len(interim)
        self.assert_lost()

    def test_the_end_of_the_connection_inside_a_length_is_an_error(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        self.wire.hangs_up()
        self.assert_lost()
        self.assertEqual(self.receiver.bodies, [b"12345"])

    def test_the_end_of_the_connection_inside_a_chunk_is_an_error(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n12345")
        self.wire.hangs_up()
        self.assert_lost()
        self.assertEqual(self.receiver.bodies, [b"12345"])

    def test_the_end_of_the_connection_before_the_last_chunk_is_an_error(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
        self.wire.hangs_up()
        self.assert_lost()

    def test_a_broken_chunk_is_an_error_after_what_was_good_of_it(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        self.wire.says(b"zz\r\n")
        self.assert_lost()
        self.assertEqual(self.receiver.bodies, [b"ab"])

    def test_a_reset_inside_a_body_without_a_length_is_an_error(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\n\r\nhalf of it")
        self.wire.hangs_up(reset=True)
        self.assert_lost()

    def test_a_backend_gone_before_a_byte_of_its_answer_has_received_nothing(self) -> None:
        self.wire.hangs_up()
        self.assert_lost(nothing_received=True)

    def test_a_backend_gone_after_a_byte_of_its_answer_has_received_something(self) -> None:
        self.wire.says(b"H")
        self.wire.hangs_up()
        self.assert_lost(nothing_received=False)

    def test_trailers_without_end_are_an_error_before_they_take_much_memory(self) -> None:
        for trailer in (b"X-%d: y\r\n", b"x"):
            self.begin()
            self.wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
            sent = 0
            while self.wire.connected and sent < 2 * MAX_HEAD:
                data = b"".join(trailer % n if b"%" in trailer else trailer for n in range(1000))
                self.wire.says(data)
                self.settle()
                sent += len(data)
            self.assertIn("no body", self.assert_lost())
            self.assertLess(sent, MAX_HEAD + 100_000)

    def test_chunk_extensions_without_end_are_an_error(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(MAX_HEAD // 1000 + 10):
            self.wire.says(b"1;x=%b\r\na\r\n" % (b"y" * 1000))
        self.assertIn("no body", self.assert_lost())

    def test_chunks_of_one_byte_are_an_answer_however_many(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(200):
            self.wire.says(b"1\r\na\r\n" * 1000)
        self.wire.says(b"0\r\n\r\n")
        self.assertEqual(self.receiver.ends, [None])

    def test_trailers_are_no_headers_however_they_are_read(self) -> None:
        whole = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
            b"0\r\nSet-Cookie: a=1\r\n\r\n"
        )
        for at in range(0, len(whole), 7):
            self.begin()
            for part in cut_at(whole, [at]):
                self.wire.says(part)
            [(_, _, headers)] = self.receiver.heads
            self.assertEqual([name for name, _ in headers], [b"Transfer-Encoding"])
            self.assertEqual(self.receiver.ends, [None])

    def test_very_many_headers_are_an_error(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\n" + b"Connection: a\r\n" * (MAX_HEADERS + 2))
        self.assertIn("headers", self.assert_lost())

    def test_a_transfer_encoding_that_is_not_just_chunked_is_an_error(self) -> None:
        for value in (b"gzip", b"gzip, chunked", b"identity", b"chunked, chunked"):
            self.begin()
            self.wire.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n" % value)
            self.assert_lost()
            self.assertEqual(self.receiver.heads, [])

    def test_a_second_answer_in_the_same_read_changes_nothing_of_the_first(self) -> None:
        second = b"HTTP/1.1 500 Oh\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n"
        self.wire.says(response(b"{}", headers=[("X-Y", "1")]) + second)
        [(status, reason, headers)] = self.receiver.heads
        self.assertEqual((status, reason), (200, b"OK"))
        self.assertEqual([name for name, _ in headers], [b"X-Y", b"Content-Length"])
        self.assertEqual(self.receiver.ends, [None])
        self.assertIsNone(self.pool.take(HERE))


class ReuseTests(UpstreamTestCase):
    def answer(self, **how: Any) -> None:
        self.wire.says(response(**how))
        self.assertEqual(self.receiver.ends, [None])

    def test_a_connection_serves_one_request_after_another(self) -> None:
        for number in range(5):
            self.answer(body=b"%d" % number)
            self.assertEqual(self.receiver.bodies, [b"%d" % number])
            self.assertIs(self.pool.take(HERE), self.upstream)
            self.assertTrue(self.upstream.reused)
            self.receiver = self.ask()

    def test_a_connection_is_one_request_s_at_a_time(self) -> None:
        self.answer()
        self.assertIs(self.pool.take(HERE), self.upstream)
        self.assertIsNone(self.pool.take(HERE))

    def test_a_busy_connection_is_not_given_out(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{")
        self.assertIsNone(self.pool.take(HERE))

    def test_an_answer_that_says_close_is_the_last(self) -> None:
        self.answer(headers=[("Connection", "close")])
        self.settle()
        self.assertFalse(self.wire.connected)
        self.assertIsNone(self.pool.take(HERE))

    def test_an_answer_in_http_1_0_is_the_last(self) -> None:
        self.wire.says(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        self.assertEqual(self.receiver.ends, [None])
        self.settle()
        self.assertFalse(self.wire.connected)

    def test_an_answer_that_ends_with_its_connection_is_the_last(self) -> None:
        self.wire.says(b"HTTP/1.1 200 OK\r\n\r\nabc")
        self.wire.hangs_up()
        self.assertEqual(self.receiver.ends, [None])
        self.assertIsNone(self.pool.take(HERE))

    def test_bytes_after_an_answer_in_the_same_read_poison_the_connection(self) -> None:
        for surplus in (b"x", b"\0\xff", response(b"another"), b"HTTP/1.1 200"):
            self.begin()
            self.wire.says(response(b"mine") + surplus)
            self.assertEqual(self.receiver.bodies, [b"mine"])
            self.assertEqual(len(self.receiver.heads), 1)
            self.assertEqual(self.receiver.ends, [None])
            self.assertIsNone(self.pool.take(HERE), surplus)
            self.settle()
            self.assertFalse(self.wire.connected)

    def test_bytes_that_come_while_it_is_idle_poison_the_connection(self) -> None:
        self.answer()
        self.wire.says(response(b"nobody asked"))
        self.assertIsNone(self.pool.take(HERE))
        self.settle()
        self.assertFalse(self.wire.connected)

    def test_a_connection_whose_last_reader_was_slow_is_read_again(self) -> None:
        """The end of an answer may come with the pause that its size has caused."""
        self.wire.says(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        self.upstream.transport.pauseProducing()
        self.wire.protocol.dataReceived(b"cd")  # the same read as the one that led to the pause
        self.assertEqual(self.receiver.ends, [None])
        taken = self.pool.take(HERE)
        if taken is None:
            return  # closed: as good
        second = self.ask(taken)
        self.wire.says(response(b"next"))
        self.settle()
        self.assertEqual(second.bodies, [b"next"])

    def test_an_idle_connection_is_used_within_its_time_and_not_after_it(self) -> None:
        self.answer()
        self.clock.advance(IDLE_SEC - 0.1)
        self.assertIs(self.pool.take(HERE), self.upstream)
        self.receiver = self.ask()
        self.answer()
        self.clock.rightNow += IDLE_SEC + 0.1  # past it, before any timer has run
        self.assertIsNone(self.pool.take(HERE))

    def test_three_seconds_are_well_below_the_engine_s_five(self) -> None:
        self.assertLessEqual(IDLE_SEC, 3)

    def test_an_idle_connection_is_closed_though_nobody_asks_for_it(self) -> None:
        self.answer()
        self.clock.pump([0.5] * int(4 * IDLE_SEC))
        self.assertFalse(self.wire.connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_connection_that_the_backend_closes_while_idle_is_forgotten(self) -> None:
        self.answer()
        self.wire.hangs_up()
        self.assertIsNone(self.pool.take(HERE))

    def test_a_connection_is_given_out_for_its_own_address_only(self) -> None:
        self.answer()
        self.assertIsNone(self.pool.take(ELSEWHERE))
        self.assertIs(self.pool.take(HERE), self.upstream)

    def test_the_connection_used_last_is_given_out_first(self) -> None:
        self.answer()
        self.clock.advance(1)
        second = Upstream(self.pool, HERE)
        wire = Wire(self.clock)
        wire.attach(second)
        self.ask(second)
        wire.says(response())
        self.assertIs(self.pool.take(HERE), second)
        self.assertIs(self.pool.take(HERE), self.upstream)

    def test_a_closed_pool_leaves_no_connection_and_no_timer(self) -> None:
        self.answer()
        self.pool.close()
        self.settle()
        self.assertFalse(self.wire.connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ConnectTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.pool = Pool(self.reactor, Connector(self.reactor))

    def test_a_new_connection_goes_to_the_address(self) -> None:
        connecting = self.pool.connect(HERE)
        host, port, factory, _, _ = self.reactor.tcpClients[0]
        self.assertEqual(Address(host, port), HERE)
        wire = Wire(self.reactor)
        wire.attach(factory.buildProtocol(IPv4Address("TCP", host, port)))
        upstream = self.successResultOf(connecting)
        receiver = Recorder()
        upstream.send(b"GET / HTTP/1.1\r\n\r\n", b"", receiver)
        wire.says(response(b"x" * HIGH_WATER))
        self.assertEqual(receiver.ends, [None])
        self.assertEqual(upstream.address, HERE)

    def test_one_to_a_socket_goes_to_its_path(self) -> None:
        self.pool.connect(Address.of_socket("/run/x.sock"))
        self.assertEqual([to[0] for to in self.reactor.unixClients], ["/run/x.sock"])
        self.assertEqual(self.reactor.tcpClients, [])

    def test_a_refused_connection_is_a_connect_error(self) -> None:
        connecting = self.pool.connect(HERE)
        factory, connector = self.reactor.tcpClients[0][2], self.reactor.connectors[0]
        factory.clientConnectionFailed(connector, Failure(ConnectionRefusedError()))
        self.failureResultOf(connecting, ConnectError)

    def test_cancelling_gives_the_attempt_up(self) -> None:
        connecting = self.pool.connect(HERE)
        connecting.cancel()
        self.failureResultOf(connecting)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)
