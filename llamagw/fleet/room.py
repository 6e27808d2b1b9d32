"""
What fits into memory, and who goes when it does not.

Holds the indexes by which the scheduler finds, without a look at each model, who is to be started,
stopped, closed or opened next. It changes no model: scheduler.py does, and then has it noted here.
The rules are small functions, each of one model or of the room; the numbers in their docstrings
are those of the contract in scheduler.py.

A server elsewhere takes no room, and no part in any of this (11).
"""

from __future__ import annotations

import copy
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from enum import Enum
from heapq import heapify, heappop, heappush, heapreplace

from llamagw.errors import GatewayError
from llamagw.fleet.queue import Line


class Status(Enum):
    """Where a model is in its life, as the scheduler sees it."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


#: The states in which a model takes memory.
IN_MEMORY = frozenset({Status.LOADING, Status.READY, Status.STOPPING})

#: Those in which it can be stopped.
RUNNING = frozenset({Status.LOADING, Status.READY})

#: A model's place among those who want room: its rank, then its number.
Place = tuple[float, int, "Model"]


class Model:
    """
    What the scheduler knows of one model. To be read by others, changed by the scheduler only.

    :param key: the scheduler's handle
    :param name: what clients call it
    :param number: no other model of this scheduler has it; of two that are alike, the lower wins
    :param pinned: whether it makes no room for others
    :param elsewhere: whether it takes no room here; it is always wanted, and stopped for nobody
    """

    __slots__ = (
        "closing",
        "elsewhere",
        "failed_at",
        "failure",
        "held",
        "in_flight",
        "key",
        "last_used",
        "leaving",
        "name",
        "number",
        "pinned",
        "place",
        "retired",
        "status",
        "waiting",
    )

    def __init__(
        self, key: str, name: str, number: int, pinned: bool, elsewhere: bool = False
    ) -> None:
        self.key = key
        self.name = name
        self.number = number
        self.pinned = pinned
        self.elsewhere = elsewhere
        self.status = Status.UNLOADED
        #: Finishes what it has and admits nobody: another needs its room, or it is leaving.
        self.closing = False
        #: Is to be stopped when it has finished what it has, whoever needs its room.
        self.leaving = False
        #: Is no longer configured: leaves, and is forgotten when it is gone.
        self.retired = False
        #: Leases out.
        self.in_flight = 0
        #: Who waits for it.
        self.waiting = Line()
        #: When a lease that counts as use was last given or ended; None before the first.
        self.last_used: float | None = None
        #: Why it is in FAILED, and since when.
        self.failure: GatewayError | None = None
        self.failed_at = 0.0
        #: Whether who asks for it while it is in FAILED waits for the next start.
        self.held = False
        #: Where the room has it among those who want some; None if it wants none.
        self.place: Place | None = None

    def __repr__(self) -> str:
        marks = [mark for mark in ("closing", "leaving", "retired") if getattr(self, mark)]
        said = " ".join([self.key, self.status.value, *marks])
        return f"<Model {said}, {self.in_flight} in flight, {len(self.waiting)} waiting>"

    @property
    def idle(self) -> bool:
        """Whether stopping it now takes nothing from anybody who was promised an answer (3)."""
        if self.in_flight:
            return False
        return self.closing or not self.waiting

    def what_is_left_of_its_failure(self, now: float) -> GatewayError:
        """
        Why it cannot be had, and for how much longer.

        :param now: seconds on the scheduler's clock
        """
        assert self.failure is not None, "a model that failed says why"
        failure = copy.copy(self.failure)
        if failure.retry_after is not None:
            failure.retry_after = max(0.0, failure.retry_after - (now - self.failed_at))
        return failure


# The rules


def takes_room(model: Model) -> bool:
    """Whether it is in memory; a stopping one is, until its process is gone (4)."""
    return model.status in IN_MEMORY


def makes_room(model: Model) -> bool:
    """Whether its room is on its way to another."""
    return model.status is Status.STOPPING


def is_going(model: Model) -> bool:
    """Whether it makes room when it has finished, whoever needs it: nobody closes for that (5)."""
    return model.leaving and model.status is Status.READY


def is_closing(model: Model) -> bool:
    """Whether it closes for another's sake, and may open again."""
    return model.closing and model.status is Status.READY and not model.leaving


def wants_room(model: Model) -> bool:
    """Whether it is to be started: one load at a time (2), one failure at a time (8)."""
    return model.status is Status.UNLOADED and len(model.waiting) > 0


def may_stop(model: Model) -> bool:
    """Whether it may be stopped for another's sake (3)."""
    return not model.pinned and model.status in RUNNING and model.idle


def may_close(model: Model) -> bool:
    """Whether it may close for another's sake (5)."""
    return (
        not model.pinned
        and model.status is Status.READY
        and not model.closing
        and not model.leaving
    )


def starting_rank(model: Model) -> float:
    """Of those who want room, the one with the lowest gets it: the longest wait (6)."""
    return model.waiting.since


def stopping_rank(model: Model) -> float:
    """Of those who may be stopped, the one with the lowest is: the least recently used (3)."""
    return float("-inf") if model.last_used is None else model.last_used


def closing_rank(model: Model) -> float:
    """Of those who may close, the one with the lowest does: the least recently used (5)."""
    return float("-inf") if model.last_used is None else model.last_used


