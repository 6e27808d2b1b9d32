"""
The scheduler's state of one model, and the words for it.

Changed by scheduler.py only. What follows from it is decided there, and in room.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from enum import Enum

from llamagw.errors import GatewayError
from llamagw.fleet.queue import Line
from llamagw.launch import Need


class Status(Enum):
    """The state of a model."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"

    # Its own is written in Python, and is called for each request.
    __hash__ = object.__hash__


class Why(Enum):
    """Why a model is stopped."""

    ROOM = "room"
    IDLE = "idle"
    ASKED = "asked"
    RELOAD = "reload"
    END = "end"


#: The states in which a model takes memory.
IN_MEMORY = frozenset({Status.LOADING, Status.READY, Status.STOPPING})

#: The states in which it can be stopped.
RUNNING = frozenset({Status.LOADING, Status.READY})

#: The place of a model in an order: its rank, then its number.
Place = tuple[float, int, "Model"]


class Model:
    """
    The scheduler's state of one model. To be read by others, changed by the scheduler only.

    :param key: its handle
    :param name: its name in messages
    :param number: unique in its scheduler; of models with equal rank, the lowest number comes first
    :param pinned: whether it is never evicted
    :param takes_no_room: whether it is remote: started without a request, and never evicted
    :param needs: tells what it takes in memory, in each of the places where it can be started, the
        best first; nothing if its memory is not counted
    :param slots: how many requests it is sent at once, of those that take a slot; None for all
    """

    __slots__ = (
        "anyway",
        "charge",
        "closing",
        "failed_at",
        "failure",
        "held",
        "in_flight",
        "key",
        "last_used",
        "leaving",
        "load_sec",
        "loaded_at",
        "name",
        "needs",
        "number",
        "pinned",
        "place",
        "raised",
        "retired",
        "retry_at",
        "short",
        "slots",
        "started_at",
        "status",
        "taken",
        "takes_no_room",
        "waiting",
        "why",
    )

    def __init__(
        self,
        key: str,
        name: str,
        number: int,
        pinned: bool,
        takes_no_room: bool = False,
        needs: Callable[[], Sequence[Need]] = tuple,
        slots: int | None = None,
    ) -> None:
        self.key = key
        self.name = name
        self.number = number
        self.pinned = pinned
        self.takes_no_room = takes_no_room
        self.needs = needs
        self.slots = slots
        #: What it is counted with while it is in memory; None if its bytes are not counted.
        self.charge: Need | None = None
        #: Bytes by device that a run of it turned out to need, until it is loaded.
        self.raised: dict[str, int] = {}
        #: Its last load failed for want of memory, and is tried once more.
        self.short = False
        #: Is to be loaded though the figures say that it does not fit.
        self.anyway = False
        self.status = Status.UNLOADED
        #: Admits no requests until it is idle: its room is needed, or it is leaving.
        self.closing = False
        #: Is to be stopped once idle, whether or not its room is needed.
        self.leaving = False
        #: Why it is leaving, if it is.
        self.why = Why.ASKED
        #: Is no longer configured: is leaving, and dropped once its run and leases have ended.
        self.retired = False
        #: Number of leases that have not ended, and of those that take a slot.
        self.in_flight = self.taken = 0
        #: Its waiters.
        self.waiting = Line()
        #: When it was loaded, or a lease that counts as use was given or ended; None before that.
        self.last_used: float | None = None
        #: When its last load began, and when one ended last.
        self.started_at = self.loaded_at = 0.0
        #: What a load of it takes, in seconds; None before the first.
        self.load_sec: float | None = None
        #: Why its last run ended unasked or was given up; None once it has been loaded or unloaded.
        self.failure: GatewayError | None = None
        #: When it failed for the first time since it was last loaded or unloaded.
        self.failed_at = 0.0
        #: When it leaves FAILED.
        self.retry_at = 0.0
        #: Whether requests wait while it is in FAILED, instead of being rejected.
        self.held = False
        #: Its place in `Room.wanting`; None if it is not there.
        self.place: Place | None = None

    def __repr__(self) -> str:
        marks = [mark for mark in ("closing", "leaving", "retired") if getattr(self, mark)]
        state = " ".join([self.key, self.status.value, *marks])
        return f"<Model {state}, {self.in_flight} in flight, {len(self.waiting)} waiting>"

    @property
    def free_slots(self) -> int | None:
        """How many more requests it may be sent, of those that take a slot; None for all."""
        return None if self.slots is None else max(self.slots - self.taken, 0)

    @property
    def idle(self) -> bool:
        """Whether it has no request in flight, and none that it would admit (3)."""
        if self.in_flight:
            return False
        return self.closing or not self.waiting

    @property
    def failed(self) -> bool:
        """
        Whether it is told to have failed: until a load succeeds, though it may be started again.

        Nobody asks for the start of a model that takes no room: it stays failed meanwhile.
        """
        if self.failure is None:
            return False
        retried = self.status is Status.LOADING and self.takes_no_room
        return retried or self.status in (Status.UNLOADED, Status.FAILED)

    def remaining_failure(self, now: float) -> GatewayError:
        """
        Its failure, with ``retry_after`` reduced by the time since it failed.

        :param now: seconds on the scheduler's clock
        """
        assert self.failure is not None, "a model in FAILED has a failure"
        failure = copy.copy(self.failure)
        if failure.retry_after is not None:
            failure.retry_after = max(0.0, self.retry_at - now)
        return failure
