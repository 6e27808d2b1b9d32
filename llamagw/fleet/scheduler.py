"""
Who runs, who waits, who is evicted.

Pure decisions: no I/O, no clock of its own. The scheduler is told what happened (`arrived`,
`left`, `finished`, `loaded`, `load_failed`, `exited`, `recovered`, `unload`, `rest`, `drain`,
`abandon`, `tick`) and answers with the actions that follow, in order; the manager carries them
out. ``now`` is seconds on any clock that does not go back.

The contract
------------
1. A ready model that is not closing admits at once.
2. One load per model at a time, shared by all who wait for it.
3. Only an idle model that is not pinned is stopped for room, the least recently used first.
4. Never more than ``limit`` models in memory; a stopping one counts until its process is gone.
5. Nobody starves. When somebody has waited ``swap_after`` seconds for room that busy models
   hold, the least recently used busy model that is not pinned *closes*: it finishes what it has,
   its newcomers queue, then it is swapped. A model just loaded admits all who queued for it
   before it can close.
6. First come, first served within a model, and between models that wait for room.
7. A lease ends exactly once (`finished`; the Lease object sees to "once").
8. Whoever waits is answered: admitted, rejected with a reason, or gone by itself (`left`).
9. A model that is to be unloaded, pinned or not, closes for good: it finishes what it has (a
   loading one first serves all who queued for it) and is stopped; for its newcomers it is started
   anew. By force it is killed at once, and who waits for it is rejected. One that has not been
   used for the given time is unloaded when its `rest` is looked at.
10. Who must not load is admitted at once or rejected at once, and counts as no use.
11. A model that lives *elsewhere* takes no room and makes none: it is started whenever it is not.

How it works
------------
A model is in one of five states; a queue of tickets waits at it::

    unloaded --Start--> loading --loaded--> ready --Stop--> stopping --exited--> unloaded
                           |                  |                                     ^
                           +-- load_failed, exited with a failure --> failed --recovered

Whatever happens, `_settle` looks at the whole and decides anew, so that no decision outlives its
reason: a model that was closing for a waiter who has left opens again.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Hashable, Iterable
from enum import Enum
from typing import NamedTuple

from llamagw.errors import (
    GatewayError,
    ModelNotLoaded,
    ModelUnavailable,
    ServerBusy,
    ShuttingDown,
)


class Admit(NamedTuple):
    """Give the waiter its lease."""

    ticket: Hashable


class Reject(NamedTuple):
    """Tell the waiter that it waits in vain, and why."""

    ticket: Hashable
    error: GatewayError


class Start(NamedTuple):
    """Start the model's backend; `Scheduler.loaded` or `Scheduler.exited` must follow."""

    key: str


class Stop(NamedTuple):
    """Stop the model's backend; `Scheduler.exited` must follow."""

    key: str


class Kill(NamedTuple):
    """End the model's backend at once, stopping or not; `Scheduler.exited` must follow."""

    key: str


Action = Admit | Reject | Start | Stop | Kill