def patience_ends(model: Model, swap_after: float) -> float:
    """When a busy model closes for its sake, in seconds on the scheduler's clock (5)."""
    return model.waiting.since + swap_after


class Ranked:
    """
    Models of one kind, of which the one with the lowest rank is wanted.

    A model that is used changes its rank, and one that is busy is of another kind: if each request
    had to move it here, each would pay. So a model stays where it was put until it comes up, and
    is put right or dropped then. That is right as long as a rank never falls.

    :param belongs: whether a model is of this kind now; one that was not must be offered when it is
    :param rank: its rank now
    """

    __slots__ = ("_belongs", "_heap", "_held", "_rank")

    def __init__(self, belongs: Callable[[Model], bool], rank: Callable[[Model], float]) -> None:
        self._belongs = belongs
        self._rank = rank
        self._heap: list[Place] = []
        self._held: set[Model] = set()

    def offer(self, model: Model) -> None:
        """Have it in mind, if it is of this kind."""
        if model not in self._held and self._belongs(model):
            self._held.add(model)
            heappush(self._heap, (self._rank(model), model.number, model))

    def first(self) -> Model | None:
        """The one with the lowest rank; it stays."""
        while self._heap:
            rank, number, model = self._heap[0]
            if not self._belongs(model):
                heappop(self._heap)
                self._held.discard(model)
            elif rank < (current := self._rank(model)):
                heapreplace(self._heap, (current, number, model))
            else:
                return model
        return None

    def purge(self) -> None:
        """Drop all that are not of this kind now, so that they can be forgotten."""
        self._heap = [place for place in self._heap if self._belongs(place[2])]
        self._held = {model for _, _, model in self._heap}
        heapify(self._heap)


class Room:
    """
    The models that take room or want some.

    Each event costs the logarithm of their number at most. (`wanting` is kept in order by bisect:
    what is behind a new one is moved, which takes a microsecond for 5,000.)

    :param limit: how many models may be in memory at once
    """

    __slots__ = (
        "_open",
        "_stoppable",
        "closing",
        "going",
        "in_memory",
        "limit",
        "stopping",
        "wanting",
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: Who wants room, the longest wait first.
        self.wanting: list[Place] = []
        self.in_memory: set[Model] = set()
        self.stopping: set[Model] = set()
        self.going: set[Model] = set()
        #: In the order in which they were closed.
        self.closing: dict[Model, None] = {}
        self._stoppable = Ranked(may_stop, stopping_rank)
        # An idle model may close as well, but while one can be stopped none closes.
        self._open = Ranked(may_close, closing_rank)

    def __repr__(self) -> str:
        return (
            f"<Room {len(self.in_memory)} of {self.limit} in memory, {len(self.stopping)} "
            f"stopping, {len(self.closing)} closing, {len(self.wanting)} wanting>"
        )

    def note(self, model: Model) -> None:
        """Something about the model has changed."""
        if model.elsewhere:
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
        The model's last lease has ended; nothing else has changed.

        The same as `note`, for the end of each request.
        """
        if not model.elsewhere:
            self._stoppable.offer(model)

    def purge(self) -> None:
        """Some models will not come back: keep nothing of them. Costs a look at each."""
        self._stoppable.purge()
        self._open.purge()

    @property
    def free(self) -> int:
        """How many more models fit (4); less than 0 when the limit was lowered."""
        return self.limit - len(self.in_memory)

    @property
    def shortage(self) -> int:
        """How many are to go, beside those on their way: for who wants room, and for the limit."""
        return max(len(self.wanting) + max(-self.free, 0) - len(self.stopping), 0)

    @property
    def in_need(self) -> bool:
        """Whether it matters to anybody that a model falls idle."""
        return bool(self.wanting) or len(self.in_memory) > self.limit

    def next_to_start(self) -> Model | None:
        """Who gets the room that is free."""
        return self.wanting[0][2] if self.wanting and self.free > 0 else None

    def next_to_stop(self) -> Model | None:
        """Who goes for those whom no room on its way will do."""
        return self._stoppable.first() if self.shortage else None

    def next_to_close(self, needed: int) -> Model | None:
        """Who closes, when this many are to."""
        return self._open.first() if len(self.closing) < needed else None

    def next_to_open(self, needed: int) -> Model | None:
        """Who opens again, when no more than this many are to close: the one that closed last."""
        return next(reversed(self.closing)) if len(self.closing) > needed else None

    def to_close(self, now: float, swap_after: float) -> tuple[int, float | None]:
        """
        How many busy models are to close: as many as are out of patience and as are over the limit,
        less those that go anyway.

        :param now: seconds on the scheduler's clock
        :param swap_after: seconds of patience
        :return: their number; when the next one runs out of patience
        """
        short = self.shortage
        # Room that is on its way goes to the first of them: they wait for nobody else.
        first = max(len(self.wanting) - short, 0)
        patient = bisect_right(
            self.wanting, now, first, key=lambda place: patience_ends(place[2], swap_after)
        )
        wake_at = None
        if patient < len(self.wanting):
            wake_at = patience_ends(self.wanting[patient][2], swap_after)
        over = max(short - len(self.wanting), 0)
        return max(patient - first + over - len(self.going), 0), wake_at


def _keep(models: set[Model], model: Model, belongs: bool) -> None:
    """Have the model among these, or not."""
    if belongs:
        models.add(model)
    else:
        models.discard(model)
