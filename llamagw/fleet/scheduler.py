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
12. A model whose backend crashed, and may be started again at once or soon, keeps its queue: who
    waits for it, and who comes meanwhile, waits for the next start. (How soon that is, backend.py
    says: at once, if it had answered.)

How it works
------------
A model is in one of five states; a line of waiters stands at it (queue.py)::

    unloaded --Start--> loading --loaded--> ready --Stop--> stopping --exited--> unloaded
                           |                  |                                     ^
                           +-- load_failed, exited with a failure --> failed --recovered

Whatever happens, `_settle` decides anew what follows for the models that it happened to, and for
the room that all share, so that no decision outlives its reason: a model that was closing for a
waiter who has left opens again. Who is next is read off the indexes in room.py. So an event costs
the same however many models there are, but for a logarithm; `limits`, `drain`, `abandon` and
`retire` look at each.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from llamagw.errors import GatewayError
from llamagw.fleet.actions import (
    Action,
    Admit,
    Kill,
    Reject,
    Start,
    Stop,
    not_loaded,
    queue_full,
    shutting_down,
    unloaded_by_force,
)
from llamagw.fleet.room import IN_MEMORY, RUNNING, Model, Room, Status

__all__ = [
    "Action",
    "Admit",
    "Kill",
    "Model",
    "Reject",
    "Scheduler",
    "Start",
    "Status",
    "Stop",
]


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
        self.models: dict[str, Model] = {}
        self.room = Room(limit)
        self.swap_after = swap_after
        self.max_queue = max_queue
        self.draining = False
        #: When `tick` is due, if nothing happens before: the next waiter's patience ends.
        self.wake_at: float | None = None
        self._added = 0
        #: Those that are to be looked at with the next event.
        self._new: list[Model] = []
        for key in keys:
            self.add(key)

    def __repr__(self) -> str:
        draining = ", draining" if self.draining else ""
        return f"<Scheduler of {len(self.models)}, wake at {self.wake_at}{draining}, {self.room}>"

    # What happens to requests

    def arrived(self, key: str, ticket: Hashable, now: float, load: bool = True) -> list[Action]:
        """
        Somebody asks for the model. The ticket comes back in `Admit` or `Reject`.

        :param load: whether it may wait, and be loaded for; if not, it does not count as use
        """
        model = self.models[key]
        if self._admits(model, load):
            self._lease(model, now, load)
            return [Admit(ticket)]
        error = self._refusal(model, now, load)
        if error is not None:
            return [Reject(ticket, error)]
        model.waiting.join(ticket, now)
        return self._settle(now, model)

    def left(self, key: str, ticket: Hashable, now: float) -> list[Action]:
        """Somebody who waited went away unanswered."""
        model = self.models[key]
        model.waiting.leave(ticket)
        return self._settle(now, model)

    def finished(self, key: str, now: float, used: bool = True) -> list[Action]:
        """
        A lease ended.

        :param used: whether it counts as use (the ``load`` of its arrival)
        """
        model = self.models[key]
        self._end_lease(model, now, used)
        if model.in_flight:
            return []
        if not self._matters(model):
            self.room.fell_idle(model)
            return []
        self._forget(model)
        return self._settle(now, model)

    # What happens to backends

    def loaded(self, key: str, now: float) -> list[Action]:
        """The backend answers; it takes requests."""
        model = self.models[key]
        model.status = Status.READY
        model.last_used = now
        return self._settle(now, model)

    def load_failed(self, key: str, error: GatewayError, now: float) -> list[Action]:
        """The load is given up; the process may still be there until `exited`."""
        model = self.models[key]
        model.status = Status.STOPPING
        return self._reject_waiting(model, error) + self._settle(now, model)

    def exited(
        self, key: str, failure: GatewayError | None, now: float, hold: bool = False
    ) -> list[Action]:
        """
        The process is gone, its memory free.

        :param failure: why the model cannot be started again before `recovered`; None if it can
        :param hold: whether who asks for it until then waits, instead of being told the failure
        """
        model = self.models[key]
        self._end_life(model)
        model.failure = failure
        model.failed_at = now
        model.held = hold
        model.status = Status.UNLOADED if failure is None else Status.FAILED
        actions: list[Action] = []
        if failure is not None and not self._waits_for_restart(model):
            actions = self._reject_waiting(model, failure)
        self._forget(model)
        return actions + self._settle(now, model)

    def recovered(self, key: str, now: float) -> list[Action]:
        """A failed model may be tried again."""
        model = self.models.get(key)
        if model is None:
            return []
        model.status = Status.UNLOADED
        model.failure = None
        return self._settle(now, model)

    # What somebody wants of a model

    def unload(self, key: str, now: float, force: bool = False) -> list[Action]:
        """
        The model is to go; what is not in memory stays as it is.

        :param force: at once, whoever waits for it or has a lease
        """
        model = self.models[key]
        if model.status not in IN_MEMORY:
            return []
        if force:
            return self._kill(model, now)
        model.leaving = True
        return self._settle(now, model)

    def rest(self, key: str, limit: float, now: float) -> tuple[list[Action], float | None]:
        """
        Unload the model if nobody has used it for some time.

        :param limit: this time, in seconds
        :return: the actions; in how many seconds to look again, None if it is not loaded
        """
        model = self.models.get(key)
        if model is None or model.status is not Status.READY:
            return [], None
        left = self._rests_in(model, limit, now)
        if left > 0:
            return [], left
        return self.unload(key, now), None

    # What happens to the gateway

    def limits(self, *, limit: int, swap_after: float, max_queue: int, now: float) -> list[Action]:
        """The limits are others now; what is over a lower one goes as it falls idle."""
        self.room.limit = limit
        self.swap_after = swap_after
        self.max_queue = max_queue
        return self._settle(now)

    def add(self, key: str, name: str = "", pinned: bool = False, elsewhere: bool = False) -> None:
        """
        A model is new. One that lives elsewhere is started with the next event.

        :param name: what clients call it, if not by its key
        :param pinned: whether it makes no room for others
        :param elsewhere: whether it takes none
        """
        self._added += 1
        model = self.models[key] = Model(key, name or key, self._added, pinned, elsewhere)
        if elsewhere:
            self._new.append(model)

    def retire(self, keys: Iterable[str], now: float) -> tuple[list[Hashable], list[Action]]:
        """
        Models are no longer configured: who has a lease keeps it, then the model is stopped. Their
        keys must not be used again.

        :return: the tickets of those who waited for them, whom the caller has to answer; the
            actions
        """
        waited: list[Hashable] = []
        retired = [self.models[key] for key in keys]
        for model in retired:
            model.retired = True
            self._let_go(model)
            waited += model.waiting.clear()
            self._forget(model)
        # Once for all of them.
        actions = self._settle(now, *retired)
        self.room.purge()
        return waited, actions

    def drain(self, now: float) -> list[Action]:
        """From now on nobody is admitted, who waits is rejected, each model stops when idle."""
        self.draining = True
        actions: list[Action] = []
        for model in self.models.values():
            model.closing = True
            actions += self._reject_waiting(model, shutting_down())
        return actions + self._settle(now, *self.models.values())

    def abandon(self) -> list[Action]:
        """While draining: stop the busy models too; their answers break off."""
        actions: list[Action] = []
        for model in self.models.values():
            if model.status in RUNNING:
                self._stop(model, actions)
        return actions

    def tick(self, now: float) -> list[Action]:
        """Time has passed (see ``wake_at``)."""
        return self._settle(now)

    # The rules: each is a method of its own, so that a test can break one at a time

    def _admits(self, model: Model, load: bool) -> bool:
        """Whether it gives a lease at once (1), also to who must not load (10)."""
        return model.status is Status.READY and not model.closing

    def _refusal(self, model: Model, now: float, load: bool) -> GatewayError | None:
        """Why somebody who was not admitted may not wait (8, 10); None if it may."""
        if self.draining:
            return shutting_down()
        if not load:
            return not_loaded(model)
        if model.status is Status.FAILED and not self._waits_for_restart(model):
            return model.what_is_left_of_its_failure(now)
        if len(model.waiting) >= self.max_queue:
            return queue_full(model)
        return None

    def _waits_for_restart(self, model: Model) -> bool:
        """Whether who asks for a model that has failed waits for its next start (12)."""
        return model.held

    def _lease(self, model: Model, now: float, load: bool) -> None:
        """A lease is given at once (7); it counts as use unless its holder must not load (10)."""
        model.in_flight += 1
        if load:
            model.last_used = now

    def _end_lease(self, model: Model, now: float, used: bool) -> None:
        """A lease ends (7)."""
        model.in_flight -= 1
        if used:
            model.last_used = now

    def _matters(self, model: Model) -> bool:
        """Whether anything follows from the model's falling idle."""
        return model.leaving or model.closing or self.draining or self.room.in_need

    def _serve(self, model: Model, now: float, actions: list[Action]) -> None:
        """All who wait get their leases (2, 6)."""
        tickets = model.waiting.serve()
        if tickets:
            actions.extend(map(Admit, tickets))
            model.in_flight += len(tickets)
            model.last_used = now

    def _reject_waiting(self, model: Model, error: GatewayError) -> list[Action]:
        """All who wait are told why they wait in vain (8)."""
        return [Reject(ticket, error) for ticket in model.waiting.clear()]

    def _end_life(self, model: Model) -> None:
        """Its process is gone; its leases end when their holders say so (7)."""
        model.closing = False
        # An unload is of one life (9); a retired model gets no other.
        model.leaving = model.retired

    def _let_go(self, model: Model) -> None:
        """It is to leave, as it is no longer configured."""
        model.leaving = True

    def _close_to_leave(self, model: Model) -> None:
        """It is leaving: once it is loaded, and has served who waited for that, it closes (9)."""
        model.closing = model.status is Status.READY

    def _has_finished(self, model: Model) -> bool:
        """Whether a model that is leaving can be stopped (9)."""
        return model.idle

    def _starts_by_itself(self, model: Model) -> bool:
        """Whether it is wanted without anybody's asking (11)."""
        return model.elsewhere and model.status is Status.UNLOADED and not model.leaving

    def _rests_in(self, model: Model, limit: float, now: float) -> float:
        """In how many seconds it may go if nobody uses it until then (9)."""
        if model.in_flight:
            return limit
        assert model.last_used is not None, "a model that is ready was loaded"
        return model.last_used + limit - now

    def _kill(self, model: Model, now: float) -> list[Action]:
        """Unload it by force (9)."""
        model.status = Status.STOPPING
        rejected = self._reject_waiting(model, unloaded_by_force(model))
        return [*rejected, Kill(model.key), *self._settle(now, model)]

    def _forget(self, model: Model) -> None:
        """Nothing is left of a retired model."""
        if model.retired and not model.in_flight and model.status not in IN_MEMORY:
            self.models.pop(model.key, None)

    # The decisions

    def _settle(self, now: float, *models: Model) -> list[Action]:
        """
        Decide anew.

        :param models: those that something has happened to
        """
        actions: list[Action] = []
        new, self._new = self._new, []
        for model in (*new, *models):
            if self.draining:
                if model.status in RUNNING and not model.in_flight:
                    self._stop(model, actions)
            else:
                self._look_at(model, now, actions)
            self.room.note(model)
        self.wake_at = None
        if not self.draining:
            self._share_room(now, actions)
        return actions

    def _look_at(self, model: Model, now: float, actions: list[Action]) -> None:
        """Do what the model's own state calls for, whoever needs room."""
        if model.status is Status.READY and not model.closing:
            self._serve(model, now, actions)
        if model.leaving and model.status in RUNNING:
            self._close_to_leave(model)
            if self._has_finished(model):
                self._stop(model, actions)
        if self._starts_by_itself(model):
            self._start(model, actions)

    def _share_room(self, now: float, actions: list[Action]) -> None:
        """Give what is free (4, 6); for the rest stop idle models (3), close busy ones (5)."""
        room = self.room
        while model := room.next_to_start():
            self._start(model, actions)
        while model := room.next_to_stop():
            self._stop(model, actions)
        needed, self.wake_at = room.to_close(now, self.swap_after)
        while model := room.next_to_close(needed):
            model.closing = True
            room.note(model)
        while model := room.next_to_open(needed):
            self._open(model, now, actions)

    def _start(self, model: Model, actions: list[Action]) -> None:
        model.status = Status.LOADING
        self.room.note(model)
        actions.append(Start(model.key))

    def _stop(self, model: Model, actions: list[Action]) -> None:
        model.status = Status.STOPPING
        self.room.note(model)
        actions.append(Stop(model.key))

    def _open(self, model: Model, now: float, actions: list[Action]) -> None:
        """Nobody needs its room any more: it takes newcomers again (1)."""
        model.closing = False
        self._serve(model, now, actions)
        self.room.note(model)
