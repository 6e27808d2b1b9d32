"""
Which models fit into memory, and which are evicted when they do not.

Holds the indexes by which the scheduler finds the next model to start, stop, close or open without
visiting each. Models are changed by scheduler.py only, which calls `Room.note` afterwards. The
rules are functions of one model; the numbers in their docstrings are those of the contract in
scheduler.py.

Here models are counted. Where their bytes are counted too, plan.py decides by the same rules.

Remote models take no room, and are in none of the indexes (11).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping

from llamagw.fleet.books import Capacity
from llamagw.fleet.model import IN_MEMORY, RUNNING, Model, Place, Status
from llamagw.fleet.ranked import Ranked

#: Of its load time: how long a model that was just loaded stays for requests to come, though it is
#: idle and others want its room. A longer stay serves more requests for each load, and has others
#: wait longer: by so much of the load of each model that is loaded before theirs, and no more.
STAY = 0.15

#: Of its load time: an idle model goes earlier when nobody has asked for it for so long.
UNASKED = 0.05

#: In seconds: how long a busy model stays after it was loaded, if `STAY` is less. Until it has
#: finished it serves ever fewer requests, which costs time too, however short the loads are.
BUSY_STAY = 3.0


# The rules


def takes_room(model: Model) -> bool:
    """Whether it is in memory; a stopping one is, until its run has ended (4)."""
    return model.status in IN_MEMORY


def makes_room(model: Model) -> bool:
    """Whether its room is about to become free."""
    return model.status is Status.STOPPING


def is_going(model: Model) -> bool:
    """Whether it is stopped once idle anyway: no other model need close for that room (5)."""
    return model.leaving and model.status is Status.READY


def is_closing(model: Model) -> bool:
    """Whether it is closing because its room is needed, and may open again."""
    return model.closing and model.status is Status.READY and not model.leaving


def wants_room(model: Model) -> bool:
    """Whether it is to be started: one load at a time (2), one failure at a time (8)."""
    return model.status is Status.UNLOADED and len(model.waiting) > 0


def may_stop(model: Model) -> bool:
    """Whether it may be evicted now (3)."""
    return not model.pinned and model.status in RUNNING and model.idle


def may_close(model: Model) -> bool:
    """Whether it may close because its room is needed (5)."""
    return (
        not model.pinned
        and model.status is Status.READY
        and not model.closing
        and not model.leaving
    )


def starting_rank(model: Model) -> float:
    """Of the models that want room, the one with the lowest gets it: the longest wait (6)."""
    return model.waiting.since


def stays_idle_until(model: Model, swap_after: float | None) -> float:
    """When an idle model may be stopped, in seconds on the scheduler's clock (3)."""
    if swap_after is not None or model.closing or model.status is not Status.READY:
        return float("-inf")
    assert model.load_sec is not None, "it was loaded"
    assert model.last_used is not None, "it was loaded"
    stay, unasked = STAY * model.load_sec, UNASKED * model.load_sec
    return min(model.loaded_at + stay, model.last_used + unasked)


def stays_busy_until(model: Model, swap_after: float | None) -> float:
    """When a busy model may close, in seconds on the scheduler's clock (5)."""
    if swap_after is not None:
        return float("-inf")
    assert model.load_sec is not None, "it was loaded"
    return model.loaded_at + max(STAY * model.load_sec, BUSY_STAY)


def stopping_rank(model: Model, swap_after: float | None) -> float:
    """
    Of the models that may be evicted, the one with the lowest is (3).

    The least recently used; if models stay, what is not to be waited for, then the one that is
    first to have been unasked for long enough.
    """
    stays = swap_after is None
    if model.last_used is None or (stays and (model.closing or model.status is not Status.READY)):
        return float("-inf")
    return model.last_used + (UNASKED * (model.load_sec or 0.0) if stays else 0.0)


def closing_rank(model: Model) -> float:
    """Of the models that may close, the one with the lowest does: least recently used (5)."""
    return float("-inf") if model.last_used is None else model.last_used


def patience_ends(model: Model, swap_after: float | None) -> float:
    """When a busy model closes for its waiters, in seconds on the scheduler's clock (5)."""
    return model.waiting.since + (swap_after or 0.0)


