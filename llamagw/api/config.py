"""
`GET /config`, `POST /config/check`, `POST /config/reload`: the configuration, for whoever manages.

What is read, and by which process, is for service.py; which values there are, for config/.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from llamagw.config import ConfigError, told_faults
from llamagw.errors import BodyTooLarge, ServerBusy
from llamagw.launch import Note
from llamagw.proxy import Request, checked_name

#: The largest text that is checked, in bytes.
MOST_TEXT = 2**20

#: How many requests wait while one is answered: each takes a process some 0.3 s, or 10 s.
MOST_WAITING = 8

#: How many notes are told at most.
MOST_NOTES = 100

#: How many wait for a reload: they are answered in one go, which takes some 0.5 ms for each.
MOST_RELOADS = 16

T = TypeVar("T")


class Reading(Protocol):
    """A configuration that was read."""

    @property
    def changes(self) -> str:
        """What it changes, in words."""

    @property
    def notes(self) -> Sequence[Note]:
        """What is to be said of its new and changed models."""


class Gateway(Protocol):
    """What is asked of the gateway; see `llamagw.service.Gateway`."""

    def described(self, only: str | None) -> Awaitable[bytes]:
        """The configuration in force, as JSON."""

    def check(self, text: bytes) -> Awaitable[Reading]:
        """What a reload would make of another text."""

    def reloaded(self) -> Deferred[Any]:
        """Reload; the Deferred fires with a `Reading`."""


class Configuration:
    """
    Answers requests about the configuration.

    :param gateway: gives who is asked; called when a request comes
    """

    def __init__(self, gateway: Callable[[], Gateway]) -> None:
        self._gateway = gateway
        self._lock = DeferredLock()
        #: How many wait for a reload.
        self._reloads = 0

    def __repr__(self) -> str:
        return f"<Configuration, {len(self._lock.waiting)} wait>"

    async def told(self, request: Request) -> bytes:
        """
        What is in force, where each value comes from, and the text of the file.

        :return: as JSON
        :raises GatewayError: if that cannot be told now
        """
        [name] = request.args.get(b"model", [None])[-1:]
        only = None if name is None else checked_name(name.decode(errors="replace"))
        try:
            return await self._alone(lambda: self._gateway().described(only))
        except ConfigError as error:
            faults = told_faults(error.faults)
            empty: dict[str, Any] = {"text": None, "same": False, "values": [], "models": []}
            return msgspec.json.encode({"path": error.faults[0].file, "faults": faults, **empty})

    async def checked(self, request: Request) -> dict[str, Any]:
        """
        Whether the text in the body could be reloaded; it is not.

        :return: ``ok``, and ``changes`` and ``notes``, or ``faults``
        :raises GatewayError: if that cannot be told now, or the body is over `MOST_TEXT`
        """
        text = request.body
        if len(text) > MOST_TEXT:
            raise BodyTooLarge(f"The text is over {MOST_TEXT} bytes; it is to be a configuration.")
        return await _result(self._alone(lambda: self._gateway().check(text)))

    async def reloaded(self) -> dict[str, Any]:
        """
        Reload the file; all who ask meanwhile get the answer of one further reload.

        :return: as `checked`
        :raises GatewayError: when the gateway stops, or `MOST_RELOADS` wait
        """
        if self._reloads >= MOST_RELOADS:
            raise ServerBusy("Others wait for a reload; try again.", retry_after=1)
        self._reloads += 1
        try:
            return await _result(self._gateway().reloaded())
        finally:
            self._reloads -= 1

    async def _alone(self, ask: Callable[[], Awaitable[T]]) -> T:
        """
        Ask when nobody else is asking.

        :raises ServerBusy: if `MOST_WAITING` wait
        """
        if len(self._lock.waiting) >= MOST_WAITING:
            raise ServerBusy("Others are looking at the configuration; try again.", retry_after=1)
        await self._lock.acquire()
        # If the client leaves, the process goes on; the next one begins when it has ended.
        answer: Deferred[T] = Deferred()

        def over(result: T | Failure) -> None:
            self._lock.release()
            answer.callback(result)

        Deferred.fromCoroutine(_awaited(ask)).addBoth(over)
        return await answer


async def _awaited(ask: Callable[[], Awaitable[T]]) -> T:
    return await ask()


async def _result(reading: Awaitable[Reading]) -> dict[str, Any]:
    try:
        read = await reading
    except ConfigError as error:
        return {"ok": False, "faults": told_faults(error.faults)}
    notes = [
        {"model": note.model, "place": note.place, "grade": note.grade, "message": note.message}
        for note in read.notes
    ]
    return {"ok": True, "changes": read.changes, "notes": notes[:MOST_NOTES]}
