"""
Decides which models run, which requests wait, and which models are evicted.

Pure decisions: no I/O, no clock of its own. Each event is a method (`arrived`, `left`, `finished`,
`loaded`, `measured`, `memory`, `load_failed`, `exited`, `recovered`, `unload`, `idle_timeout`,
`drain`, `abandon`, `tick`) that returns the actions that follow, in order; the dispatcher carries
them out. ``now`` is seconds on any clock that does not go back. A *model* here is one instance:
each has a key.

The contract
------------
1. A ready model that is not closing admits at once, as many as it has slots for. (A request that
   takes none is always admitted.)
2. One load per model at a time, shared by all of its waiters.
3. Only an idle model that is not pinned is stopped for room, the least recently used first, and
   not before its stay is over (see below).
4. Never more than ``limit`` models in memory; a stopping one counts until its process is gone.
5. No request starves. When one waits for room, no idle model can make it, and the stay of the
   least recently used busy model that is not pinned is over, that one *closes*: it finishes its
   requests in flight, new ones queue, then it is evicted. A model just loaded admits its waiters,
   as many as it has slots for, before it can close; those that are left wait for its next load.
6. Within a model those of a higher class first, then fair by who sends them, then first come,
   first served (queue.py). Between models that wait for room, first come, first served: whatever
   its class, who has waited longest.
7. A lease ends exactly once (`finished`; the Lease object sees to "once").
8. Each waiter is admitted, rejected with a reason, or has left (`left`).
9. A model that is to be unloaded, pinned or not, closes for good: it finishes its requests in
   flight (a loading one first admits all of its waiters) and is stopped; for requests that arrive
   in between it is started again. By force it is killed at once, and its waiters are rejected.
   One that has not been used for the given time is unloaded at its `idle_timeout`.
10. A request that must not load is admitted at once or rejected at once, and does not count as use.
11. A remote model takes no room and makes none: it is started whenever it does not run.
12. A model whose backend crashed, and may be started again at once or soon, keeps its queue:
    waiters, and requests that arrive before the next start, wait for it. (How soon that is, is
    decided in llamagw.launch: at once, if the backend had answered a request.)

Where memory is counted in bytes
--------------------------------
With a capacity (`memory`), room is bytes on several devices, and ``limit`` is one more. A model has
*needs*: what it takes, in each of the places where it can be started. While it is in memory it has
a *charge*.

13. A load starts only if on each device its need and all charges are within what is ours less what
    others hold. It is charged from its start until its process is gone.
14. A charge is what was estimated or learned; it rises to what is measured, and never falls while
    the model is in memory. Where more is held than there is room for, nothing starts; idle models
    that hold some there are stopped, or busy ones close.
15. A model that would not fit even if all went that can go is refused at once, unless it is asked
    for all the same: then it is counted with what it can have.
16. A load that fails for want of memory is tried once more, if others could go that hold memory
    where it needs some: counted with a quarter more, and with so much that one of them has to go.
    Its waiters stay. The second time it has failed.

Of idle models as few as possible go (3), and only if they suffice with what is about to become
free. Within its patience a request may be overtaken by one that fits in what is free; after it,
room is set aside for it, and busy models close (5), those that are closing already first.

How long a model stays
----------------------
An eviction costs the model's next load, for which all who ask for it then wait. With
``swap_after`` None the stay of a model is in proportion to its load time, the average of its own
past loads (`Scheduler._measure`). It begins when the model is loaded:

- a busy one stays for `room.STAY` of its load time, `room.BUSY_STAY` seconds at the least;
- an idle one stays for `room.STAY` of its load time as well, but only as long as it is asked again
  within `room.UNASKED` of it. Of several, the one goes for which this is over first.

So a load serves more than one round of requests, no wait grows by more than that part of the loads
that are before it, and nobody waits for a model that has been in memory for long or that nobody
has asked for lately. With ``swap_after`` in seconds an idle model does not stay, and a busy one
stays until a request has waited that long for room.

How it works
------------
A model is in one of five states, and has a queue of waiters (queue.py)::

    unloaded --Start--> loading --loaded--> ready --Stop--> stopping --exited--> unloaded
                           |                  |                                     ^
                           +-- load_failed, exited with a failure --> failed --recovered, unload

The last failure of a model is kept, to be told, until a load succeeds or the model is unloaded.

After each event, `_settle` decides again for the models concerned, and for the room that all
share, so that no decision outlives its reason: a model that was closing for the sake of a waiter
that has left opens again. The next model to start, stop or close is read from the indexes in
room.py. So the cost of an event grows with the logarithm of the number of models; that of `limits`,
`drain`, `abandon` and `retire`, which visit each, with the number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from msgspec.structs import replace

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
from llamagw.fleet.books import Books, Capacity, total
from llamagw.fleet.model import IN_MEMORY, RUNNING, Model, Status, Why
from llamagw.fleet.needs import Lack, lacks_forever, more_than
from llamagw.fleet.plan import make_plan
from llamagw.fleet.queue import ALIKE, Share
from llamagw.fleet.room import Room, is_closing
from llamagw.fleet.shortage import never_fits, ran_out
from llamagw.launch import Need
from llamagw.models import HOST

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

    Each event takes the ``key`` of the model that it concerns and ``now``, and returns the actions
    that follow, in the order in which they are to be carried out.

    :param keys: the keys of the initial models
    :param limit: how many models may be in memory at once
    :param swap_after: seconds that a request waits for room before a busy model closes; None if
        models stay in proportion to their load times instead
    :param max_queue: how many requests of one flow may wait for one model
    :ivar models: by key; to be read by others, changed by the scheduler only
    :ivar room: the indexes of the models that take room or want some
    :ivar draining: whether `drain` was called
    :ivar wake_at: when `tick` is due if no event comes before: a waiter's ``swap_after`` ends, or a
        model's stay; None for never
    """

    def __init__(
        self, keys: Iterable[str], *, limit: int, swap_after: float | None, max_queue: int
    ) -> None:
        self.models: dict[str, Model] = {}
        self.room = Room(limit, swap_after)
        self.max_queue = max_queue
        self.draining = False
        self.wake_at: float | None = None
        self._added = 0
        #: Remote models added since the last event, which starts them.
        self._new: list[Model] = []
        for key in keys:
            self.add(key)

    def __repr__(self) -> str:
        draining = ", draining" if self.draining else ""
        return f"<Scheduler of {len(self.models)}, wake at {self.wake_at}{draining}, {self.room}>"

    # Events of requests

    def arrived(
        self,
        key: str,
        ticket: Hashable,
        now: float,
        load: bool = True,
        anyway: bool = False,
        share: Share | None = ALIKE,
    ) -> list[Action]:
        """
        A request for the model has arrived.

        :param ticket: its handle, which comes back in `Admit` or `Reject`
        :param load: whether it may wait, and the model be loaded for it; if not, it does not count
            as use
        :param anyway: whether the model is loaded even if the figures say that it never fits
        :param share: whose turn it is, if it has to wait; None if it takes no slot
        """
        model = self.models[key]
        if anyway:
            self._allow(model)
        if self._admits(model, load, share is not None):
            self._lease(model, now, load, share is not None)
            return [Admit(ticket)]
        error = self._refusal(model, now, load, share)
        if error is not None:
            return [Reject(ticket, error)]
        model.waiting.join(ticket, now, share)
        return self._settle(now, model)

    def left(self, key: str, ticket: Hashable, now: float) -> list[Action]:
        """A waiter has left: its request was cancelled, or timed out."""
        model = self.models[key]
        model.waiting.leave(ticket)
        self._given_up(model)
        return self._settle(now, model)

    def finished(self, key: str, now: float, used: bool = True, slot: bool = True) -> list[Action]:
        """
        A lease has ended.

        :param used: whether it counts as use: the ``load`` of its arrival
        :param slot: whether it took a slot
        """
        model = self.models[key]
        self._end_lease(model, now, used, slot)
        actions: list[Action] = []
        was_full = slot and model.slots is not None and model.taken + 1 >= model.slots
        if was_full and model.waiting and model.status is Status.READY and not model.closing:
            # Who waits for a slot gets it. Nothing else changes: the model is as busy as before.
            self._serve(model, now, actions)
        if model.in_flight:
            return actions
        if not self._matters(model):
            self.room.fell_idle(model)
            return []
        self._forget(model)
        return self._settle(now, model)

    def relieve(self, key: str, now: float) -> tuple[list[Hashable], list[Action]]:
        """
        Have the first who waits for one model be served by another that does the same.

        :param key: of the one for which it waits
        :return: the tickets that leave this queue, for `arrived` at the other; what follows here
        """
        model = self.models[key]
        tickets, _ = model.waiting.serve(1, now)
        self._given_up(model)
        return tickets, self._settle(now, model)

    # Events of backends

    def loaded(self, key: str, now: float) -> list[Action]:
        """The backend is ready for requests."""
        model = self.models[key]
        model.status = Status.READY
        model.failure = None
        model.last_used = now
        model.raised, model.short = {}, False
        self._measure(model, now)
        return self._settle(now, model)

    def measured(self, key: str, devices: Mapping[str, int], now: float) -> list[Action]:
        """
        The model's run was seen to take memory.

        :param devices: bytes of its own, by device
        """
        model = self.models.get(key)
        if model is None or model.charge is None or not self._grows(model, devices):
            return []
        return self._settle(now, model)

    def memory(self, capacity: Mapping[str, Capacity] | None, now: float) -> list[Action]:
        """
        How much memory there is, or has others in it, is known anew.

        :param capacity: by device; None if bytes are not counted
        """
        if capacity == self.room.capacity:
            return []
        self.room.capacity = capacity
        if capacity is None:
            self.room.over = False
        for model in self.room.in_memory:
            if model.charge is None:
                # It was started when bytes were not counted.
                model.charge = next(iter(model.needs()), None)
        return self._settle(now)

    def load_failed(self, key: str, error: GatewayError, now: float) -> list[Action]:
        """
        The load was given up; the process may run until `exited`.

        :param error: what the waiters are rejected with
        """
        model = self.models[key]
        model.status = Status.STOPPING
        return self._reject_waiting(model, error) + self._settle(now, model)

    def exited(
        self,
        key: str,
        failure: GatewayError | None,
        now: float,
        hold: bool = False,
        out_of_memory: bool = False,
    ) -> list[Action]:
        """
        The run has ended, and its memory is free.

        :param failure: why, if that was not asked for; unless its ``retry_after`` is 0, the model
            cannot be started again before `recovered`
        :param hold: whether requests wait until then, instead of being rejected with the failure
        :param out_of_memory: whether it ended for want of memory
        """
        model = self.models[key]
        again = out_of_memory and self._is_tried_again(model)
        charge, model.charge = model.charge, None
        ran_short = out_of_memory and charge is not None and model.status is Status.LOADING
        if out_of_memory and charge is not None:
            self._raise(model, charge)
        self._end_life(model)
        model.held = hold
        model.status = Status.UNLOADED
        model.short = again
        actions: list[Action] = []
        if failure is not None and not again:
            if ran_short:
                assert charge is not None
                failure = ran_out(model, charge, failure)
            self._fail(model, failure, now)
            if model.status is Status.FAILED and not self._waits_for_restart(model):
                actions = self._reject_waiting(model, failure)
        self._forget(model)
        return actions + self._settle(now, model)

    def recovered(self, key: str, now: float) -> list[Action]:
        """A failed model may be started again."""
        model = self.models.get(key)
        if model is None:
            return []
        model.status = Status.UNLOADED
        return self._settle(now, model)

    # Unloads

    def unload(self, key: str, now: float, force: bool = False) -> list[Action]:
        """
        Unload the model. One that has failed has not any more, and may be started again.

        :param force: kill it at once, reject its waiters, and break off its requests in flight;
            without effect on a model that is not in memory
        """
        model = self.models[key]
        model.failure = None
        if model.status is Status.FAILED:
            model.status = Status.UNLOADED
        elif model.status not in IN_MEMORY:
            return []
        elif force:
            return self._kill(model, now)
        else:
            self._leave(model, Why.ASKED)
        return self._settle(now, model)

    def idle_timeout(self, key: str, limit: float, now: float) -> tuple[list[Action], float | None]:
        """
        Unload the model if it has not been used for some time.

        :param limit: this time, in seconds
        :return: the actions; and in how many seconds to call again, None if the model is not ready
            or is being unloaded
        """
        model = self.models.get(key)
        if model is None or model.status is not Status.READY:
            return [], None
        left = self._idle_timeout_in(model, limit, now)
        if left > 0:
            return [], left
        self._leave(model, Why.IDLE)
        return self._settle(now, model), None

    def pin(self, key: str, pinned: bool, now: float) -> list[Action]:
        """
        Pin a model, or unpin it. One that closes because its room is needed opens again.

        :param pinned: whether it is never evicted from now on; not all that fit may be pinned
        """
        model = self.models[key]
        model.pinned = pinned
        actions: list[Action] = []
        if self._opens_when_pinned(model):
            self._open(model, now, actions)
        return actions + self._settle(now, model)

    # Changes of the configuration, and the end

    def limits(
        self, *, limit: int, swap_after: float | None, max_queue: int, now: float
    ) -> list[Action]:
        """
        Change the limits; models over a lower ``limit`` are stopped as they fall idle.

        The parameters are those of the class.
        """
        self.room.limit = limit
        self.room.swap_after = swap_after
        self.room.renew()
        self.max_queue = max_queue
        return self._settle(now)

    def add(
        self,
        key: str,
        name: str = "",
        pinned: bool = False,
        takes_no_room: bool = False,
        needs: Callable[[], Sequence[Need]] = tuple,
        slots: int | None = None,
    ) -> None:
        """
        Add a model. A remote one is started at the next event.

        :param key: not used before, not even by a retired model
        :param name: its name in messages; the key if empty
        :param pinned: whether it is never evicted
        :param takes_no_room: whether it is remote
        :param needs: tells what it takes in memory, in each of the places where it can be started,
            the best first; nothing if its memory is not counted
        :param slots: how many requests it is sent at once, of those that take a slot; None for all
        """
        self._added += 1
        model = Model(key, name or key, self._added, pinned, takes_no_room, needs, slots)
        self.models[key] = model
        if takes_no_room:
            self._new.append(model)

    def retire(self, keys: Iterable[str], now: float) -> tuple[list[Hashable], list[Action]]:
        """
        Remove models: each is stopped when its leases have ended.

        Their keys must not be used again.

        :return: the tickets of their waiters, which the caller has to answer; and the actions
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
        self.room.renew()
        return waited, actions

    def drain(self, now: float) -> list[Action]:
        """Admit no more requests, reject the waiters, and stop each model when it is idle."""
        self.draining = True
        actions: list[Action] = []
        for model in self.models.values():
            model.closing = True
            actions += self._reject_waiting(model, shutting_down())
        return actions + self._settle(now, *self.models.values())

    def abandon(self) -> list[Action]:
        """While draining: stop the busy models too; their requests in flight break off."""
        actions: list[Action] = []
        for model in self.models.values():
            if model.status in RUNNING:
                self._stop(model, actions, Why.END)
        return actions

    def tick(self, now: float) -> list[Action]:
        """Decide again because time has passed (see ``wake_at``)."""
        return self._settle(now)

    # The rules: each is a method of its own, so that a test can break one at a time

    def _admits(self, model: Model, load: bool, slot: bool) -> bool:
        """Whether a request is admitted at once (1), whether it may load or not (10)."""
        if model.status is not Status.READY or model.closing:
            return False
        return not slot or model.slots is None or model.taken < model.slots

    def _refusal(
        self, model: Model, now: float, load: bool, share: Share | None
    ) -> GatewayError | None:
        """Why a request that was not admitted may not wait (8, 10); None if it may."""
        if self.draining:
            return shutting_down()
        if not load:
            return not_loaded(model)
        if model.status is Status.FAILED and not self._waits_for_restart(model):
            return model.remaining_failure(now)
        if model.waiting.of(share) >= self.max_queue:
            return queue_full(model)
        lacks = self._lacks_forever(model)
        return never_fits(model, lacks) if lacks else None

    def _lacks_forever(self, model: Model) -> Sequence[Lack]:
        """What memory a model lacks that can never be loaded (15)."""
        return lacks_forever(model, self.room) if model.status is Status.UNLOADED else ()

    def _waits_for_restart(self, model: Model) -> bool:
        """Whether requests for a model that has failed wait for its next start (12)."""
        return model.held

    def _lease(self, model: Model, now: float, load: bool, slot: bool) -> None:
        """Count a lease given at once (7); it is use unless the request must not load (10)."""
        model.in_flight += 1
        model.taken += slot
        if load:
            model.last_used = now

    def _end_lease(self, model: Model, now: float, used: bool, slot: bool) -> None:
        """Count the end of a lease (7)."""
        model.in_flight -= 1
        model.taken -= slot
        if used:
            model.last_used = now

    def _matters(self, model: Model) -> bool:
        """Whether any decision may change because the model has fallen idle."""
        return model.leaving or model.closing or self.draining or self.room.in_need

    def _serve(self, model: Model, now: float, actions: list[Action]) -> None:
        """Admit the waiters for whom there are slots (1, 2, 6)."""
        tickets, taken = model.waiting.serve(model.free_slots, now)
        if tickets:
            actions.extend(map(Admit, tickets))
            model.in_flight += len(tickets)
            model.taken += taken
            model.last_used = now

    def _reject_waiting(self, model: Model, error: GatewayError) -> list[Action]:
        """Reject all waiters with an error (8)."""
        return [Reject(ticket, error) for ticket in model.waiting.clear()]

    def _end_life(self, model: Model) -> None:
        """Its run has ended; its leases end at `finished` all the same (7)."""
        model.closing = False
        model.anyway = False
        # An unload ends one run (9); a retired model is not started again.
        model.leaving = model.retired

    def _measure(self, model: Model, now: float) -> None:
        """Note what its load took (3, 5): it counts for half, those before it for the rest."""
        took = now - model.started_at
        model.loaded_at = now
        model.load_sec = took if model.load_sec is None else (took + model.load_sec) / 2

    def _fail(self, model: Model, failure: GatewayError, now: float) -> None:
        """Keep why its run has ended unasked; it must not be started for ``retry_after`` (8)."""
        if model.failure is None:
            model.failed_at = now
        model.failure = failure
        model.retry_at = now + (failure.retry_after or 0.0)
        if failure.retry_after != 0:
            model.status = Status.FAILED

    def _let_go(self, model: Model) -> None:
        """Have it stopped once idle, because it is retired."""
        model.leaving = True
        model.why = Why.RELOAD

    def _close_to_leave(self, model: Model) -> None:
        """Close a model that is leaving once it is ready and has admitted its waiters (9)."""
        model.closing = model.status is Status.READY

    def _has_finished(self, model: Model) -> bool:
        """Whether a model that is leaving can be stopped (9)."""
        return model.idle

    def _starts_by_itself(self, model: Model) -> bool:
        """Whether it is started without a request (11)."""
        return model.takes_no_room and model.status is Status.UNLOADED and not model.leaving

    def _idle_timeout_in(self, model: Model, limit: float, now: float) -> float:
        """In how many seconds the idle timeout ends if it is not used until then (9)."""
        if model.in_flight:
            return limit
        assert model.last_used is not None, "a model that is ready was loaded"
        return model.last_used + limit - now

    def _opens_when_pinned(self, model: Model) -> bool:
        """Whether a model was to be evicted that is pinned now (3); else it would stay closed."""
        return model.pinned and is_closing(model) and not self.draining

    def _kill(self, model: Model, now: float) -> list[Action]:
        """Unload it by force (9)."""
        model.status = Status.STOPPING
        rejected = self._reject_waiting(model, unloaded_by_force(model))
        return [*rejected, Kill(model.key), *self._settle(now, model)]

    def _leave(self, model: Model, why: Why) -> None:
        """Have it stopped once idle (9)."""
        if not model.leaving:
            model.leaving, model.why = True, why

    def _forget(self, model: Model) -> None:
        """Drop a retired model whose run and leases have ended."""
        if model.retired and not model.in_flight and model.status not in IN_MEMORY:
            self.models.pop(model.key, None)

    def _allow(self, model: Model) -> None:
        """Have it loaded with what it can have, whatever the figures say (15)."""
        model.anyway = model.status in (Status.UNLOADED, Status.FAILED)

    def _given_up(self, model: Model) -> None:
        """Nobody waits for it any more: what was allowed for them is not for others."""
        if not model.waiting and model.status not in IN_MEMORY:
            model.anyway = model.short = False

    def _grows(self, model: Model, devices: Mapping[str, int]) -> bool:
        """Raise its charge to what was measured; it never falls while it is in memory (14)."""
        charge = model.charge
        assert charge is not None, "its bytes are counted"
        more = {d: size for d, size in devices.items() if size > charge.devices.get(d, 0)}
        if more and not model.anyway:
            model.charge = replace(charge, devices={**charge.devices, **more})
        return bool(more) and not model.anyway

    def _is_tried_again(self, model: Model) -> bool:
        """Whether a load that failed for want of memory is tried again: once (16)."""
        if model.status is not Status.LOADING or model.short or model.anyway:
            return False
        return bool(model.waiting) and self._others_could_go(model)

    def _others_could_go(self, model: Model) -> bool:
        """Whether models that are not pinned hold memory where this one needs it (16)."""
        devices = _used(model)
        return any(
            one is not model and not one.pinned and not devices.isdisjoint(_used(one))
            for one in self.room.in_memory
        )

    def _raise(self, model: Model, charge: Need) -> None:
        """
        Count its next run with a quarter more than was too little, and with more than it had (16).

        It could have had all that nobody else held on its GPUs; on the host, if it uses none.
        """
        model.raised = more_than(charge)
        used = {device for device, size in charge.devices.items() if size}
        held = Books(one.charge for one in self.room.in_memory if one is not model)
        for device in used - {HOST} or used:
            capacity = (self.room.capacity or {}).get(device)
            if capacity is not None and held.taken.get(device):
                had = capacity.room - held.taken[device]
                model.raised[device] = max(model.raised[device], had + 1)

    # The decisions

    def _settle(self, now: float, *models: Model) -> list[Action]:
        """
        Decide again.

        :param models: those that the event concerns
        """
        actions: list[Action] = []
        new, self._new = self._new, []
        for model in (*new, *models):
            if self.draining:
                if model.status in RUNNING and not model.in_flight:
                    self._stop(model, actions, Why.END)
            else:
                self._look_at(model, now, actions)
            self.room.note(model)
        self.wake_at = None
        if not self.draining:
            self._share_room(now, actions)
        return actions

    def _look_at(self, model: Model, now: float, actions: list[Action]) -> None:
        """Do what follows from the model's own state, whether or not another needs its room."""
        if model.status is Status.READY and not model.closing:
            self._serve(model, now, actions)
        if model.leaving and model.status in RUNNING:
            self._close_to_leave(model)
            if self._has_finished(model):
                self._stop(model, actions, model.why)
        if self._starts_by_itself(model):
            self._start(model, now, actions)

    def _share_room(self, now: float, actions: list[Action]) -> None:
        """Start models in free room (4, 6); for the others stop idle (3), close busy ones (5)."""
        room = self.room
        if room.capacity is not None:
            return self._share_bytes(now, actions)
        while model := room.next_to_start():
            self._start(model, now, actions)
        while model := room.next_to_stop(now):
            self._stop(model, actions, Why.ROOM, room.gets_room_next())
        needed, patience_ends = room.to_close(now)
        while model := room.next_to_close(needed, now):
            model.closing = True
            room.note(model)
        while model := room.next_to_open(needed):
            self._open(model, now, actions)
        ends = (patience_ends, room.stay_ends(needed))
        self.wake_at = min((end for end in ends if end is not None), default=None)

    def _share_bytes(self, now: float, actions: list[Action]) -> None:
        """The same where bytes are counted, as plan.py says; who never fits is rejected (15)."""
        room = self.room
        plan = make_plan(room, now)
        for model, lacks in plan.refused:
            actions += self._reject_waiting(model, never_fits(model, lacks))
            self._given_up(model)
            room.note(model)
        for model, need in plan.starts:
            self._start(model, now, actions, need)
        for model, gets_room in plan.stops.items():
            self._stop(model, actions, Why.ROOM, gets_room)
        for model in plan.closing:
            model.closing = True
            room.note(model)
        for model in [one for one in room.closing if one not in plan.closing]:
            self._open(model, now, actions)
        room.over = plan.over
        self.wake_at = plan.wake_at
        if any(model.pinned for model, _ in plan.starts):
            # Who does not fit beside it has to be told so.
            self._share_bytes(now, actions)

    def _start(
        self, model: Model, now: float, actions: list[Action], need: Need | None = None
    ) -> None:
        model.status = Status.LOADING
        model.started_at = now
        model.charge = need
        self.room.note(model)
        actions.append(Start(model.key, need))

    def _stop(
        self, model: Model, actions: list[Action], why: Why, room_for: Model | None = None
    ) -> None:
        model.status = Status.STOPPING
        self.room.note(model)
        actions.append(Stop(model.key, why, room_for.name if room_for else ""))

    def _open(self, model: Model, now: float, actions: list[Action]) -> None:
        """Open a closing model whose room is no longer needed: it admits again (1)."""
        model.closing = False
        self._serve(model, now, actions)
        self.room.note(model)


def _used(model: Model) -> set[str]:
    """The devices on which a model in memory holds some."""
    charge = {} if model.charge is None else total(model.charge)
    return {device for device, size in charge.items() if size}
