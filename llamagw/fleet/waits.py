"""
What requests wait for, in words, and since when.

Derived from the scheduler's state and its indexes for whoever asks; decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from llamagw.fleet.model import Model, Status
from llamagw.fleet.room import Room
from llamagw.text import harmless

#: How many names of each kind are told, and how many characters of each.
NAMES = 3
NAME_LENGTH = 40


class Wait(NamedTuple):
    """
    The wait of the first request in a model's queue.

    :ivar seconds: since it arrived
    :ivar reason: what it waits for, to follow "for"; such as "its load"
    """

    seconds: float
    reason: str


class Waits:
    """
    Tells what requests wait for at one moment.

    :param room: the scheduler's
    :param now: seconds on the scheduler's clock
    :ivar now: as given
    """

    def __init__(self, room: Room, now: float) -> None:
        self._room = room
        self.now = now

    def __repr__(self) -> str:
        return f"<Waits at {self.now} for {self._room}>"

    def of(self, models: Iterable[Model]) -> Wait | None:
        """
        The wait of the first of several models' waiters.

        :return: None if none waits
        """
        waited = [model for model in models if model.waiting]
        if not waited:
            return None
        first = min(waited, key=lambda model: model.waiting.since)
        return Wait(round(self.now - first.waiting.since, 3), self.reason(first))

    def reason(self, model: Model) -> str:
        """What the requests in a model's queue wait for, as in `Wait`."""
        if model.status is Status.LOADING:
            return "its server to be reached" if model.takes_no_room else "its load"
        if model.status is Status.FAILED:
            return f"its restart in {max(model.retry_at - self.now, 0):.0f} s"
        if model.status is Status.UNLOADED:
            return self._for_room
        if model.status is Status.READY and not model.closing:
            return f"a slot: {model.taken} of {model.slots} are taken"
        if model.status is Status.READY and not model.leaving:
            return "its next load: it makes room for others first"
        return "its next load: it is being unloaded first"

    @cached_property
    def _for_room(self) -> str:
        """Who holds the room: the same for all models that wait for some."""
        names: dict[str, list[str]] = {}
        for model in sorted(self._room.in_memory, key=lambda model: model.number):
            name = f"`{harmless(model.name, NAME_LENGTH)}`"
            names.setdefault(_held_by(model), []).append(name)
        held = [f"{_listed(names[what])} {what}" for what in sorted(names)]
        return f"room: {', '.join(held)}" if held else "room"


def _held_by(model: Model) -> str:
    """Why a model that is in memory keeps its room."""
    if model.status is Status.STOPPING:
        return "stopping"
    if model.status is Status.LOADING:
        return "loading"
    if model.in_flight:
        return "busy"
    return "pinned" if model.pinned else "just loaded"


def _listed(names: list[str]) -> str:
    """A few names, how many more, and their verb."""
    told, more = names[:NAMES], len(names) - NAMES
    if more > 0:
        told.append(f"{more} more")
    return f"{', '.join(told[:-1])} and {told[-1]} are" if len(told) > 1 else f"{told[0]} is"
