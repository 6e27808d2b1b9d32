"""
The access log: one line for each request, when it has ended.

An `Access` exists only while the log is on, and is told at a request's ends: read, admitted, first
byte, last byte. Nothing is done for the parts of an answer in between, so what a stream says of its
tokens is not known here.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct
from twisted.logger import Logger

from llamagw.errors import SHOWN, GatewayError
from llamagw.text import harmless

_access = Logger(namespace="llamagw.access")

#: Characters of a reason, and of a path, that are logged.
REASON, PATH = 200, 100

#: Seconds of waiting for the model from which on they are told.
WAITED = 0.01

#: Maximum size, in bytes, of an answer in which tokens and the reason of an error are looked for.
MOST_READ = 16 * 1024

#: The address of a client without one, which has connected to a unix socket.
HERE = "unix"

#: Clients that are not named: those of this machine.
_NOT_NAMED = (HERE, "127.0.0.1", "::1")


class _Usage(Struct):
    """Tokens as OpenAI's API names them, or as Anthropic's does."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class _Error(Struct):
    message: str = ""


class _Answer(Struct):
    """What is read of an engine's answer."""

    usage: _Usage | None = None
    error: _Error | str | None = None


_read = msgspec.json.Decoder(_Answer).decode


class Access:
    """
    What the log tells of one request.

    :param clock: gives the time, in seconds
    :ivar model: the name that it asks for; None if it asks for no model
    :ivar stream: whether it asks for a stream
    :ivar reason: why it has failed; "" if it has not, or not by the gateway
    """

    __slots__ = (
        "_admitted",
        "_clock",
        "_first",
        "_parts",
        "_since",
        "_size",
        "model",
        "reason",
        "stream",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self.model: str | None = None
        self.stream = False
        self.reason = ""
        self._clock = clock
        #: When it had arrived, was admitted, and its answer began, in seconds of the clock.
        self._since = clock()
        self._admitted: float | None = None
        self._first: float | None = None
        #: The answer's body, unless it is a stream or longer than `MOST_READ`; and its size.
        self._parts: list[bytes] = []
        self._size = 0

    def admitted(self) -> None:
        """It has a lease."""
        self._admitted = self._clock()

    def answered(self, status: int, data: bytes) -> None:
        """
        The head of an engine's answer has come.

        :param data: the part of the body that came with it
        """
        self._first = self._clock()
        self._parts, self._size = [], 0
        if status >= 400 or not self.stream:
            self.more(data)

    def more(self, data: bytes) -> None:
        """
        More of an answer that is no stream has come.

        :param data: a part of its body
        """
        self._size += len(data)
        if self._size <= MOST_READ:
            self._parts.append(data)

    def log(self, method: bytes, path: bytes, outcome: object, client: str) -> None:
        """
        Write the line.

        :param outcome: the status, or how it ended without one
        :param client: its address, or `HERE`
        """
        now = self._clock()
        answer = self._answer()
        told = [f"{now - self._since:.2f} s"]
        if self.stream:
            told.insert(0, "stream")
        if self.model is not None:
            told.insert(0, harmless(self.model, SHOWN))
        if self._admitted is not None and self._admitted - self._since >= WAITED:
            told.append(f"waited {self._admitted - self._since:.2f} s")
        if self._first is not None and self.stream:
            told.append(f"first byte {self._first - self._since:.2f} s")
        if answer.usage is not None:
            sent = answer.usage.prompt_tokens or answer.usage.input_tokens
            made = answer.usage.completion_tokens or answer.usage.output_tokens
            told.append(f"{sent} + {made} tokens")
        if client not in _NOT_NAMED:
            told.append(f"from {client}")
        error = answer.error.message if isinstance(answer.error, _Error) else answer.error
        reason = harmless(self.reason or error or "", REASON)
        _log(method, path, outcome, ", ".join(told), reason)

    def _answer(self) -> _Answer:
        if self._size > MOST_READ:
            return _Answer()
        try:
            return _read(b"".join(self._parts))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _Answer()


def log_refusal(method: bytes, path: bytes, error: GatewayError, client: str) -> None:
    """
    Write the line of a request that was refused before it had arrived.

    :param client: its address, or `HERE`
    """
    told = "refused" if client in _NOT_NAMED else f"refused, from {client}"
    _log(method or b"-", path.partition(b"?")[0] or b"-", error.status, told, error.message)


def _log(method: bytes, path: bytes, outcome: object, told: str, reason: str) -> None:
    _access.info(
        "{method} {path} {outcome} {told}{reason}",
        method=harmless(method.decode(errors="replace"), SHOWN),
        path=harmless(path.decode(errors="replace"), PATH),
        outcome=outcome,
        told=told,
        reason=f": {harmless(reason, REASON)}" if reason else "",
    )
