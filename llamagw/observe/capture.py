"""
The content of requests, for those models that the configuration lists in ``capture:``.

Of the last requests the beginnings of both bodies are kept, in memory only, without what looks like
a key. Who asks for content is the API's to check; which bytes come is the relay's to say.
"""

from __future__ import annotations

import codecs
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import count
from typing import Any
from urllib.parse import unquote_to_bytes

from llamagw.text import harmless, harmless_lines

#: What stands in the place of a key.
MASK = b"***"

#: Names of headers, and of fields in a query, whose values are not kept.
_SECRET = re.compile(
    rb"auth|cookie|key|token|secret|passw|credential|session|signature|\Asig\Z", re.IGNORECASE
)

#: A field of a query, wherever it stands: its name, and its value.
_FIELD = re.compile(rb"(?<=[?&;])([^?&;=\s]+)=([^&;\s\"'<>]*)")

#: A text in JSON whose name says that it is a key; it may be cut off at its end. Not any name with
#: "token" in it, which the tokens of an answer have.
_MEMBER = re.compile(
    rb'("(?:[\w.-]{0,50}(?:api_?-?key|secret|passw(?:or)?d|authorization|credentials?)'
    rb'|(?:access|auth|bearer|id|refresh|session)[_-]?token)"\s{0,20}:\s{0,20}")'
    rb'[^"\\]*(?:\\.[^"\\]*)*',
    re.IGNORECASE | re.DOTALL,
)

#: How many bytes are kept of a request's target, and of its headers; they may have 16 KiB.
HEAD = 4096


class Part:
    """
    The beginning of a body.

    :param limit: how many bytes are kept
    :ivar data: these bytes
    :ivar truncated: whether there were more
    """

    __slots__ = ("_limit", "data", "truncated")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.data = bytearray()
        self.truncated = False

    def __repr__(self) -> str:
        return f"<Part: {len(self.data)} of {self._limit} bytes>"

    def add(self, data: bytes) -> None:
        """Keep more of the body, as far as there is room."""
        room = self._limit - len(self.data)
        if room > 0:
            self.data += data[:room]
        self.truncated |= len(data) > room

    def drop(self) -> None:
        """Keep nothing of it."""
        self._limit = 0
        self.data = bytearray()

    def told(self) -> dict[str, Any]:
        """What is told of it: ``body``, a text, and ``truncated``."""
        # A character that was cut in two is left out.
        text, _ = codecs.utf_8_decode(self.data, "replace", not self.truncated)
        return {"body": harmless_lines(text), "truncated": self.truncated}


class Captured:
    """
    The content of one request.

    :param target: path and query
    :param headers: the request's
    :param body: the request's
    :param limit: how many bytes are kept of either body
    :param number: in `Capture`
    :ivar answer: the backend's answer, as far as it has come
    """

    __slots__ = ("_headers", "_request", "_target", "answer", "number")

    def __init__(
        self,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        limit: int,
        number: int = 0,
    ) -> None:
        self.number = number
        self._target = scrubbed(target)[:HEAD]
        #: One a line: as texts of their own they would take ten times as much.
        self._headers = Part(HEAD)
        for header in headers:
            self._headers.add(_line(*header))
        self._request = Part(limit)
        self._request.add(_MEMBER.sub(rb"\1" + MASK, body[:limit]))
        self._request.truncated |= len(body) > limit
        self.answer = Part(limit)

    def __repr__(self) -> str:
        return f"<Captured {self._request!r}, {self.answer!r}>"

    def drop(self) -> None:
        """Keep nothing of it: a request that is under way may hold it for long."""
        self._target = b""
        self._headers.drop()
        self._request.drop()
        self.answer.drop()

    def told(self) -> dict[str, Any]:
        """The content as JSON has it: ``request`` and ``response``."""
        headers: dict[str, str] = {}
        for line in self._headers.data.split(b"\n"):
            name, colon, value = line.decode(errors="replace").partition(": ")
            if colon:
                # One that was sent twice is told as a list.
                before = f"{headers[name]}, " if name in headers else ""
                headers[name] = before + harmless(value)
        if self._headers.truncated:
            headers["…"] = "more was sent than is kept"
        target = harmless(self._target.decode(errors="replace"))
        return {
            "request": {"target": target, "headers": headers, **self._request.told()},
            "response": self.answer.told(),
        }


def scrubbed(text: bytes) -> bytes:
    """A target, or the value of a header, without the keys in the queries that it has."""
    return _FIELD.sub(_masked, text) if b"=" in text else text


def _masked(field: re.Match[bytes]) -> bytes:
    name, value = field.groups()
    return b"%b=%b" % (name, MASK if _SECRET.search(unquote_to_bytes(name)) else value)


def _line(name: bytes, value: bytes) -> bytes:
    """A header as it is kept."""
    return b"%b: %b\n" % (name.lower(), MASK if _SECRET.search(name) else scrubbed(value))


class Capture:
    """
    Keeps the content of the last requests for some models.

    :ivar models: their names, or patterns of them; empty if nothing is kept
    """

    def __init__(self) -> None:
        self.models: Sequence[str] = ()
        self._requests = self._limit = 0
        #: By number, the oldest first. Numbers begin with 1, and are not used again.
        self._kept: OrderedDict[int, Captured] = OrderedDict()
        self._numbers = count(1)

    def __repr__(self) -> str:
        return f"<Capture: {len(self._kept)} of {self._requests} for {list(self.models)}>"

    def __contains__(self, number: int) -> bool:
        return number in self._kept

    def get(self, number: int) -> Captured | None:
        """
        The content of a request; None if it is not kept any more, or never was.

        :param number: `Captured.number`
        """
        return self._kept.get(number)

    def keep(self, models: Sequence[str], requests: int, limit: int) -> None:
        """
        Choose what is kept from now on; if that is not what it was, all that is kept is dropped.

        :param models: names, or patterns of them
        :param requests: of how many requests
        :param limit: how many bytes of either body
        """
        if not requests:
            models = ()
        if (list(self.models), self._requests, self._limit) == (list(models), requests, limit):
            return
        self.models, self._requests, self._limit = models, requests, limit
        while self._kept:
            self._drop()

    def begin(
        self,
        names: Iterable[str],
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
    ) -> Captured | None:
        """
        Keep the content of a request that has arrived; the oldest one makes room for it.

        :param names: of its model: as asked, and as configured
        :return: takes the answer as it comes; None if it is not kept
        """
        if not any(fnmatchcase(name, model) for model in self.models for name in names):
            return None
        if len(self._kept) >= self._requests:
            self._drop()
        number = next(self._numbers)
        captured = self._kept[number] = Captured(target, headers, body, self._limit, number)
        return captured

    def _drop(self) -> None:
        _, captured = self._kept.popitem(last=False)
        captured.drop()