class Room:
    """
    The models that take room or want some.

    The cost of an event grows with the logarithm of their number. (`wanting` is a sorted list: an
    insertion moves the entries behind it, which takes a microsecond for 5,000.)

    :param limit: how many models may be in memory at once
    :param swap_after: seconds that a request waits for room before a busy model closes; None if
        models stay in proportion to their load times instead
    :ivar capacity: how much may be used of each device; None if bytes are not counted
    :ivar over: where bytes are counted, whether more is in memory than fits
    :ivar wanting: models to be started, the longest wait first
    :ivar in_memory: models that take room
    :ivar stopping: those of them whose room is about to become free
    :ivar going: those of them that are stopped once idle in any case
    :ivar closing: those that are closing because room is needed, in the order in which they closed
    """

    __slots__ = (
        "_open",
        "_stoppable",
        "capacity",
        "closing",
        "going",
        "in_memory",
        "limit",
        "over",
        "stopping",
        "swap_after",
        "wanting",
    )

    def __init__(self, limit: int, swap_after: float | None) -> None:
        self.limit = limit
        self.swap_after = swap_after
        self.capacity: Mapping[str, Capacity] | None = None
        self.over = False
        self.wanting: list[Place] = []
        self.in_memory: set[Model] = set()
        self.stopping: set[Model] = set()
        self.going: set[Model] = set()
        self.closing: dict[Model, None] = {}
        self._stoppable = Ranked(may_stop, self._stopping_rank)
        # Idle models are in here too, but as long as there is one to be stopped none closes.
        self._open = Ranked(may_close, closing_rank)

    def __repr__(self) -> str:
        return (
            f"<Room {len(self.in_memory)} of {self.limit} in memory, {len(self.stopping)} "
            f"stopping, {len(self.closing)} closing, {len(self.wanting)} wanting>"
        )

    def note(self, model: Model) -> None:
        """Update the indexes after a change of the model."""
        if model.takes_no_room:
            return
        _keep(self.in_memory, model, takes_room(model))
        _keep(self.stopping, model, makes_room(model))
        _keep(self.going, model, is_going(model))
        if not is_closing(model):
            self.closing.pop(model, None)
        elif model not in self.closing:
            self.closing[model] = None
        self._stoppable.offer(model)
        self._open.offer(model)
        place = (starting_rank(model), model.number, model) if wants_room(model) else None
        if place != model.place:
            if model.place is not None:
                del self.wanting[bisect_left(self.wanting, model.place)]
            if place is not None:
                insort(self.wanting, place)
            model.place = place

    def fell_idle(self, model: Model) -> None:
        """
        Update the indexes after the end of the model's last lease, when nothing else has changed.

        Equivalent to `note`, but cheap enough for the end of each request.
        """
        if not model.takes_no_room:
            self._stoppable.offer(model)

    def renew(self) -> None:
        """Drop references to retired models, and rank the others anew; visits each model."""
        self._stoppable.renew()
        self._open.renew()

    def place_of(self, model: Model) -> int | None:
        """The place of a model in `wanting`, from 1; None if it is not there."""
        return None if model.place is None else bisect_left(self.wanting, model.place) + 1

    @property
    def free(self) -> int:
        """How many more models fit (4); less than 0 when the limit was lowered."""
        return self.limit - len(self.in_memory)

    @property
    def shortage(self) -> int:
        """How many models are to be stopped, beside those stopping, for `wanting` and the limit."""
        return max(len(self.wanting) + max(-self.free, 0) - len(self.stopping), 0)

    @property
    def in_need(self) -> bool:
        """Whether a model that falls idle may have to be stopped."""
        return bool(self.wanting) or self.over or len(self.in_memory) > self.limit

    def next_to_start(self) -> Model | None:
        """The model that gets free room; None if none wants it or there is none."""
        return self.wanting[0][2] if self.wanting and self.free > 0 else None

    def next_to_stop(self, now: float) -> Model | None:
        """The model to evict; None if there is no shortage, none is idle, or it stays as yet."""
        model = self._next_to_go()
        over = model is not None and stays_idle_until(model, self.swap_after) <= now
        return model if over else None

    def gets_room_next(self) -> Model | None:
        """The model that gets the room of the next one stopped; None if the limit was lowered."""
        # The first that are stopped make up for the lower limit, the others are for `wanting`.
        place = len(self.stopping) - max(-self.free, 0)
        return self.wanting[place][2] if 0 <= place < len(self.wanting) else None

    def next_to_close(self, needed: int, now: float) -> Model | None:
        """
        The model to close.

        None if ``needed`` models are closing, an idle one is about to go, or none may close now.
        """
        model = self._next_to_close(needed)
        over = model is not None and stays_busy_until(model, self.swap_after) <= now
        return model if over else None

    def next_to_open(self, needed: int) -> Model | None:
        """The model to open again, the last that closed; None if no more than ``needed`` close."""
        return next(reversed(self.closing)) if len(self.closing) > needed else None

    def to_close(self, now: float) -> tuple[int, float | None]:
        """
        How many busy models are to close.

        One for each model whose first waiter is out of patience, and for each over the limit, less
        those that are stopped in any case.

        :param now: seconds on the scheduler's clock
        :return: their number; and when the next model's waiter is out of patience, None if none
        """
        short = self.shortage
        # The first ones get the room that is about to become free: none need close for them.
        first = max(len(self.wanting) - short, 0)
        swap_after = self.swap_after
        patient = bisect_right(
            self.wanting, now, first, key=lambda place: patience_ends(place[2], swap_after)
        )
        due = None
        if patient < len(self.wanting):
            due = patience_ends(self.wanting[patient][2], swap_after)
        over = max(short - len(self.wanting), 0)
        return max(patient - first + over - len(self.going), 0), due

    def stay_ends(self, needed: int) -> float | None:
        """
        When the stay ends of the model that is to be stopped or to close next.

        :param needed: how many models are to close
        :return: seconds on the scheduler's clock; None if there is none
        """
        if self.swap_after is not None:
            return None
        if idle := self._next_to_go():
            return stays_idle_until(idle, None)
        busy = self._next_to_close(needed)
        return stays_busy_until(busy, None) if busy else None

    def _next_to_go(self) -> Model | None:
        """The idle model that is evicted when its stay ends; None if none is, or need be."""
        return self._stoppable.first() if self.shortage else None

    def _next_to_close(self, needed: int) -> Model | None:
        """The model that closes when its stay ends; None if none does, or need."""
        if len(self.closing) >= needed or self._next_to_go():
            return None
        return self._open.first()

    def _stopping_rank(self, model: Model) -> float:
        return stopping_rank(model, self.swap_after)


def _keep(models: set[Model], model: Model, belongs: bool) -> None:
    """Add the model to a set, or remove it."""
    if belongs:
        models.add(model)
    else:
        models.discard(model)
