"""
HTTP/1.1 to a backend: one connection, on httptools' parser.

An `Upstream` passes the answer to a `Receiver` as it arrives, one call for each read. Whether to
retry is decided in llamagw/proxy/relay.py; idle connections are kept by pool.py.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from llamagw.net.address import Address
from llamagw.net.causes import in_words
from llamagw.net.transport import IConnection

#: Limits of an answer: bytes of its head, and of its chunk sizes, extensions and trailers in excess
#: of `FRAMING` for each byte of body; and its number of headers.
MAX_HEAD, MAX_HEADERS = 256 * 1024, 1000

#: Bytes of framing allowed for each byte of body; a chunk of one byte has 5.
FRAMING = 8

Headers = list[tuple[bytes, bytes]]


#: A body below this size, in bytes, is copied behind its head: cheaper than a write of its own.
JOINED = 64 * 1024

#: A valid reason phrase (RFC 9112, 4). The parser accepts any bytes up to the end of the line.
_REASON = re.compile(rb"[\t -~\x80-\xff]*")

#: States of an answer: which part is expected next. A tunnel follows a switch of the protocol.
_HEAD, _BODY, _COMPLETE, _TUNNEL = range(4)


class Received(Enum):
    """How much of an answer had arrived when it broke off."""

    NOTHING = 0
    PART_OF_HEAD = 1
    HEAD = 2


class UpstreamLost(Exception):
    """
    The answer did not arrive, or not completely.

    :param why: a clause for the log and for clients, without a full stop
    :param gone: whether the connection was lost, rather than carried invalid HTTP
    :param received: how much of the answer had arrived
    :param reached: whether the backend may have received the request
    """

    def __init__(self, why: str, *, gone: bool, received: Received, reached: bool = True) -> None:
        super().__init__(why)
        self.gone = gone
        self.received = received
        self.reached = reached

    def __repr__(self) -> str:
        return (
            f"<UpstreamLost: {self}; gone={self.gone}, received={self.received.name}, "
            f"reached={self.reached}>"
        )


class Receiver(Protocol):
    """Receives an answer: `head`, `body` for each further read, then `ended` or `lost`."""

    def head(self, status: int, reason: bytes, headers: Headers, data: bytes, whole: bool) -> None:
        """
        The final head (of a 1xx, only 101), and the part of the body that came in the same read.

        :param reason: the reason phrase
        :param data: that part of the body, without framing; may be empty
        :param whole: whether it is the whole body; `ended` follows at once
        """

    def body(self, data: bytes) -> None:
        """
        The part of the body that came in one read.

        :param data: without framing; not empty
        """

    def ended(self) -> None:
        """The answer is complete."""

    def lost(self, error: UpstreamLost) -> None:
        """The answer broke off; no call follows."""


class Owner(Protocol):
    """What a connection reports its state to; `llamagw.net.Pool` is one."""

    def opened(self, upstream: Upstream) -> None:
        """The connection is established."""

    def put(self, upstream: Upstream) -> None:
        """Its answer has ended, and another request may be sent over it."""

    def forget(self, upstream: Upstream) -> None:
        """It is closed, or must not be used again."""


class Upstream(TwistedProtocol):
    """
    One connection to a backend, for one request after another.

    :param pool: keeps it while it is idle
    :param address: the backend's
    :ivar reused: whether an earlier request was sent over it: it may have become stale since
    :ivar idle_since: when its last answer ended, in seconds of the reactor's clock
    """

    transport: IConnection

    def __init__(self, pool: Owner, address: Address) -> None:
        self._pool = pool
        self.address = address
        self.reused = False
        self.idle_since = 0.0
        self._receiver: Receiver | None = None
        self._parser = HttpResponseParser(self)
        self._pieces: list[bytes] = []

    def __repr__(self) -> str:
        state = "idle"
        if self._receiver is not None:
            state = ("waiting for the head", "in the body", "complete", "tunnel")[self._state]
        return f"<Upstream to {self.address.shown}: {state}{', reused' if self.reused else ''}>"

    def send(
        self,
        head: bytes,
        body: bytes,
        receiver: Receiver,
        *,
        bare: bool = False,
        upgrade: bool = False,
    ) -> None:
        """
        Send a request. No other may be under way on this connection.

        :param head: the request's head, including the empty line
        :param body: of the length that the head declares
        :param receiver: called as the answer arrives; the last call is `ended` or `lost`
        :param bare: whether the answer has no body, whatever its head declares (HEAD)
        :param upgrade: whether the answer may be a 101; bytes that follow one are passed to
            `Receiver.body` unchanged
        """
        self._receiver = receiver
        self._bare = bare
        self._upgrade = upgrade
        self._headers: Headers = []
        self._status = 0
        self._reason = b""
        self._head_size = 0
        #: Bytes of framing after the head, less `FRAMING` for each byte of body.
        self._overhead = 0
        #: Why the answer is refused although the parser accepts it.
        self._fault = ""
        self._state = _HEAD
        self._framed = False
        self._surplus = self._keep_alive = False
        if len(body) < JOINED:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    def break_off(self, why: str) -> None:
        """
        Close at once; the receiver's `lost` is called.

        :param why: as in `UpstreamLost`
        """
        self._fail(why, gone=True)

    def abort(self) -> None:
        """Close at once; the receiver of a request under way is not called any more."""
        self._receiver = None
        self.transport.abortConnection()

    def hang_up(self) -> None:
        """Close a tunnel when all written bytes are sent; the receiver is not called any more."""
        self._receiver = None
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # Twisted calls

    def connectionMade(self) -> None:
        self._pool.opened(self)

    def dataReceived(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            # Bytes without a request: they would be taken for the answer to the next one.
            self._pool.forget(self)
            self.transport.abortConnection()
            return
        before = self._state
        if before is _HEAD:
            self._head_size += len(data)
        elif before is _TUNNEL:
            receiver.body(data)
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self._state is _TUNNEL:
                data = data[error.args[0] :]
                receiver.head(101, self._reason, self._headers, data, False)
                return
            # No upgrade was requested. Bytes after a complete answer do not spoil that answer, but
            # the connection is not reused.
            if self._state is not _COMPLETE:
                self._fail(f"it answered what is not HTTP ({' '.join(str(error).split())})")
                return
            self._surplus = True
        if before is _HEAD and self._state is _HEAD:
            if self._head_size > MAX_HEAD:
                self._fail(f"its head is over {MAX_HEAD} bytes")
            elif self._fault:
                self._fail(self._fault)
            return
        pieces, self._pieces = self._pieces, []
        size = len(data)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if before is not _HEAD:
            overhead = self._overhead + size - (FRAMING + 1) * len(data)
            self._overhead = overhead if overhead > 0 else 0
            if self._overhead > MAX_HEAD:
                self._fault = f"it sent over {MAX_HEAD} bytes that are no body"
        if self._fault:
            self._fail(self._fault)
            return
        if before is _HEAD:
            whole = self._state is _COMPLETE
            receiver.head(self._status, self._reason, self._headers, data, whole)
        elif data:
            receiver.body(data)
        if self._state is _COMPLETE and self._receiver is not None:
            self._finish(self._keep_alive and not self._surplus)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._pool.forget(self)
        if self._receiver is None:
            return
        at_end = self._state is _BODY and not self._framed and reason.check(ConnectionDone)
        if at_end or self._state is _TUNNEL:
            # The answer has no length: it ends with the connection.
            self._finish(False)
        else:
            assert reason.value is not None
            self._fail(in_words(reason.value), gone=True)

    # httptools calls

    def on_message_begin(self) -> None:
        if self._state is _COMPLETE:
            self._surplus = True

    def on_status(self, status: bytes) -> None:
        # Bytes after a complete answer in the same read must not become part of it.
        if self._state is _HEAD:
            self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        # After the head these are trailers, which are not passed on.
        if self._state is _HEAD:
            self._headers.append((name, value))
            if len(self._headers) > MAX_HEADERS:
                self._fault = f"its head has over {MAX_HEADERS} headers"
                self._headers.clear()

    def on_headers_complete(self) -> None:
        if self._surplus:
            return
        status = self._parser.get_status_code()
        sound = _REASON.fullmatch(self._reason)
        if status < 200:
            # `should_upgrade`: without an Upgrade header the parser would not stop after the head.
            if status == 101 and self._upgrade and self._parser.should_upgrade() and sound:
                self._state = _TUNNEL
            return
        # Read here: after further bytes the parser would return the status of the next message.
        self._status = status
        self._state = _COMPLETE if self._bare else _BODY
        framed = status in (204, 304)
        codings = []
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"transfer-encoding":
                codings.append(value.strip().lower())
            elif lower == b"content-length":
                framed = True
        if codings not in ([], [b"chunked"]):
            self._fault = "its Transfer-Encoding is not just chunked"
        if not sound:
            self._fault = "its first line has control characters"
        self._framed = framed or bool(codings)

    def on_body(self, data: bytes) -> None:
        if self._state is _BODY:
            self._pieces.append(data)
        else:
            # The body of a second answer, or of an answer to HEAD, which must not have one.
            self._surplus = True

    def on_message_complete(self) -> None:
        if self._state is _BODY:
            self._state = _COMPLETE
            # Read here: the parser drops it at the end of the message.
            self._keep_alive = self._parser.should_keep_alive()
        elif self._state is _HEAD:
            # That was a 1xx; the final answer follows.
            self._headers = []
            self._reason = b""

    # Ends

    def _finish(self, reusable: bool) -> None:
        receiver, self._receiver = self._receiver, None
        assert receiver is not None
        if reusable and self._framed:
            self.reused = True
            # A slow client may have paused it during the last read.
            self.transport.resumeProducing()
            self._pool.put(self)
        else:
            self.transport.loseConnection()
        receiver.ended()

    def _fail(self, why: str, gone: bool = False) -> None:
        receiver, self._receiver = self._receiver, None
        self.transport.abortConnection()
        if receiver is not None:
            received = Received.HEAD
            if self._state is _HEAD:
                received = Received.PART_OF_HEAD if self._head_size else Received.NOTHING
            receiver.lost(UpstreamLost(why, gone=gone, received=received))
