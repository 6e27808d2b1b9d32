"""
HTTP/1.1 to a backend: one connection, on httptools' parser.

An `Upstream` hands the answer to a `Receiver` as it arrives, one call for each read. What is in it,
and whether to retry, is the relay's affair; idle connections are kept by pool.py.
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

#: Bytes of an answer that are not body, at most: its head, and what there is of chunk sizes,
#: extensions and trailers beyond what its body makes up for. And how many headers it may have.
MAX_HEAD, MAX_HEADERS = 256 * 1024, 1000

#: A chunk of one byte takes 5 more; each byte of body makes up for so many that are not.
FRAMING = 8

Headers = list[tuple[bytes, bytes]]


#: Bytes of a body below which it is cheaper to copy it behind its head than to send it apart.
JOINED = 64 * 1024

#: RFC 9112, 4. The parser lets all pass but the end of the line.
_REASON = re.compile(rb"[\t -~\x80-\xff]*")

#: How far an answer has come. A tunnel is what is left of one that switched the protocol.
_HEAD, _BODY, _COMPLETE, _TUNNEL = range(4)


class Received(Enum):
    """What there was of an answer that broke off."""

    NOTHING = 0
    PART_OF_HEAD = 1
    HEAD = 2


class UpstreamLost(Exception):
    """
    The answer did not come, or not whole.

    :param why: for a person
    :ivar gone: the connection ended, rather than carried what is not HTTP
    :ivar received: how far it had come: not a byte, a part of its head, or more
    :ivar reached: whether the backend may have got the request
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
    """Who gets an answer: a head, more of its body, read by read, then `ended` or `lost`."""

    def head(self, status: int, reason: bytes, headers: Headers, data: bytes, whole: bool) -> None:
        """
        The final head (never a 1xx), and the part of the body that came in the same read.

        :param whole: that part is all of it; `ended` follows at once
        """

    def body(self, data: bytes) -> None:
        """The part of the body that came in one read, with its framing taken off."""

    def ended(self) -> None:
        """The answer is whole."""

    def lost(self, error: UpstreamLost) -> None:
        """There will be no more of it."""


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
    :param address: where it is connected to
    :ivar reused: an earlier request went over it; it may have gone stale since
    :ivar idle_since: when its last answer ended
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
        return f"<Upstream to {self.address.url}: {state}{', reused' if self.reused else ''}>"

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
        Send a request; its answer goes to the receiver. Only when no other is under way.

        :param head: the request's head, with the empty line at its end
        :param body: as long as the head says
        :param receiver: called as the answer arrives; the last call is `ended` or `lost`
        :param bare: the answer has no body, whatever its head says (HEAD)
        :param upgrade: the answer may be a 101; what follows it goes to `Receiver.body` as it is
        """
        self._receiver = receiver
        self._bare = bare
        self._upgrade = upgrade
        self._headers: Headers = []
        self._status = 0
        self._reason = b""
        self._head_size = 0
        #: Bytes that came after the head and are no body, less what that makes up for.
        self._overhead = 0
        #: Why the answer cannot be passed on, when the parser has nothing against it.
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

        :param why: for a person
        """
        self._fail(why, gone=True)

    def abort(self) -> None:
        """Close at once, whatever is under way; the receiver is not called any more."""
        self._receiver = None
        self.transport.abortConnection()

    def hang_up(self) -> None:
        """Close a tunnel when all that was written is sent; the receiver is not called any more."""
        self._receiver = None
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # Twisted calls

    def connectionMade(self) -> None:
        self._pool.opened(self)

    def dataReceived(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            # No request is under way: whatever it is, the connection cannot be trusted with one.
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
            # No upgrade was asked for. What follows a whole answer is not worth an error, only
            # the connection.
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
            # It had no length: the end of the connection is the end of the answer.
            self._finish(False)
        else:
            assert reason.value is not None
            self._fail(in_words(reason.value), gone=True)

    # httptools calls

    def on_message_begin(self) -> None:
        if self._state is _COMPLETE:
            self._surplus = True

    def on_status(self, status: bytes) -> None:
        # What follows a whole answer in the same read must not become a part of it.
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
            # Only behind the head of one that says to what it switches does the parser stop.
            if status == 101 and self._upgrade and self._parser.should_upgrade() and sound:
                self._state = _TUNNEL
            return
        # To be asked now: once there is a surplus, the parser tells of that.
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
            # The body of a second answer, or of one to HEAD, which has none.
            self._surplus = True

    def on_message_complete(self) -> None:
        if self._state is _BODY:
            self._state = _COMPLETE
            # To be asked now: the parser forgets it with the message.
            self._keep_alive = self._parser.should_keep_alive()
        elif self._state is _HEAD:
            # That was a 1xx; the answer itself is still to come.
            self._headers = []
            self._reason = b""

    # Ends

    def _finish(self, reusable: bool) -> None:
        receiver, self._receiver = self._receiver, None
        assert receiver is not None
        if reusable and self._framed:
            self.reused = True
            # The last part may have been one too many for a slow client, and have paused it.
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
