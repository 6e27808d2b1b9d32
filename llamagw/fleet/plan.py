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

from collections.abc import Callable, Sequence
from functools import partial

from msgspec.structs import replace

from llamagw.fleet.books import Books, total
from llamagw.fleet.model import Model
from llamagw.fleet.needs import Lack, lacks_forever, needs_of
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


# The policies: functions, so that a test can break one at a time


def is_out_of_patience(model: Model, swap_after: float | None, now: float) -> bool:
    """Whether busy models close for it, and nobody overtakes it (5)."""
    return patience_ends(model, swap_after) <= now


def helps(model: Model, devices: set[str]) -> bool:
    """Whether it holds bytes on any of these devices (14)."""
    taken = {} if model.charge is None else total(model.charge)
    return any(taken.get(device) for device in devices)


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
            self.left.add(need)
            self.soon.add(need)
            return
        for need in needs:
            if self.fits(need, self.soon):
                # It is on its way.
                self.set_aside(need)
                return
        if self.make_room(model, needs, may_stop):
            return
        if not is_out_of_patience(model, self.room.swap_after, self.now):
            # Until then it may be overtaken by what fits in what is free.
            self.plan.wake(patience_ends(model, self.room.swap_after))
        elif not self.make_room(model, needs, lambda one: True):
            self.claim(needs[0])

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
        return self.fits(need, self.left) and self.fits(need, self.soon)

    def leaves(self, need: Need) -> int:
        """How many bytes would be left on the devices that it takes, but the host."""
        return sum(
            self.capacity[device].room - self.left.taken.get(device, 0) - size
            for device, size in need.devices.items()
            if device != HOST and size and device in self.capacity
        )

    def set_aside(self, need: Need | None) -> None:
        """Count the need of one that waits as taken: its files too, which nobody else has yet."""
        for books in (self.left, self.soon):
            books.add(need and replace(need, devices=books.wants(need), files={}))

    def claim(self, need: Need | None) -> None:
        """
        Set room aside for one that busy models could not make: some that hold it are loading.

        Else there could be one that loads at any time, and it would never be its turn (5).
        """
        self.set_aside(need)

    def make_room(
        self, model: Model, needs: Sequence[Need | None], may_go: Callable[[Model], bool]
    ) -> bool:
        """
        Have models go for one that waits, if that suffices.

        Of needs that are as good as each other, for that for which those go that would first (3).

        :param may_go: which ones may
        :return: whether it does
        """
        may = [one for one in self.candidates() if may_go(one)]
        order = {one: place for place, one in enumerate(may)}
        best: tuple[int, Need | None, list[Model]] | None = None
        for need in needs:
            if best is not None and need is not None and best[1] and need.group != best[1].group:
                break
            victims = self.victims(self.soon.copy(), may, partial(self.fits, need))
            if victims is not None:
                last = max((order[one] for one in victims), default=-1)
                if best is None or last < best[0]:
                    best = last, need, victims
        if best is None:
            return False
        _, need, victims = best
        for one in victims:
            self.let_go(one, model)
        self.set_aside(need)
        return True

    def fits(self, need: Need | None, books: Books) -> bool:
        """Whether a need fits beside what is taken."""
        return books.fits(need, self.capacity, self.room.limit)

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

    def victims(
        self, books: Books, may: Sequence[Model], is_enough: Callable[[Books], bool]
    ) -> list[Model] | None:
        """
        Those that go: the first ones until that is enough, less those without which it is.

        :param books: what is taken; they are removed from it
        :param may: those that may go, in the order in which they do
        :param is_enough: whether no more need go
        :return: None if all of them would not be enough
        """
        chosen: list[Model] = []
        for one in may:
            if is_enough(books):
                break
            chosen.append(one)
            books.remove(one.charge)
        if not is_enough(books):
            return None
        return self.spared(chosen, books, is_enough)

    def spared(
        self, chosen: Sequence[Model], books: Books, is_enough: Callable[[Books], bool]
    ) -> list[Model]:
        """Those of the chosen that have to go: the last ones are let off first (3)."""
        go = list(chosen)
        for one in reversed(chosen):
            books.add(one.charge)
            if is_enough(books):
                go.remove(one)
            else:
                books.remove(one.charge)
        return go

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
        """More is in memory than fits: have those go that make it less, the idle first (14)."""
        books = Books(
            one.charge
            for one in self.room.in_memory
            if one not in self.room.stopping and one not in self.chosen
        )
        may, over = self.candidates(), books.over(self.capacity)
        for group in (list(filter(may_stop, may)), may):
            victims = self.victims(books.copy(), group, lambda books: not self.is_over(books))
            if victims is not None:
                break
        else:
            # It would not be enough, but less.
            victims = [one for one in may if helps(one, over)]
        for one in victims:
            self.let_go(one, None)
