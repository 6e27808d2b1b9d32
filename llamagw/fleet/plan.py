"""
Who gets room where memory is counted in bytes, and who goes for it.

`make_plan` reads a `Room` and changes nothing; scheduler.py carries the plan out. It is made anew
after each event, so that no part of it outlives its reason. The numbers are those of the contract
in scheduler.py; the rules about one model are in room.py, which also decides where models are only
counted.

One pass over those that want room, the longest wait first. For each that cannot be started, room is
set aside, so that who comes later does not take it:

- room that is about to become free;
- else that of idle models, if it suffices (3);
- else, when it is out of patience, that of busy ones too (5). If there are not enough, since some
  are loading, the room that it needs is set aside all the same: it is its turn when they are ready.

A pass takes time in proportion to the models in memory, and `LOOKED_AT` of those that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from llamagw.fleet.books import Books, Capacity
from llamagw.fleet.model import Model
from llamagw.fleet.room import (
    Room,
    closing_rank,
    is_closing,
    is_going,
    may_close,
    may_stop,
    patience_ends,
    stays_busy_until,
    stays_idle_until,
    stopping_rank,
)
from llamagw.launch import Need
from llamagw.models import HOST

#: How many of the models that want room are looked at, the longest wait first. Room is set aside
#: for those before, so that the ones behind rarely could be started.
LOOKED_AT = 16


class Lack(NamedTuple):
    """
    Why a model never fits on a device (12).

    :ivar device: its name
    :ivar need: bytes that the model takes there
    :ivar budget: bytes that are ours
    :ivar others: bytes of them that others hold
    :ivar pinned: the pinned models that are there, and the bytes of each
    """

    device: str
    need: int
    budget: int
    others: int
    pinned: tuple[tuple[str, int], ...] = ()


class Plan:
    """
    What is to be done now.

    :ivar starts: models to be started, each with the need that there is room for
    :ivar stops: models to be evicted, each with the one that gets the room; None if there is more
        in memory than fits
    :ivar closing: models that are to be closed, or to stay so, because their room is needed
    :ivar refused: models that never fit, with what they lack
    :ivar over: whether more is in memory than fits
    :ivar wake_at: when the plan may be another one though nothing has happened, in seconds on the
        scheduler's clock; None for never
    """

    __slots__ = ("closing", "over", "refused", "starts", "stops", "wake_at")

    def __init__(self) -> None:
        self.starts: list[tuple[Model, Need | None]] = []
        self.stops: dict[Model, Model | None] = {}
        self.closing: set[Model] = set()
        self.refused: list[tuple[Model, Sequence[Lack]]] = []
        self.over = False
        self.wake_at: float | None = None

    def __repr__(self) -> str:
        return (
            f"<Plan: {len(self.starts)} start, {len(self.stops)} stop, {len(self.closing)} close, "
            f"{len(self.refused)} refused, wake at {self.wake_at}>"
        )

    def wake(self, at: float) -> None:
        """Have it made anew at this time at the latest."""
        self.wake_at = at if self.wake_at is None else min(self.wake_at, at)


def make_plan(room: Room, now: float) -> Plan:
    """
    Plan who gets room, and who goes for it.

    :param room: with a capacity
    :param now: seconds on the scheduler's clock
    """
    return _Planning(room, now).plan


def needs_of(model: Model, room: Room, pinned: Books | None = None) -> Sequence[Need | None]:
    """
    What a model is counted with when it is started, in each of the places where it can be.

    :param pinned: of the other models that are pinned; None to look for them
    :return: at least one; None in it if its bytes are not counted
    """
    needs: Sequence[Need] = model.needs()
    if not needs:
        return (None,)
    if model.raised:
        needs = [_raised(need, model.raised) for need in needs]
    if model.short or model.anyway:
        pinned = pinned_beside(model, room) if pinned is None else pinned
        needs = [capped(need, pinned, room.capacity or {}) for need in needs]
    return needs


def pinned_beside(model: Model, room: Room) -> Books:
    """What the other models take that are in memory and pinned."""
    return Books(one.charge for one in room.in_memory if one.pinned and one is not model)


def capped(need: Need, pinned: Books, capacity: Mapping[str, Capacity]) -> Need:
    """
    A need that is no more than a model can have alone, beside those that are pinned (13).

    :param pinned: of the other models
    """
    over = pinned.lacks(need, capacity)
    if not over:
        return need
    devices, files = dict(need.devices), need.files
    for device, size in over.items():
        own = devices.get(device, 0)
        devices[device] = max(own - size, 0)
        if device == HOST and size > own:
            files = {}
    return replace(need, devices=devices, files=files)


def lacks_forever(model: Model, room: Room) -> Sequence[Lack]:
    """
    What a model lacks even if all went that can go (12).

    :return: of the place where it lacks the least; empty if it fits somewhere
    """
    if room.capacity is None or model.anyway or model.short:
        return ()
    pinned = pinned_beside(model, room)
    least: tuple[int, Need, dict[str, int]] | None = None
    for need in needs_of(model, room, pinned):
        if need is None:
            return ()
        lacks = pinned.lacks(need, room.capacity)
        if not lacks:
            return ()
        much = sum(lacks.values())
        if least is None or much < least[0]:
            least = much, need, lacks
    assert least is not None, "there is a need at least"
    _, need, lacks = least
    holders = [one for one in room.in_memory if one.pinned and one is not model and one.charge]
    wants = Books().wants(need)
    return [
        Lack(
            device,
            wants[device],
            *room.capacity[device],
            tuple(
                (one.name, held)
                for one in sorted(holders, key=lambda one: one.number)
                if one.charge and (held := Books().wants(one.charge).get(device, 0))
            ),
        )
        for device in lacks
    ]


def _raised(need: Need, raised: Mapping[str, int]) -> Need:
    """A need with what was found to be too little (13)."""
    devices = {device: max(size, raised.get(device, 0)) for device, size in need.devices.items()}
    return replace(need, devices=devices)


# The policies: functions, so that a test can break one at a time


def is_out_of_patience(model: Model, swap_after: float | None, now: float) -> bool:
    """Whether busy models close for it, and nobody overtakes it (5)."""
    return patience_ends(model, swap_after) <= now


def helps(model: Model, lacks: Iterable[str]) -> bool:
    """Whether it holds bytes on a device that lacks them (3)."""
    charge = model.charge
    if charge is None:
        return False
    return any(charge.devices.get(device) or (device == HOST and charge.files) for device in lacks)


def prefers(model: Model) -> int:
    """
    Of those that go for somebody, the ones with the lowest go first.

    What leaves in any case, or is closing already, so that a plan does not change from one event to
    the next; then the idle, then the busy.
    """
    if is_going(model):
        return 0
    if is_closing(model) and not model.idle:
        return 1
    return 2 if model.idle else 3


class _Planning:
    """
    A plan in the making.

    :ivar left: what is taken now, and what is set aside
    :ivar soon: the same when all that stops is gone
    :ivar chosen: the models that go for somebody
    """

    def __init__(self, room: Room, now: float) -> None:
        assert room.capacity is not None, "bytes are counted"
        self.room = room
        self.now = now
        self.capacity = room.capacity
        self.plan = Plan()
        self.left = Books(model.charge for model in room.in_memory)
        self.soon = self.left.copy()
        for model in room.stopping:
            self.soon.remove(model.charge)
        self.plan.over = self.is_over(self.left)
        self.chosen: set[Model] = set()
        self._candidates: list[Model] | None = None
        for _, _, model in room.wanting[:LOOKED_AT]:
            self.serve(model)
        if self.plan.over:
            self.relieve()

    def serve(self, model: Model) -> None:
        """Start a model, or set room aside for it."""
        lacks = lacks_forever(model, self.room)
        if lacks:
            self.plan.refused.append((model, lacks))
            return
        needs = needs_of(model, self.room)
        for need in self.fitting(needs):
            self.plan.starts.append((model, need))
            self.set_aside(need)
            return
        for need in needs:
            if self.soon.fits(need, self.capacity, self.room.limit):
                # It is on its way.
                self.set_aside(need)
                return
        if self.make_room(model, needs, may_stop):
            return
        if not is_out_of_patience(model, self.room.swap_after, self.now):
            # Until then it may be overtaken by what fits in what is free.
            self.plan.wake(patience_ends(model, self.room.swap_after))
        elif not self.make_room(model, needs, lambda one: True):
            self.set_aside(needs[0])

    def fitting(self, needs: Sequence[Need | None]) -> Sequence[Need | None]:
        """
        The need to start with: of the first group that fits, the one that leaves the least room.

        :return: that one; empty if none fits
        """
        fit = [need for need in needs if self.fits_now(need)]
        if len(fit) < 2 or fit[0] is None:
            return fit[:1]
        group = fit[0].group
        return [min((n for n in fit if n is not None and n.group == group), key=self.leaves)]

    def fits_now(self, need: Need | None) -> bool:
        """Whether there is room, now and when what stops is gone, beside what is set aside (4)."""
        limit = self.room.limit
        return self.left.fits(need, self.capacity, limit) and self.soon.fits(
            need, self.capacity, limit
        )

    def leaves(self, need: Need) -> int:
        """How many bytes would be left on the devices that it takes, but the host."""
        return sum(
            self.capacity[device].room - self.left.taken.get(device, 0) - size
            for device, size in need.devices.items()
            if device != HOST and size and device in self.capacity
        )

    def set_aside(self, need: Need | None) -> None:
        """Count a need as taken."""
        self.left.add(need)
        self.soon.add(need)

    def make_room(
        self, model: Model, needs: Sequence[Need | None], may_go: Callable[[Model], bool]
    ) -> bool:
        """
        Have models go for one that waits, if that suffices.

        :param may_go: which ones may
        :return: whether it does
        """
        for need in needs:
            victims = self.victims(need, [one for one in self.candidates() if may_go(one)])
            if victims is not None:
                for one in victims:
                    self.let_go(one, model)
                self.set_aside(need)
                return True
        return False

    def candidates(self) -> list[Model]:
        """Those that may go and are not chosen as yet, in the order in which they go."""
        if self._candidates is None:
            swap_after = self.room.swap_after
            may = [
                one
                for one in self.room.in_memory
                if may_stop(one) or may_close(one) or is_closing(one) or is_going(one)
            ]
            self._candidates = sorted(
                may,
                key=lambda one: (
                    prefers(one),
                    stopping_rank(one, swap_after) if one.idle else closing_rank(one),
                    one.number,
                ),
            )
        return [one for one in self._candidates if one not in self.chosen]

    def victims(self, need: Need | None, may: Sequence[Model]) -> list[Model] | None:
        """
        Those that go for a need: the first ones that help until it fits, less those that it turns
        out to fit with.

        :param may: those that may go, in the order in which they do
        :return: None if all of them would not suffice
        """
        books, limit = self.soon.copy(), self.room.limit
        chosen: list[Model] = []
        for one in may:
            if books.fits(need, self.capacity, limit):
                break
            lacks = () if need is None else books.lacks(need, self.capacity)
            if books.count >= limit or helps(one, lacks):
                chosen.append(one)
                books.remove(one.charge)
        if not books.fits(need, self.capacity, limit):
            return None
        for one in reversed(chosen[:]):
            books.add(one.charge)
            if books.fits(need, self.capacity, limit):
                chosen.remove(one)
            else:
                books.remove(one.charge)
        return chosen

    def let_go(self, model: Model, gets_room: Model | None) -> None:
        """Stop an idle model, close a busy one; not before its stay is over."""
        self.chosen.add(model)
        self.soon.remove(model.charge)
        swap_after = self.room.swap_after
        if is_going(model):
            return
        if may_stop(model):
            until = stays_idle_until(model, swap_after)
            if until > self.now:
                self.plan.wake(until)
            else:
                self.plan.stops[model] = gets_room
            return
        until = stays_busy_until(model, swap_after)
        if until <= self.now or model.closing:
            self.plan.closing.add(model)
        else:
            self.plan.wake(until)

    def is_over(self, books: Books) -> bool:
        """Whether more is taken than there is room for."""
        return books.count > self.room.limit or bool(books.over(self.capacity))

    def relieve(self) -> None:
        """More is in memory than fits: have the first ones go that help (4b)."""
        books = Books(
            one.charge
            for one in self.room.in_memory
            if one not in self.room.stopping and one not in self.chosen
        )
        for one in self.candidates():
            if not self.is_over(books):
                return
            if books.count > self.room.limit or helps(one, books.over(self.capacity)):
                books.remove(one.charge)
                self.let_go(one, None)