class Status(Enum):
    """Where a model is in its life, as the scheduler sees it."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"


#: The states in which a model takes memory.
IN_MEMORY = frozenset({Status.LOADING, Status.READY, Status.STOPPING})


class Model:
    """What the scheduler knows of one model. To be read by others, changed by nobody else."""

    __slots__ = (
        "closing",
        "elsewhere",
        "failed_at",
        "failure",
        "in_flight",
        "key",
        "last_used",
        "leaving",
        "name",
        "pinned",
        "retired",
        "status",
        "waiting",
    )

    def __init__(self, key: str, name: str, pinned: bool, elsewhere: bool = False) -> None:
        self.key = key
        #: What clients call it.
        self.name = name
        #: Makes no room for others.
        self.pinned = pinned
        #: Takes no room here; it is always wanted, and never stopped for anybody.
        self.elsewhere = elsewhere
        self.status = Status.UNLOADED
        #: Finishes what it has and admits nobody: somebody else needs its room, or it is leaving.
        self.closing = False
        #: Is to be stopped when it has finished what it has, whoever needs its room.
        self.leaving = False
        #: Is no longer configured: leaves, and is forgotten when it is gone.
        self.retired = False
        #: Leases out.
        self.in_flight = 0
        #: Who waits, and since when; in the order of arrival.
        self.waiting: dict[Hashable, float] = {}
        #: When a lease that counts as use was last given or ended; None before the first.
        self.last_used: float | None = None
        #: Why it is in FAILED, and since when.
        self.failure: GatewayError | None = None
        self.failed_at = 0.0

    @property
    def idle(self) -> bool:
        """Whether stopping it now takes nothing from anybody whom it has promised an answer."""
        if self.in_flight:
            return False
        return self.closing or not self.waiting

    def what_is_left_of_its_failure(self, now: float) -> GatewayError:
        """Why it cannot be had, and for how much longer."""
        assert self.failure is not None, "a model that failed says why"
        failure = copy.copy(self.failure)
        if failure.retry_after is not None:
            failure.retry_after = max(0.0, failure.retry_after - (now - self.failed_at))
        return failure

    def _age(self) -> float:
        return float("-inf") if self.last_used is None else self.last_used

    def _first_arrival(self) -> float:
        return next(iter(self.waiting.values()))


class Scheduler:
    """
    Decides for a set of models.

    :param keys: what they are to be called by
    :param limit: how many may be in memory at once
    :param swap_after: seconds somebody waits for room before a busy model closes
    :param max_queue: how many may wait for one model
    """

    def __init__(
        self, keys: Iterable[str], *, limit: int, swap_after: float, max_queue: int
    ) -> None:
        self.models = {key: Model(key, key, pinned=False) for key in keys}
        self.limit = limit
        self.swap_after = swap_after
        self.max_queue = max_queue
        self.draining = False
        #: When `tick` is due, if nothing happens before: the next waiter's patience ends.
        self.wake_at: float | None = None

    # What happens to requests

    def arrived(self, key: str, ticket: Hashable, now: float, load: bool = True) -> list[Action]:
        """
        Somebody asks for the model. The ticket comes back in `Admit` or `Reject`.

        :param load: whether it may wait, and be loaded for; if not, it does not count as use
        """
        model = self.models[key]
        if model.status is Status.READY and not model.closing:
            model.in_flight += 1
            if load:
                model.last_used = now
            return [Admit(ticket)]
        if self.draining:
            return [Reject(ticket, ShuttingDown("The gateway is shutting down.", retry_after=5))]
        if not load:
            return [Reject(ticket, _not_loaded(model))]
        if model.status is Status.FAILED:
            return [Reject(ticket, model.what_is_left_of_its_failure(now))]
        if len(model.waiting) >= self.max_queue:
            busy = ServerBusy(
                f"{self.max_queue} requests wait for the model `{model.name}` already.",
                retry_after=5,
            )
            return [Reject(ticket, busy)]
        model.waiting[ticket] = now
        return self._settle(now)

    def left(self, key: str, ticket: Hashable, now: float) -> list[Action]:
        """Somebody who waited went away unanswered."""
        del self.models[key].waiting[ticket]
        return self._settle(now)

    def finished(self, key: str, now: float, used: bool = True) -> list[Action]:
        """
        A lease ended.

        :param used: whether it counts as use (the ``load`` of its arrival)
        """
        model = self.models[key]
        model.in_flight -= 1
        if used:
            model.last_used = now
        self._forget(model)
        if self.wake_at is None and not self.draining:
            for other in self.models.values():
                if other.waiting or other.closing or other.leaving:
                    break
            else:
                return []
        return self._settle(now)

    # What happens to backends

    def loaded(self, key: str, now: float) -> list[Action]:
        """The backend answers; it takes requests."""
        model = self.models[key]
        model.status = Status.READY
        model.last_used = now
        return self._settle(now)

    def load_failed(self, key: str, error: GatewayError, now: float) -> list[Action]:
        """The load is given up; the process may still be there until `exited`."""
        model = self.models[key]
        model.status = Status.STOPPING
        return self._reject_waiting(model, error) + self._settle(now)

    def exited(self, key: str, failure: GatewayError | None, now: float) -> list[Action]:
        """
        The process is gone, its memory free.

        :param failure: why the model cannot be started again yet; None if it can
        """
        model = self.models[key]
        model.closing = False
        model.leaving = model.retired
        model.failure = failure
        model.failed_at = now
        if failure is None:
            model.status = Status.UNLOADED
            self._forget(model)
            return self._settle(now)
        model.status = Status.FAILED
        self._forget(model)
        return self._reject_waiting(model, failure) + self._settle(now)

    def recovered(self, key: str, now: float) -> list[Action]:
        """A failed model may be tried again."""
        model = self.models.get(key)
        if model is None:
            return []
        model.status = Status.UNLOADED
        model.failure = None
        return self._settle(now)

    # What somebody wants of a model

    def unload(self, key: str, now: float, force: bool = False) -> list[Action]:
        """
        The model is to go; what is not in memory stays as it is.

        :param force: at once, whoever waits for it or has a lease
        """
        model = self.models[key]
        if model.status not in IN_MEMORY:
            return []
        if not force:
            model.leaving = True
            return self._settle(now)
        error = ModelUnavailable(
            f"The model `{model.name}` was unloaded by force.", param="model", retry_after=1
        )
        model.status = Status.STOPPING
        return [*self._reject_waiting(model, error), Kill(key), *self._settle(now)]

    def rest(self, key: str, limit: float, now: float) -> tuple[list[Action], float | None]:
        """
        Unload the model if nobody has used it for some time.

        :param limit: this time, in seconds
        :return: the actions; in how many seconds to look again, None if it is not loaded
        """
        model = self.models.get(key)
        if model is None or model.status is not Status.READY:
            return [], None
        if model.in_flight:
            return [], limit
        assert model.last_used is not None, "a model that is ready was loaded"
        due = model.last_used + limit
        if now < due:
            return [], due - now
        return self.unload(key, now), None

    # What happens to the gateway

    def limits(self, *, limit: int, swap_after: float, max_queue: int, now: float) -> list[Action]:
        """The limits are others now; what is over a lower one goes as it falls idle."""
        self.limit = limit
        self.swap_after = swap_after
        self.max_queue = max_queue
        return self._settle(now)

    def add(self, key: str, name: str = "", pinned: bool = False, elsewhere: bool = False) -> None:
        """
        A model is new.

        :param name: what clients call it, if not by its key
        :param pinned: whether it makes no room for others
        :param elsewhere: whether it takes none
        """
        self.models[key] = Model(key, name or key, pinned, elsewhere)

    def retire(self, keys: Iterable[str], now: float) -> tuple[list[Hashable], list[Action]]:
        """
        Models are no longer configured: who has a lease keeps it, then the model is stopped. Their
        keys must not be used again.

        :return: the tickets of those who waited for them, whom the caller has to answer; the
            actions
        """
        waited: list[Hashable] = []
        for key in keys:
            model = self.models[key]
            model.retired = model.leaving = True
            waited += model.waiting
            model.waiting.clear()
            self._forget(model)
        # Once for all of them: a look at the whole for each would take seconds for thousands.
        return waited, self._settle(now)

    def drain(self, now: float) -> list[Action]:
        """From now on nobody is admitted, who waits is rejected, each model stops when idle."""
        self.draining = True
        actions: list[Action] = []
        for model in self.models.values():
            model.closing = True
            error = ShuttingDown("The gateway is shutting down.", retry_after=5)
            actions += self._reject_waiting(model, error)
        return actions + self._settle(now)

    def abandon(self) -> list[Action]:
        """While draining: stop the busy models too; their answers break off."""
        there = (Status.LOADING, Status.READY)
        return [self._stop(m) for m in self.models.values() if m.status in there]

    def tick(self, now: float) -> list[Action]:
        """Time has passed (see ``wake_at``)."""
        return self._settle(now)

    # The decisions

    def _forget(self, model: Model) -> None:
        """Nothing is left of a retired model."""
        if model.retired and not model.in_flight and model.status not in IN_MEMORY:
            self.models.pop(model.key, None)

    def _reject_waiting(self, model: Model, error: GatewayError) -> list[Action]:
        actions: list[Action] = [Reject(ticket, error) for ticket in model.waiting]
        model.waiting.clear()
        return actions

    def _settle(self, now: float) -> list[Action]:
        """Look at the whole and do what it calls for."""
        self.wake_at = None
        actions: list[Action] = []
        models: Collection[Model] = self.models.values()
        if self.draining:
            for model in models:
                if model.status in (Status.LOADING, Status.READY) and not model.in_flight:
                    actions.append(self._stop(model))
            return actions
        for model in models:
            if model.status is Status.READY and not model.closing:
                self._admit_waiting(model, now, actions)
            if model.leaving and model.status in (Status.LOADING, Status.READY):
                model.closing = model.status is Status.READY
                if model.idle:
                    actions.append(self._stop(model))

            if model.elsewhere and model.status is Status.UNLOADED and not model.leaving:
                model.status = Status.LOADING
                actions.append(Start(model.key))

        # The rest is about room, and who needs none has no part in it.
        models = [m for m in models if not m.elsewhere]

        # Who needs room, longest wait first (6); who gets what is free (2, 4).
        wanting = [m for m in models if m.waiting and m.status is Status.UNLOADED]
        wanting.sort(key=Model._first_arrival)
        free = self.limit - sum(m.status in IN_MEMORY for m in models)
        for model in wanting[: max(free, 0)]:
            model.status = Status.LOADING
            actions.append(Start(model.key))
        wanting = wanting[max(free, 0) :]

        # Room that is on its way goes to the first of them; for the others idle ones go (3).
        # A model that closes and is idle now goes before the rest: its newcomers wait.
        over = max(-free, 0)
        stopping = sum(m.status is Status.STOPPING for m in models)
        short = max(len(wanting) + over - stopping, 0)
        there = [m for m in models if m.status in (Status.LOADING, Status.READY) and not m.pinned]
        idle = [m for m in there if m.idle]
        idle.sort(key=lambda m: (not m.closing, m._age()))
        for model in idle[:short]:
            actions.append(self._stop(model))
        short -= len(idle[:short])

        # Busy models hold the rest. As many close as there are waiters out of patience (5), and
        # as are over the limit.
        patient = wanting[len(wanting) - short :] if short < len(wanting) else wanting
        overdue = [m for m in patient if m._first_arrival() + self.swap_after <= now]
        if len(overdue) < len(patient):
            self.wake_at = patient[len(overdue)]._first_arrival() + self.swap_after
        closing = len(overdue) + max(short - len(wanting), 0)
        closing -= sum(m.leaving and m.status is Status.READY for m in models)
        closing = max(closing, 0)
        busy = [m for m in there if m.status is Status.READY and not m.leaving]
        busy.sort(key=lambda m: (not m.closing, m._age()))
        for model in busy[:closing]:
            model.closing = True
        for model in busy[closing:]:
            if model.closing:
                model.closing = False
                self._admit_waiting(model, now, actions)
        return actions

    def _admit_waiting(self, model: Model, now: float, actions: list[Action]) -> None:
        if model.waiting:
            actions.extend(map(Admit, model.waiting))
            model.in_flight += len(model.waiting)
            model.last_used = now
            model.waiting.clear()

    def _stop(self, model: Model) -> Action:
        model.status = Status.STOPPING
        return Stop(model.key)


def _not_loaded(model: Model) -> GatewayError:
    how = {
        Status.LOADING: " (it is loading)",
        Status.READY: " (it is being unloaded)",
        Status.STOPPING: " (it is being unloaded)",
        Status.FAILED: " (it has failed)",
    }.get(model.status, "")
    return ModelNotLoaded(
        f"The model `{model.name}` is not loaded{how}. A GET does not load it: add "
        "?autoload=true, or POST /models/load.",
        param="model",
    )
