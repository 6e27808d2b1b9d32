"""
Schedulers that break one rule each.

A mutant replaces policies of the scheduler: functions of room.py and methods of `Room`, `Ranked`,
`Line`, `Model` and `Scheduler`, each by its name. So a policy that is renamed is an error here, and
one that is written otherwise is not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, TypeVar
from unittest import mock

from llamagw.errors import GatewayError
from llamagw.fleet import room
from llamagw.fleet.actions import Action, Admit, Kill, shutting_down
from llamagw.fleet.model import IN_MEMORY, RUNNING, Model, Status
from llamagw.fleet.queue import Line, Share
from llamagw.fleet.room import Room
from llamagw.fleet.scheduler import Scheduler
from llamagw.launch.restarts import Pause, Restarts


class Mutant(NamedTuple):
    """
    A scheduler that breaks a rule.

    :ivar rule: the number of the rule
    :ivar says: what it does
    :ivar changes: the policies that are replaced: where they are, their names, what replaces them
    """

    rule: int
    says: str
    changes: list[tuple[object, str, object]]

    @contextmanager
    def at_large(self) -> Iterator[None]:
        """Each scheduler that is made meanwhile is one."""
        with ExitStack() as stack:
            for owner, name, broken in self.changes:
                if isinstance(vars(owner)[name], property):
                    assert callable(broken)
                    broken = property(broken)
                stack.enter_context(mock.patch.object(owner, name, broken))
            yield


MUTANTS: list[Mutant] = []


Policy = TypeVar("Policy", bound=Callable[..., object])


def mutant(rule: int, says: str, *places: tuple[object, str]) -> Callable[[Policy], Policy]:
    """What is decorated replaces the policies at these places."""

    def register(broken: Policy) -> Policy:
        MUTANTS.append(Mutant(rule, says, [(owner, name, broken) for owner, name in places]))
        return broken

    return register


def also(owner: object, name: str, broken: object) -> None:
    """The last mutant has this policy broken too."""
    MUTANTS[-1].changes.append((owner, name, broken))


serve, note, serve_all = Line.serve, Room.note, Scheduler._serve
next_to_close, to_close = Room._next_to_close, Room.to_close
share_room, end_life = Scheduler._share_room, Scheduler._end_life
stays_idle_until, stays_busy_until = room.stays_idle_until, room.stays_busy_until
starts_by_itself, refusal = Scheduler._starts_by_itself, Scheduler._refusal
exited, measure = Scheduler.exited, Scheduler._measure
crashed = Restarts.crashed


# 1. A ready model that is not closing admits at once.


@mutant(1, "a busy model keeps newcomers waiting", (Scheduler, "_admits"))
def admits_if_idle(self: Scheduler, model: Model, load: bool, slot: bool) -> bool:
    return model.status is Status.READY and not model.closing and not model.in_flight


def serves_if_idle(self: Scheduler, model: Model, now: float, actions: list[Action]) -> None:
    if not model.in_flight:
        serve_all(self, model, now, actions)


also(Scheduler, "_serve", serves_if_idle)


@mutant(1, "models close before patience is over", (room, "patience_ends"))
def no_patience(model: Model, swap_after: float | None) -> float:
    return float("-inf")


@mutant(1, "a model that closes never opens again", (Room, "next_to_open"))
def never_opens(self: Room, needed: int) -> None:
    return None


@mutant(1, "a model that opens again keeps its newcomers waiting", (Scheduler, "_open"))
def opens_silently(self: Scheduler, model: Model, now: float, actions: list[Action]) -> None:
    model.closing = False
    self.room.note(model)


# 2. One load per model at a time, shared by all who wait for it.


@mutant(2, "a model that loads is started once more", (Scheduler, "_starts_by_itself"))
def starts_twice(self: Scheduler, model: Model) -> bool:
    again = model.status is Status.LOADING and len(model.waiting) > 1
    return again or starts_by_itself(self, model)


@mutant(2, "a model is started while its last process is still stopping", (room, "wants_room"))
def wants_room_too_early(model: Model) -> bool:
    return model.status in (Status.UNLOADED, Status.STOPPING) and len(model.waiting) > 0


@mutant(2, "a load serves only the first of those who waited for it", (Line, "serve"))
def serves_the_first(self: Line, slots: int | None, now: float) -> tuple[list[Hashable], int]:
    first = list(self)[:1]
    for ticket in first:
        self.leave(ticket)
    return first, len(first)


# 3. Only an idle model that is not pinned is stopped for room, the least recently used first.


@mutant(3, "busy models are stopped", (Model, "idle"))
def idle_whoever_has_a_lease(self: Model) -> bool:
    return self.closing or not self.waiting


@mutant(3, "a load that somebody waits for is stopped", (Model, "idle"))
def idle_whoever_waits(self: Model) -> bool:
    return not self.in_flight


@mutant(3, "the most recently used is stopped", (room, "stopping_rank"))
def most_recently_used_is_stopped(model: Model, swap_after: float | None) -> float:
    return most_recently_used(model)


def most_recently_used(model: Model) -> float:
    return float("inf") if model.last_used is None else -model.last_used


@mutant(3, "the end of a lease does not count as use", (Scheduler, "_end_lease"))
def ends_without_use(self: Scheduler, model: Model, now: float, used: bool, slot: bool) -> None:
    model.in_flight -= 1


@mutant(3, "the beginning of a lease does not count as use", (Scheduler, "_lease"))
def begins_without_use(self: Scheduler, model: Model, now: float, load: bool, slot: bool) -> None:
    model.in_flight += 1


def serves_without_use(self: Scheduler, model: Model, now: float, actions: list[Action]) -> None:
    tickets, _ = model.waiting.serve(None, now)
    actions.extend(map(Admit, tickets))
    model.in_flight += len(tickets)


also(Scheduler, "_serve", serves_without_use)
also(Scheduler, "_end_lease", ends_without_use)


@mutant(3, "pinned models are stopped for room", (room, "may_stop"))
def may_stop_pinned(model: Model) -> bool:
    return model.status in RUNNING and model.idle


@mutant(3, "room that is on its way is not counted on", (Room, "shortage"))
def shortage_without_what_is_stopping(self: Room) -> int:
    return len(self.wanting) + max(-self.free, 0)


@mutant(3, "a model that was just loaded is stopped at once", (room, "stays_idle_until"))
def stays_for_nothing(model: Model, swap_after: float | None) -> float:
    return float("-inf")


@mutant(3, "a load is taken to last no time", (Scheduler, "_measure"))
def measures_nothing(self: Scheduler, model: Model, now: float) -> None:
    model.loaded_at = now
    model.load_sec = 0.0


@mutant(3, "the last load is taken for all", (Scheduler, "_measure"))
def measures_the_last(self: Scheduler, model: Model, now: float) -> None:
    model.load_sec = None
    measure(self, model, now)


@mutant(3, "the model that loads fastest is stopped", (room, "stopping_rank"))
def fastest_first(model: Model, swap_after: float | None) -> float:
    return model.load_sec or 0.0


# 4. Never more than fits in memory; a stopping one counts until its process is gone.


@mutant(4, "a stopping model does not count", (room, "takes_room"))
def takes_room_until_it_is_stopped(model: Model) -> bool:
    return model.status in RUNNING


@mutant(4, "a loading model does not count", (room, "takes_room"))
def takes_room_when_it_is_loaded(model: Model) -> bool:
    return model.status in (Status.READY, Status.STOPPING)


@mutant(4, "one more than allowed", (Room, "free"))
def one_more_is_free(self: Room) -> int:
    return self.limit + 1 - len(self.in_memory)


# 5. Nobody starves.


@mutant(5, "no model ever closes", (Room, "next_to_close"))
def never_closes(self: Room, needed: int, now: float) -> None:
    return None


@mutant(5, "nobody is woken when patience ends", (Room, "to_close"))
def wakes_nobody(self: Room, now: float) -> tuple[int, None]:
    return to_close(self, now)[0], None


@mutant(5, "nobody is woken when a stay ends", (Room, "stay_ends"))
def wakes_at_no_stay(self: Room, needed: int) -> None:
    return None


@mutant(5, "an idle model stays for good", (room, "stays_idle_until"))
def stays_idle_for_good(model: Model, swap_after: float | None) -> float:
    end = stays_idle_until(model, swap_after)
    return end + 1000.0


@mutant(5, "an idle model stays though nobody has asked for it lately", (room, "stays_idle_until"))
def stays_unasked(model: Model, swap_after: float | None) -> float:
    end = stays_idle_until(model, swap_after)
    return end if model.load_sec is None else max(end, end + room.UNASKED * model.load_sec)


@mutant(5, "each request begins the stay anew", (room, "stays_idle_until"))
def stays_from_its_last_use(model: Model, swap_after: float | None) -> float:
    end = stays_idle_until(model, swap_after)
    if end == float("-inf") or model.load_sec is None or model.last_used is None:
        return end
    return model.last_used + room.STAY * model.load_sec


@mutant(5, "a busy model that was just loaded closes at once", (room, "stays_busy_until"))
def closes_at_once(model: Model, swap_after: float | None) -> float:
    return float("-inf")


@mutant(5, "a busy model stays for good", (room, "stays_busy_until"))
def stays_busy_for_good(model: Model, swap_after: float | None) -> float:
    return stays_busy_until(model, swap_after) + 1000.0


@mutant(5, "a busy model closes though an idle one is about to go", (Room, "_next_to_close"))
def closes_beside_an_idle_one(self: Room, needed: int) -> Model | None:
    return self._open.first() if len(self.closing) < needed else None


@mutant(5, "a stay is counted from the beginning of the load", (Scheduler, "_measure"))
def measures_from_the_start(self: Scheduler, model: Model, now: float) -> None:
    measure(self, model, now)
    model.loaded_at = model.started_at


@mutant(5, "the most recently used closes", (room, "closing_rank"))
def the_most_recently_used_closes(model: Model) -> float:
    return most_recently_used(model)


@mutant(5, "now this one closes, now that one", (Scheduler, "_share_room"))
def closes_anew(self: Scheduler, now: float, actions: list[Action]) -> None:
    for model in list(self.room.closing):
        model.closing = False
        self.room.note(model)
    share_room(self, now, actions)


@mutant(5, "a model that closes still admits", (Scheduler, "_admits"))
def admits_while_it_closes(self: Scheduler, model: Model, load: bool, slot: bool) -> bool:
    return model.status is Status.READY


@mutant(5, "a model just loaded closes before it serves", (Scheduler, "loaded"))
def loaded_and_closed(self: Scheduler, key: str, now: float) -> list[Action]:
    model = self.models[key]
    model.status = Status.READY
    model.last_used = now
    model.closing = bool(self.room.wanting)
    return self._settle(now, model)


@mutant(5, "pinned models close", (room, "may_close"))
def may_close_pinned(model: Model) -> bool:
    return model.status is Status.READY and not model.closing and not model.leaving


@mutant(5, "one that closes when it is pinned goes on closing", (Scheduler, "_opens_when_pinned"))
def opens_nothing_when_pinned(self: Scheduler, model: Model) -> bool:
    return False


@mutant(5, "only one model closes at a time", (Room, "_next_to_close"))
def one_closes_at_a_time(self: Room, needed: int) -> Model | None:
    return None if self.closing else next_to_close(self, needed)


# 6. First come, first served within a model, and between models that wait for room.


@mutant(6, "the last to come is the first to be served", (Line, "serve"))
def serves_the_last_first(self: Line, slots: int | None, now: float) -> tuple[list[Hashable], int]:
    tickets, taken = serve(self, slots, now)
    return tickets[::-1], taken


@mutant(6, "the model waited for last starts first", (room, "starting_rank"))
def the_last_starts_first(model: Model) -> float:
    return -model.waiting.since


@mutant(6, "models start in the order of the configuration", (room, "starting_rank"))
def all_start_alike(model: Model) -> float:
    return 0.0


# 7. A lease ends exactly once.


@mutant(7, "a lease ends twice", (Scheduler, "_end_lease"))
def ends_twice(self: Scheduler, model: Model, now: float, used: bool, slot: bool) -> None:
    model.in_flight -= 2
    if used:
        model.last_used = now


@mutant(7, "a lease never ends", (Scheduler, "_end_lease"))
def never_ends(self: Scheduler, model: Model, now: float, used: bool, slot: bool) -> None:
    if used:
        model.last_used = now


@mutant(7, "a crash ends the leases, and so do their holders", (Scheduler, "_end_life"))
def ends_leases_with_life(self: Scheduler, model: Model) -> None:
    end_life(self, model)
    model.in_flight = 0


@mutant(7, "many are admitted and one lease is counted", (Scheduler, "_serve"))
def counts_one(self: Scheduler, model: Model, now: float, actions: list[Action]) -> None:
    tickets, _ = model.waiting.serve(None, now)
    if tickets:
        actions.extend(map(Admit, tickets))
        model.in_flight += 1
        model.last_used = now


@mutant(7, "who is admitted is admitted again", (Line, "serve"))
def serves_again(self: Line, slots: int | None, now: float) -> tuple[list[Hashable], int]:
    return list(self), len(self)


# 8. Whoever waits is answered: admitted, rejected with a reason, or gone by itself.


@mutant(8, "who is rejected is not told", (Scheduler, "_reject_waiting"))
def rejects_silently(self: Scheduler, model: Model, error: GatewayError) -> list[Action]:
    model.waiting.clear()
    return []


@mutant(8, "a load that is given up is not told", (Scheduler, "load_failed"))
def load_failed_silently(
    self: Scheduler, key: str, error: GatewayError, now: float
) -> list[Action]:
    model = self.models[key]
    model.status = Status.STOPPING
    return self._settle(now, model)


@mutant(8, "a load that fails is not told", (Scheduler, "exited"))
def exited_silently(
    self: Scheduler, key: str, failure: GatewayError | None, now: float, hold: bool = False
) -> list[Action]:
    model = self.models[key]
    self._end_life(model)
    model.held = hold
    model.status = Status.UNLOADED
    if failure is not None:
        self._fail(model, failure, now)
    self._forget(model)
    return self._settle(now, model)


@mutant(8, "nobody is served when a process is gone", (Scheduler, "exited"))
def exited_for_nobody(
    self: Scheduler, key: str, failure: GatewayError | None, now: float, hold: bool = False
) -> list[Action]:
    model = self.models[key]
    if failure is not None:
        return exited(self, key, failure, now, hold)
    self._end_life(model)
    model.status = Status.UNLOADED
    self._forget(model)
    self.room.note(model)
    return []


@mutant(8, "nobody is served when a model recovers", (Scheduler, "recovered"))
def recovers_for_nobody(self: Scheduler, key: str, now: float) -> list[Action]:
    model = self.models.get(key)
    if model is None:
        return []
    model.status = Status.UNLOADED
    self.room.note(model)
    return []


@mutant(8, "nobody is served when somebody leaves", (Scheduler, "left"))
def left_for_nobody(self: Scheduler, key: str, ticket: Hashable, now: float) -> list[Action]:
    self.models[key].waiting.leave(ticket)
    self.room.note(self.models[key])
    return []


@mutant(8, "nobody is served when a lease ends", (Scheduler, "_matters"))
def never_matters(self: Scheduler, model: Model) -> bool:
    return False


@mutant(8, "a drain leaves who waits", (Scheduler, "drain"))
def drains_backends_only(self: Scheduler, now: float) -> list[Action]:
    self.draining = True
    for model in self.models.values():
        model.closing = True
    return self._settle(now, *self.models.values())


@mutant(8, "a drain leaves idle models", (Scheduler, "drain"))
def drains_waiters_only(self: Scheduler, now: float) -> list[Action]:
    self.draining = True
    actions: list[Action] = []
    for model in self.models.values():
        model.closing = True
        actions += self._reject_waiting(model, shutting_down())
    return actions


@mutant(8, "a retired model stays in memory", (Scheduler, "_let_go"))
def lets_nothing_go(self: Scheduler, model: Model) -> None:
    pass


@mutant(8, "a retired model is never forgotten", (Scheduler, "_forget"))
def forgets_nothing(self: Scheduler, model: Model) -> None:
    pass


@mutant(8, "a lowered limit is not kept", (Room, "shortage"))
def shortage_without_what_is_over(self: Room) -> int:
    return max(len(self.wanting) - len(self.stopping), 0)


@mutant(8, "newcomers wait for the end of the drain", (Scheduler, "_refusal"))
def refuses_nobody_while_draining(
    self: Scheduler, model: Model, now: float, load: bool, share: Share | None
) -> GatewayError | None:
    with mock.patch.object(self, "draining", False):
        return refusal(self, model, now, load, share)


# 9. A model that is to be unloaded closes for good; by force it is killed at once.


@mutant(9, "an unload does nothing", (Scheduler, "unload"))
def unloads_by_force_only(
    self: Scheduler, key: str, now: float, force: bool = False
) -> list[Action]:
    model = self.models[key]
    return self._kill(model, now) if force and model.status in IN_MEMORY else []


@mutant(9, "a model that is to be unloaded takes newcomers", (Scheduler, "_close_to_leave"))
def leaves_open(self: Scheduler, model: Model) -> None:
    pass


@mutant(9, "an unload breaks answers off", (Scheduler, "_has_finished"))
def has_always_finished(self: Scheduler, model: Model) -> bool:
    return True


@mutant(9, "an unload stops a load that somebody waits for", (Scheduler, "_close_to_leave"))
def closes_while_it_loads(self: Scheduler, model: Model) -> None:
    model.closing = True


@mutant(9, "a model that was unloaded is unloaded for ever", (Scheduler, "_end_life"))
def leaves_in_each_life(self: Scheduler, model: Model) -> None:
    model.closing = False


@mutant(9, "force leaves who waits", (Scheduler, "_kill"))
def kills_silently(self: Scheduler, model: Model, now: float) -> list[Action]:
    model.status = Status.STOPPING
    return [Kill(model.key), *self._settle(now, model)]


@mutant(9, "force waits", (Scheduler, "unload"))
def unloads_gently(self: Scheduler, key: str, now: float, force: bool = False) -> list[Action]:
    model = self.models[key]
    if model.status not in IN_MEMORY:
        return []
    model.leaving = True
    return self._settle(now, model)


@mutant(9, "rest breaks answers off", (Scheduler, "_idle_timeout_in"))
def rests_while_it_is_busy(self: Scheduler, model: Model, limit: float, now: float) -> float:
    assert model.last_used is not None
    return model.last_used + limit - now


@mutant(9, "rest comes too early", (Scheduler, "_idle_timeout_in"))
def rests_at_once(self: Scheduler, model: Model, limit: float, now: float) -> float:
    return limit if model.in_flight else 0.0


@mutant(9, "rest never comes", (Scheduler, "_idle_timeout_in"))
def rests_later(self: Scheduler, model: Model, limit: float, now: float) -> float:
    return limit


# 10. Who must not load is admitted at once or rejected at once, and counts as no use.


@mutant(10, "a visit counts as use", (Scheduler, "_lease"))
def any_lease_is_use(self: Scheduler, model: Model, now: float, load: bool, slot: bool) -> None:
    model.in_flight += 1
    model.last_used = now


@mutant(10, "the end of a visit counts as use", (Scheduler, "_end_lease"))
def any_end_is_use(self: Scheduler, model: Model, now: float, used: bool, slot: bool) -> None:
    model.in_flight -= 1
    model.last_used = now


@mutant(10, "a visit loads", (Scheduler, "_refusal"))
def refuses_no_visit(
    self: Scheduler, model: Model, now: float, load: bool, share: Share | None
) -> GatewayError | None:
    return refusal(self, model, now, True, share)


@mutant(10, "a visit is admitted to a model that closes", (Scheduler, "_admits"))
def admits_any_visit(self: Scheduler, model: Model, load: bool, slot: bool) -> bool:
    return model.status is Status.READY and not (load and model.closing)


# 11. A model that lives elsewhere takes no room and makes none.


@mutant(11, "what lives elsewhere takes room", (Room, "note"))
def notes_all(self: Room, model: Model) -> None:
    with mock.patch.object(model, "takes_no_room", False):
        note(self, model)


@mutant(11, "what lives elsewhere is not started by itself", (Scheduler, "_starts_by_itself"))
def nothing_starts_by_itself(self: Scheduler, model: Model) -> bool:
    return False


# 12. A crash keeps the queue when the model may be started again at once or soon.


@mutant(12, "who waits for a crashed model is told", (Scheduler, "exited"))
def exited_with_its_queue(
    self: Scheduler, key: str, failure: GatewayError | None, now: float, hold: bool = False
) -> list[Action]:
    actions = exited(self, key, failure, now)
    if key in self.models:
        self.models[key].held = hold
    return actions


@mutant(12, "who comes after a crash is told", (Scheduler, "_refusal"))
def refuses_after_a_crash(
    self: Scheduler, model: Model, now: float, load: bool, share: Share | None
) -> GatewayError | None:
    if model.status is Status.FAILED and load:
        return model.remaining_failure(now)
    return refusal(self, model, now, load, share)


@mutant(12, "who waits for a load that has failed is not told", (Scheduler, "_waits_for_restart"))
def waits_for_any_restart(self: Scheduler, model: Model) -> bool:
    return True


@mutant(12, "a load that fails after a crash is waited for", (Scheduler, "exited"))
def exited_as_before(
    self: Scheduler, key: str, failure: GatewayError | None, now: float, hold: bool = False
) -> list[Action]:
    return exited(self, key, failure, now, hold or self.models[key].held)


@mutant(12, "a crash counts whatever was answered", (Restarts, "crashed"))
def crashed_unanswered(self: Restarts, answered: bool, stable: bool = False) -> Pause:
    return crashed(self, False, stable)


@mutant(12, "no crash counts", (Restarts, "crashed"))
def crashed_answered(self: Restarts, answered: bool, stable: bool = False) -> Pause:
    return crashed(self, True, stable)


@mutant(12, "an answer makes nothing forgotten", (Restarts, "crashed"))
def crashed_and_remembered(self: Restarts, answered: bool, stable: bool = False) -> Pause:
    return Pause(0.0, hold=True) if answered else crashed(self, False, stable)


@mutant(12, "the end of any backoff after a crash is waited for", (Restarts, "crashed"))
def crashed_and_held(self: Restarts, answered: bool, stable: bool = False) -> Pause:
    return crashed(self, answered, stable)._replace(hold=True)


@mutant(12, "no failed load counts", (Restarts, "load_failed"))
def load_failed_once(self: Restarts) -> Pause:
    return Pause(1.0, hold=False)


@mutant(12, "the end of the backoff after a failed load is waited for", (Restarts, "load_failed"))
def load_failed_and_held(self: Restarts) -> Pause:
    return Pause(self._longer(), hold=True)
