"""
The scheduler's contract, held against whatever can happen.

`Fleet` is a state machine of hypothesis: it plays requests, backends and time to a scheduler and
keeps an account of its own, from the scheduler's actions alone: which processes there are, who
waits where and since when, how many leases are out, when each model was last used. After each
step the account is checked against the rules of the contract; each check bears the numbers of the
rules that it holds (see the docstring of `llamagw.fleet.scheduler`). Whether a model is closing is
found out as a client would: by asking for it, of a copy of the scheduler.

`MutantTests` shows that the checks hold: for each rule the scheduler's source is broken in ways
that break this rule, and the checks of this rule alone must notice.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from llamagw.errors import GatewayError, ModelNotLoaded, ModelUnavailable, ShuttingDown
from llamagw.fleet import scheduler as real
from llamagw.fleet.scheduler import Action, Admit, Kill, Reject, Scheduler, Start, Stop

RULES = frozenset(range(1, 12))
FAILURE = ModelUnavailable("The engine has no words.", retry_after=1)

#: Picks one of several, whatever their number; or a few, one after the other.
one = st.integers(0, 11)
some = st.lists(one, min_size=1, max_size=4)


class Broken(AssertionError):
    """A rule of the contract is broken."""


class Fleet(RuleBasedStateMachine):
    """Plays the world to a scheduler, and keeps account."""

    make: Any = Scheduler
    looked_at = RULES
    broken = False

    @initialize(
        count=st.integers(3, 4),
        limit=st.sampled_from([2, 1, 3]),
        swap_after=st.sampled_from([0.7, 10.0, 0.0]),
        max_queue=st.integers(2, 5),
        busy=st.lists(st.booleans(), min_size=2, max_size=3),
        pinned=st.integers(0, 2),
        elsewhere=st.booleans(),
    )
    def begin(
        self,
        count: int,
        limit: int,
        swap_after: float,
        max_queue: int,
        busy: list[bool],
        pinned: int,
        elsewhere: bool,
    ) -> None:
        self.names = list("abcd"[:count])
        self.limit = limit
        self.swap_after = swap_after
        self.max_queue = max_queue
        self.scheduler = self.make((), limit=limit, swap_after=swap_after, max_queue=max_queue)
        # The configuration sees to it that there is room for one that is not pinned.
        self.pinned = set(self.names[: min(pinned, limit - 1)])
        for name in self.names:
            self.scheduler.add(name, pinned=name in self.pinned)
        #: Those that take no room, since they live elsewhere.
        self.elsewhere = {"z"} if elsewhere else set()
        # 0.1 and 0.7 are not sums of powers of 2, so that rounding has its chance.
        self.now = 0.1
        self.tickets = 0
        # The account.
        self.process: dict[str, str] = {}
        self.failed: set[str] = set()
        self.queue: dict[str, dict[int, float]] = {name: {} for name in self.names}
        self.leases = dict.fromkeys(self.names, 0)
        #: How many of the leases do not count as use.
        self.visits = dict.fromkeys(self.names, 0)
        self.used = dict.fromkeys(self.names, float("-inf"))
        self.owner: dict[int, str] = {}
        self.closed: set[str] = set()
        self.retired: set[str] = set()
        #: Those in memory that are to be unloaded.
        self.leaving: set[str] = set()
        self.added = 0
        #: How many may be in memory: more than the limit when it was lowered under them.
        self.ceiling = limit
        self.draining = self.abandoned = False
        if elsewhere:
            self.add("z")
            self.hear(self.scheduler.tick(self.now))
            self.look()
        # Most of what is worth seeing begins with models in memory, busy or idle.
        for name, stays in zip(self.names[:limit], busy, strict=False):
            self.arrive(name)
            self.load(name)
            if not stays:
                self.finish(name)
            self.time_passes(0.1)

    # What the account can tell

    def hold(self, rules: tuple[int, ...], held: object, said: str) -> None:
        """Fail unless it is held, if one of these rules is what is looked at."""
        if not held and not self.looked_at.isdisjoint(rules):
            self.broken = True
            raise Broken(f"rule {' and '.join(map(str, rules))}: {said}")

    def add(self, name: str) -> None:
        """One more, that has been configured after the others."""
        self.names.append(name)
        self.queue[name], self.leases[name], self.used[name] = {}, 0, float("-inf")
        self.visits[name] = 0
        pinned, elsewhere = name in self.pinned, name in self.elsewhere
        self.scheduler.add(name, pinned=pinned, elsewhere=elsewhere)

    def in_memory(self) -> list[str]:
        return [name for name in self.process if name not in self.elsewhere]

    def in_state(self, *states: str) -> list[str]:
        return [name for name in self.names if self.process.get(name) in states]

    def first(self, name: str) -> float:
        return next(iter(self.queue[name].values()))

    def want_room(self) -> list[str]:
        """The models somebody waits for that have no process, the longest wait first."""
        wanting = [
            name
            for name in self.names
            if self.queue[name] and name not in self.process and name not in self.failed
            if name not in self.elsewhere
        ]
        return sorted(wanting, key=self.first)

    def shortage(self) -> int:
        """How many models are to go, beside those on their way, for those in want and the limit."""
        over = len(self.in_memory()) - self.limit
        stopping = [name for name in self.in_state("stopping") if name not in self.elsewhere]
        return max(len(self.want_room()) + over - len(stopping), 0)

    def short_of_room(self) -> list[str]:
        """Those in want of room for whom none is free or on its way."""
        want = self.want_room()
        return want[max(len(want) - self.shortage(), 0) :]

    def alive(self) -> list[str]:
        return [name for name in self.names if name not in self.retired]

    def can_go(self, name: str) -> bool:
        """Whether it may be stopped for room."""
        return name not in self.pinned | self.elsewhere and self.is_idle(name)

    def is_idle(self, name: str) -> bool:
        if self.leases[name]:
            return False
        # Who waits for a load has been promised to be served; who waits at a ready model is kept
        # back because it closes.
        return self.process.get(name) == "ready" or (
            self.process.get(name) == "loading" and not self.queue[name]
        )

    def takes_newcomers(self, name: str) -> bool:
        return copy.deepcopy(self.scheduler).arrived(name, -1, self.now) == [Admit(-1)]

    # What the scheduler says, into the account

    def hear(self, actions: list[Action], failed: str = "", abandon: bool = False) -> None:
        for action in actions:
            if isinstance(action, Admit):
                self.admit(action.ticket)
            elif isinstance(action, Reject):
                self.reject(action.ticket, action.error, failed)
            elif isinstance(action, Start):
                self.start(action.key)
            elif isinstance(action, Kill):
                # That it is the right one is seen where it is asked for.
                self.hold((9,), action.key in self.process, "a kill of what does not run")
                self.process[action.key] = "stopping"
            else:
                assert isinstance(action, Stop)
                self.stop(action.key, abandon)

    def admit(self, ticket: Any) -> None:
        name = self.owner[ticket]
        self.hold((7, 8), ticket in self.queue[name], "somebody is answered who does not wait")
        self.hold((6,), ticket == next(iter(self.queue[name]), None), "somebody is passed over")
        self.hold((1,), self.process.get(name) == "ready", "a lease of a model that is not ready")
        self.hold((8,), not self.draining, "a lease while draining")
        self.queue[name].pop(ticket, None)
        self.leases[name] += 1
        self.used[name] = self.now

    def reject(self, ticket: Any, error: GatewayError, failed: str) -> None:
        name = self.owner[ticket]
        self.hold((7, 8), ticket in self.queue[name], "somebody is answered who does not wait")
        reason = (
            self.draining
            or name == failed
            or name in self.failed
            or len(self.queue[name]) > self.max_queue
        )
        self.hold((8,), reason and error.message, "somebody is turned away without a reason")
        self.queue[name].pop(ticket, None)

    def start(self, name: str) -> None:
        self.hold((2,), name not in self.process, "a second process for one model")
        self.hold((8,), name not in self.failed, "a load of a model that has failed")
        if name in self.elsewhere:
            self.hold((8,), not self.draining, "a start while draining")
            self.process[name] = "loading"
            return
        room = len(self.in_memory()) < self.limit
        self.hold((4, 11), room, "more models in memory than allowed")
        self.hold((8,), self.queue[name] and not self.draining, "a load for nobody")
        before = [n for n in self.want_room() if self.first(n) < self.first(name)]
        self.hold((6,), not before, "a model starts before one that is waited for longer")
        self.process[name] = "loading"

    def stop(self, name: str, abandon: bool) -> None:
        there = self.process.get(name) in ("loading", "ready")
        self.hold((2,), there, "a stop of what does not run")
        if self.draining:
            self.hold((3,), abandon or not self.leases[name], "a busy model is stopped")
        elif name in self.retired:
            self.hold((3,), not self.leases[name], "a busy model is stopped")
        elif name in self.leaving:
            self.hold((9,), self.is_idle(name), "a model is unloaded before it has finished")
        else:
            self.hold((11,), name not in self.elsewhere, "one elsewhere is stopped for room")
            self.hold((3,), name not in self.pinned, "a pinned model is stopped for room")
            self.hold((3,), self.is_idle(name), "a model that is not idle is stopped for room")
            self.hold((3, 9), self.shortage(), "a model is stopped though nobody needs its room")
            older = [n for n in self.names if self.can_go(n) and self.used[n] < self.used[name]]
            self.hold((3,), name in self.closed or not older, "not the least recently used one")
        self.process[name] = "stopping"

    # What can happen to requests

    @rule(which=some)
    def arrived(self, which: list[int]) -> None:
        for each in which:
            self.arrive(self.alive()[each % len(self.alive())])
            self.time_passes(0.1)

    def arrive(self, name: str, ticket: int = 0) -> None:
        if not ticket:
            self.tickets += 1
            ticket = self.tickets
        self.owner[ticket] = name
        self.queue[name][ticket] = self.now
        actions = self.scheduler.arrived(name, ticket, self.now)
        if self.is_open(name):
            self.hold((1,), actions == [Admit(ticket)], "a ready model does not admit at once")
        self.hear(actions)
        self.look()

    def is_open(self, name: str) -> bool:
        closed = name in self.closed or name in self.leaving
        return self.process.get(name) == "ready" and not closed and not self.draining

    @rule(which=one)
    def visited(self, which: int) -> None:
        """Somebody comes who must not load."""
        name = self.alive()[which % len(self.alive())]
        actions = self.scheduler.arrived(name, -1, self.now, load=False)
        if self.is_open(name):
            self.hold((1, 10), actions == [Admit(-1)], "a ready model does not admit at once")
        if actions == [Admit(-1)]:
            self.hold((10,), self.is_open(name), "a lease of a model that is not open")
            self.leases[name] += 1
            self.visits[name] += 1
        else:
            errors = [type(action.error) for action in actions if isinstance(action, Reject)]
            wanted = ShuttingDown if self.draining else ModelNotLoaded
            self.hold((10,), errors == [wanted], "who must not load is not told so")
            self.hold((10,), len(actions) == 1, "something is done for who must not load")
        self.look()

    @precondition(lambda self: any(self.visits.values()))
    @rule(which=one)
    def visit_over(self, which: int) -> None:
        visited = [name for name in self.names if self.visits[name]]
        self.finish(visited[which % len(visited)], visit=True)

    @precondition(lambda self: any(self.queue.values()))
    @rule(which=one)
    def left(self, which: int) -> None:
        waiting = [(name, ticket) for name in self.names for ticket in self.queue[name]]
        name, ticket = waiting[which % len(waiting)]
        del self.queue[name][ticket]
        self.hear(self.scheduler.left(name, ticket, self.now))
        self.look()

    @precondition(lambda self: any(self.leases.values()))
    @rule(which=some)
    def finished(self, which: list[int]) -> None:
        for each in which:
            busy = [name for name in self.names if self.leases[name]]
            if busy:
                self.finish(busy[each % len(busy)])
                self.time_passes(0.1)

    def finish(self, name: str, visit: bool = False) -> None:
        visit = visit or self.leases[name] == self.visits[name]
        self.leases[name] -= 1
        if visit:
            self.visits[name] -= 1
        else:
            self.used[name] = self.now
        self.hear(self.scheduler.finished(name, self.now, used=not visit))
        self.look()

    # What can happen to processes

    @precondition(lambda self: self.in_state("loading"))
    @rule(which=one)
    def loaded(self, which: int) -> None:
        loading = self.in_state("loading")
        self.load(loading[which % len(loading)])

    def load(self, name: str) -> None:
        waiting = list(self.queue[name])
        self.process[name] = "ready"
        self.used[name] = self.now
        actions = self.scheduler.loaded(name, self.now)
        served = [action.ticket for action in actions if isinstance(action, Admit)]
        missed = [ticket for ticket in waiting if ticket not in served]
        self.hold((2, 5), not missed, "somebody who waited for a load is not served by it")
        self.hear(actions)
        self.look()

    @precondition(lambda self: self.in_state("loading"))
    @rule(which=one)
    def load_failed(self, which: int) -> None:
        loading = self.in_state("loading")
        name = loading[which % len(loading)]
        self.process[name] = "stopping"
        self.hear(self.scheduler.load_failed(name, FAILURE, self.now), failed=name)
        self.hold((8,), not self.queue[name], "somebody waits on for a load that was given up")
        self.look()

    @precondition(lambda self: self.process)
    @rule(which=one, fails=st.booleans())
    def exited(self, which: int, fails: bool) -> None:
        there = self.in_state("loading", "ready", "stopping")
        self.exit(there[which % len(there)], fails)

    def exit(self, name: str, fails: bool = False) -> None:
        del self.process[name]
        self.leaving.discard(name)
        if fails:
            self.failed.add(name)
        self.hear(self.scheduler.exited(name, FAILURE if fails else None, self.now))
        self.look()

    @precondition(lambda self: self.failed)
    @rule(which=one)
    def recovered(self, which: int) -> None:
        failed = sorted(self.failed)
        self.recover(failed[which % len(failed)])

    def recover(self, name: str) -> None:
        self.failed.remove(name)
        self.hear(self.scheduler.recovered(name, self.now))
        self.look()

    @precondition(lambda self: self.in_state("loading", "stopping"))
    @rule()
    def all_goes_well(self) -> None:
        for name in list(self.names):
            self.respond(name)

    # What can be wanted of a model

    @rule(which=one)
    def unload(self, which: int) -> None:
        name = self.alive()[which % len(self.alive())]
        if self.process.get(name) in ("loading", "ready"):
            self.leaving.add(name)
        self.hear(self.scheduler.unload(name, self.now))
        self.look()

    @rule(which=one)
    def unload_by_force(self, which: int) -> None:
        name = self.alive()[which % len(self.alive())]
        there = name in self.process
        waited = len(self.queue[name])
        actions = self.scheduler.unload(name, self.now, force=True)
        killed = [action.key for action in actions if isinstance(action, Kill)]
        self.hold((9,), killed == ([name] if there else []), "not the model that was meant dies")
        self.hear(actions, failed=name if there else "")
        left = 0 if there else waited
        self.hold((9,), len(self.queue[name]) == left, "somebody waits for what was killed")
        self.look()

    @rule(which=one, limit=st.sampled_from([0.1, 5.0]))
    def rest(self, which: int, limit: float) -> None:
        name = self.alive()[which % len(self.alive())]
        ready = self.process.get(name) == "ready"
        rested = ready and not self.leases[name] and self.used[name] + limit <= self.now
        if rested:
            self.leaving.add(name)
        actions, again = self.scheduler.rest(name, limit, self.now)
        self.hold((9,), rested or not actions, "a model is stopped before it has rested")
        if rested or not ready:
            self.hold((9,), again is None, "it is looked at again for nothing")
        else:
            soon = again is not None and 0 < again <= limit + 1e-9
            self.hold((9,), soon, "it is looked at too late")
        self.hear(actions)
        self.look()

    # What can happen otherwise

    @rule(seconds=st.sampled_from([0.1, 0.6, 5.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self.scheduler.wake_at is not None and self.scheduler.wake_at <= until:
            due = self.scheduler.wake_at
            self.now = max(self.now, due)
            self.hear(self.scheduler.tick(self.now))
            moved = self.scheduler.wake_at is None or self.scheduler.wake_at > self.now
            assert moved, "it is to be woken again at the same moment, for ever"
            self.look()
        self.now = until

    @precondition(lambda self: not self.draining and self.added < 3)
    @rule(which=one)
    def retire(self, which: int) -> None:
        """The configuration changes: a model goes, its successor gets who waited."""
        name = self.alive()[which % len(self.alive())]
        self.retired.add(name)
        self.added += 1
        new = f"{name}{self.added}"
        self.leaving.discard(name)
        for kind in (self.pinned, self.elsewhere):
            if name in kind:
                kind.add(new)
        self.add(new)
        self.pinned.discard(name)
        waited, actions = self.scheduler.retire([name], self.now)
        self.hold((6, 8), waited == list(self.queue[name]), "those who waited are not handed back")
        self.queue[name].clear()
        self.hear(actions)
        self.look()
        for ticket in waited:
            self.arrive(new, ticket)

    @precondition(lambda self: not self.draining)
    @rule(limit=st.integers(1, 3), swap_after=st.sampled_from([0.7, 10.0]))
    def limits(self, limit: int, swap_after: float) -> None:
        self.limit = limit = max(limit, len(self.pinned) + 1)
        self.swap_after = swap_after
        self.ceiling = max(limit, len(self.in_memory()))
        actions = self.scheduler.limits(
            limit=limit, swap_after=swap_after, max_queue=self.max_queue, now=self.now
        )
        self.hear(actions)
        self.look()

    @precondition(lambda self: self.tickets > 12 and not self.draining)
    @rule()
    def drain(self) -> None:
        self.draining = True
        self.hear(self.scheduler.drain(self.now))
        self.look()

    @precondition(lambda self: self.draining)
    @rule()
    def abandon(self) -> None:
        self.abandoned = True
        self.hear(self.scheduler.abandon(), abandon=True)
        self.look()

    # What must be so at any moment: looked at after each event

    def look(self) -> None:
        count = len(self.in_memory())
        self.hold((4,), count <= self.ceiling, "more models in memory than allowed")
        self.ceiling = max(self.limit, min(self.ceiling, count))
        for name in [n for n in self.names if n in self.retired]:
            if name not in self.process and not self.leases[name]:
                self.names.remove(name)
                self.failed.discard(name)
                self.hold((8,), name not in self.scheduler.models, "a retired model stays")
                assert self.scheduler.recovered(name, self.now) == []
        for name in self.names:
            told = self.scheduler.models[name]
            self.hold((7,), told.in_flight == self.leases[name], "the leases are miscounted")
            used = float("-inf") if told.last_used is None else told.last_used
            self.hold((10,), used == self.used[name], "what is no use counts as use")
            self.hold((8,), list(told.waiting) == list(self.queue[name]), "a waiter is forgotten")
            lost = name in self.failed and self.queue[name]
            self.hold((8,), not lost, "somebody waits for a model that has failed")
        if self.draining:
            self.look_at_drain()
        else:
            self.look_at_room()

    def look_at_drain(self) -> None:
        self.hold((8,), not any(self.queue.values()), "somebody waits though all is draining")
        for name in self.in_state("loading", "ready"):
            self.hold((8,), self.leases[name], "an idle model stays though all is draining")
            self.hold((8,), not self.abandoned, "a model stays though all are abandoned")

    def look_at_room(self) -> None:
        short = self.short_of_room()
        if self.want_room():
            full = len(self.in_memory()) >= self.limit
            self.hold((8, 11), full, "there is room and nobody gets it")
        for name in self.elsewhere & set(self.alive()):
            there = name in self.process or name in self.failed
            self.hold((11,), there, "one that lives elsewhere is not started")
            unasked = self.process.get(name) == "ready" and name not in self.leaving
            admits = not unasked or self.takes_newcomers(name)
            self.hold((11,), admits, "one that lives elsewhere closes for others")
        for name in self.retired & set(self.in_state("loading", "ready")):
            self.hold((8,), self.leases[name], "a retired model stays in memory")
        for name in self.leaving & set(self.in_state("loading", "ready")):
            self.hold((9,), not self.is_idle(name), "a model that is to be unloaded stays")
            admits = self.takes_newcomers(name)
            self.hold((9,), not admits, "a model that is to be unloaded takes newcomers")
        if self.shortage():
            idle = [name for name in self.names if self.can_go(name)]
            self.hold((5, 7, 8), not idle, "an idle model keeps room that somebody waits for")
        before = self.closed
        going = self.retired | self.leaving | self.elsewhere
        ready = [name for name in self.in_state("ready") if name not in going]
        self.closed = {name for name in ready if not self.takes_newcomers(name)}
        overdue = [name for name in short if self.first(name) + self.swap_after <= self.now]
        # What is over a limit that was lowered closes too; what is going makes room anyway.
        needed = len(overdue) + self.shortage() - len(short)
        ours = [name for name in self.in_state("ready") if name not in self.elsewhere]
        needed = max(needed - len(ours) + len(ready), 0)
        self.hold((1,), len(self.closed) <= needed, "a model closes without need")
        self.hold((5,), not self.closed & self.pinned, "a pinned model closes")
        may_close = [name for name in ready if name not in self.pinned]
        enough = len(self.closed) >= min(needed, len(may_close))
        self.hold((5,), enough, "patience is over and no model closes")
        for name in ready:
            kept_back = self.queue[name] and name not in self.closed
            self.hold((1,), not kept_back, "somebody waits at a model that is open")
        # A model that closes is left to it; another one closes by its last use.
        stayed = before & set(ready)
        if len(stayed) >= len(self.closed):
            self.hold((5,), self.closed <= stayed, "it closes another instead of the one it chose")
        for name in self.closed - before:
            open_ = [n for n in may_close if n not in self.closed]
            older = [n for n in open_ if self.used[n] < self.used[name]]
            self.hold((5,), not older, "not the least recently used one closes")

    # How it must come out in the end

    def teardown(self) -> None:
        if self.broken or not hasattr(self, "scheduler"):
            return
        if not self.draining:
            self.siege()
        self.calm()

    def siege(self) -> None:
        """Who waits now is answered even though each open model always has somebody."""
        waiting = {ticket for queue in self.queue.values() for ticket in queue}
        for _ in range(50):
            if not any(ticket in self.queue[self.owner[ticket]] for ticket in waiting):
                return
            for name in list(self.names):
                self.respond(name)
                leases = self.leases[name]
                if self.process.get(name) == "ready" and name not in self.retired:
                    self.arrive(name)
                for _ in range(leases):
                    self.finish(name)
            self.time_passes(self.swap_after / 2 + 0.1)
        self.hold((5,), False, "somebody waits for ever for room that busy models hold")

    def calm(self) -> None:
        """When all leases end and all processes respond, everybody is answered."""
        for _ in range(50):
            if not any(self.queue.values()) and not any(self.leases.values()):
                break
            for name in list(self.names):
                self.respond(name)
                while self.leases[name]:
                    self.finish(name)
            self.time_passes(1.1)
        self.hold((8,), not any(self.queue.values()), "somebody is never answered")
        if self.draining:
            for name in list(self.names):
                self.respond(name)
            self.hold((8,), not self.process, "a process is never stopped")

    def respond(self, name: str) -> None:
        if self.process.get(name) == "loading":
            self.load(name)
        elif self.process.get(name) == "stopping":
            self.exit(name)
        if name in self.failed:
            self.recover(name)


def _settings(examples: int, **more: Any) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


class ContractTests(Fleet.TestCase):  # type: ignore[misc]
    """The scheduler keeps its contract."""

    settings = _settings(120)


#: The rule; what the mutant does; the lines of the scheduler that are replaced, and by what.
MUTANTS: list[tuple[int, str, dict[str, str]]] = [
    (
        1,
        "a busy model keeps newcomers waiting",
        {
            "if model.status is Status.READY and not model.closing:\n            model.in_flight": (
                "if model.status is Status.READY and not (model.closing or model.in_flight):\n"
                "            model.in_flight"
            ),
            "model.waiting[ticket] = now\n        return self._settle(now)": (
                "model.waiting[ticket] = now\n"
                "        return [] if model.in_flight else self._settle(now)"
            ),
        },
    ),
    (
        1,
        "models close before patience is over",
        {
            "[m for m in patient if m._first_arrival() + self.swap_after <= now]": "patient[:]",
        },
    ),
    (
        1,
        "a model that closes never opens again",
        {
            "if model.closing:\n                model.closing = False": (
                "if False:\n                model.closing = False"
            )
        },
    ),
    (
        1,
        "a model that opens again keeps its newcomers waiting",
        {
            "model.closing = False\n                self._admit_waiting(model, now, actions)": (
                "model.closing = False"
            )
        },
    ),
    (
        2,
        "a model that loads is started once more",
        {
            "if m.waiting and m.status is Status.UNLOADED]": (
                "if m.waiting and m.status in (Status.UNLOADED, Status.LOADING)]"
            )
        },
    ),
    (
        2,
        "a model is started while its last process is still stopping",
        {
            "if m.waiting and m.status is Status.UNLOADED]": (
                "if m.waiting and m.status in (Status.UNLOADED, Status.STOPPING)]"
            )
        },
    ),
    (
        2,
        "a load serves only the first of those who waited for it",
        {
            "actions.extend(map(Admit, model.waiting))\n"
            "            model.in_flight += len(model.waiting)": (
                "actions.append(Admit(next(iter(model.waiting))))\n            model.in_flight += 1"
            ),
            "model.last_used = now\n            model.waiting.clear()": (
                "model.waiting.pop(next(iter(model.waiting)))"
            ),
        },
    ),
    (3, "busy models are stopped", {"if self.in_flight:\n            return False": "pass"}),
    (
        3,
        "a load that somebody waits for is stopped",
        {"return self.closing or not self.waiting": "return True"},
    ),
    (
        3,
        "the most recently used is stopped",
        {
            "idle.sort(key=lambda m: (not m.closing, m._age()))": (
                "idle.sort(key=lambda m: -m._age())"
            )
        },
    ),
    (
        3,
        "the end of a lease does not count as use",
        {"if used:\n            model.last_used = now": "pass"},
    ),
    (
        3,
        "the beginning of a lease does not count as use",
        {
            "if load:\n                model.last_used = now": "pass",
            "model.last_used = now\n            model.waiting.clear()": "model.waiting.clear()",
            "if used:\n            model.last_used = now": "pass",
        },
    ),
    (3, "pinned models are stopped for room", {" and not m.pinned]": "]"}),
    (
        3,
        "room that is on its way is not counted on",
        {"len(wanting) + over - stopping": "len(wanting) + over"},
    ),
    (
        4,
        "a stopping model does not count",
        {
            "IN_MEMORY = frozenset({Status.LOADING, Status.READY, Status.STOPPING})": (
                "IN_MEMORY = frozenset({Status.LOADING, Status.READY})"
            )
        },
    ),
    (
        4,
        "a loading model does not count",
        {
            "IN_MEMORY = frozenset({Status.LOADING, Status.READY, Status.STOPPING})": (
                "IN_MEMORY = frozenset({Status.READY, Status.STOPPING})"
            )
        },
    ),
    (4, "one more than allowed", {"free = self.limit - sum": "free = self.limit + 1 - sum"}),
    (5, "no model ever closes", {"busy[:closing]": "()"}),
    (5, "nobody is woken when patience ends", {"self.wake_at = patient[": "_ = patient["}),
    (
        5,
        "the most recently used closes",
        {
            "busy.sort(key=lambda m: (not m.closing, m._age()))": (
                "busy.sort(key=lambda m: (not m.closing, -m._age()))"
            )
        },
    ),
    (
        5,
        "now this one closes, now that one",
        {"busy.sort(key=lambda m: (not m.closing, m._age()))": "busy.sort(key=Model._age)"},
    ),
    (
        5,
        "a model that closes still admits",
        {
            "if model.status is Status.READY and not model.closing:\n            model.in_flight": (
                "if model.status is Status.READY:\n            model.in_flight"
            )
        },
    ),
    (
        5,
        "a model just loaded closes before it serves",
        {
            "model.last_used = now\n        return self._settle(now)\n\n    def load_failed": (
                "model.last_used = now\n"
                "        model.closing = any(m.waiting for m in self.models.values()\n"
                "                            if m.status is Status.UNLOADED)\n"
                "        return self._settle(now)\n\n    def load_failed"
            )
        },
    ),
    (5, "pinned models close", {" and not m.pinned]": "]"}),
    (5, "only one model closes at a time", {"busy[:closing]": "busy[: min(closing, 1)]"}),
    (
        6,
        "the last to come is the first to be served",
        {"map(Admit, model.waiting)": "map(Admit, reversed(model.waiting))"},
    ),
    (
        6,
        "the model waited for last starts first",
        {
            "wanting.sort(key=Model._first_arrival)": (
                "wanting.sort(key=Model._first_arrival, reverse=True)"
            )
        },
    ),
    (
        6,
        "models start in the order of the configuration",
        {"wanting.sort(key=Model._first_arrival)": "pass"},
    ),
    (7, "a lease ends twice", {"model.in_flight -= 1": "model.in_flight -= 2"}),
    (7, "a lease never ends", {"model.in_flight -= 1": "pass"}),
    (
        7,
        "a crash ends the leases, and so do their holders",
        {
            "model.closing = False\n        model.leaving = model.retired": (
                "model.closing = False\n"
                "        model.in_flight = 0\n"
                "        model.leaving = model.retired"
            )
        },
    ),
    (
        7,
        "many are admitted and one lease is counted",
        {"model.in_flight += len(model.waiting)": "model.in_flight += 1"},
    ),
    (
        7,
        "who is admitted is admitted again",
        {"model.last_used = now\n            model.waiting.clear()": "model.last_used = now"},
    ),
    (
        8,
        "who is rejected is not told",
        {"[Reject(ticket, error) for ticket in model.waiting]": "[]"},
    ),
    (
        8,
        "a load that is given up is not told",
        {
            "model.status = Status.STOPPING\n"
            "        return self._reject_waiting(model, error) + self._settle(now)": (
                "model.status = Status.STOPPING\n        return self._settle(now)"
            )
        },
    ),
    (
        8,
        "a load that fails is not told",
        {"return self._reject_waiting(model, failure) + ": "return "},
    ),
    (
        8,
        "nobody is served when a process is gone",
        {
            "self._forget(model)\n            return self._settle(now)": (
                "self._forget(model)\n            return []"
            )
        },
    ),
    (
        8,
        "nobody is served when somebody leaves",
        {
            "del self.models[key].waiting[ticket]\n        return self._settle(now)": (
                "del self.models[key].waiting[ticket]\n        return []"
            )
        },
    ),
    (
        8,
        "nobody is served when a lease ends",
        {
            "else:\n                return []\n        return self._settle(now)": (
                "else:\n                return []\n        return []"
            )
        },
    ),
    (8, "a drain leaves who waits", {"actions += self._reject_waiting(model, error)": "pass"}),
    (
        8,
        "a drain leaves idle models",
        {
            "return actions + self._settle(now)\n\n    def abandon": (
                "return actions\n\n    def abandon"
            )
        },
    ),
    (8, "a retired model stays in memory", {"model.retired = model.leaving": "model.retired"}),
    (8, "a retired model is never forgotten", {"if model.retired and not": "if False and not"}),
    (8, "a lowered limit is not kept", {"over = max(-free, 0)": "over = 0"}),
    (
        8,
        "newcomers wait for the end of the drain",
        {"if self.draining:\n            return [Reject": "if False:\n            return [Reject"},
    ),
    (9, "an unload does nothing", {"model.leaving = True\n            return": "return"}),
    (
        9,
        "a model that is to be unloaded takes newcomers",
        {"model.closing = model.status is Status.READY": "pass"},
    ),
    (
        9,
        "an unload breaks answers off",
        {
            "if model.idle:\n                    actions.append(self._stop(model))": (
                "actions.append(self._stop(model))"
            )
        },
    ),
    (
        9,
        "an unload stops a load that somebody waits for",
        {"model.closing = model.status is Status.READY": "model.closing = True"},
    ),
    (
        9,
        "a model that was unloaded is unloaded for ever",
        {"model.leaving = model.retired\n": "pass\n"},
    ),
    (9, "force leaves who waits", {"[*self._reject_waiting(model, error), Kill": "[Kill"}),
    (9, "force waits", {"if not force:": "if True:"}),
    (9, "rest breaks answers off", {"if model.in_flight:\n            return [], limit": "pass"}),
    (9, "rest comes too early", {"if now < due:": "if False:"}),
    (9, "rest never comes", {"return self.unload(key, now), None": "return [], limit"}),
    (
        10,
        "a visit counts as use",
        {"if load:\n                model": "if True:\n                model"},
    ),
    (10, "the end of a visit counts as use", {"if used:": "if True:"}),
    (10, "a visit loads", {"if not load:": "if False:"}),
    (
        10,
        "a visit is admitted to a model that closes",
        {
            "if model.status is Status.READY and not model.closing:\n            model.in_flight": (
                "if model.status is Status.READY and not (load and model.closing):\n"
                "            model.in_flight"
            )
        },
    ),
    (
        11,
        "what lives elsewhere takes room",
        {"models = [m for m in models if not m.elsewhere]": "models = [*models]"},
    ),
    (
        11,
        "what lives elsewhere is not started by itself",
        {"if model.elsewhere and model.status is Status.UNLOADED": "if False and model"},
    ),
]


def mutant(changes: dict[str, str]) -> Any:
    """The class `Scheduler` with some of its lines replaced."""
    source = inspect.getsource(real)
    for line, broken in changes.items():
        assert source.count(line) == 1, f"no longer in scheduler.py, or not once: {line}"
        source = source.replace(line, broken)
    made: dict[str, Any] = {"__name__": "mutant"}
    exec(compile(source, "mutant", "exec"), made)
    # What it says must be what the machine hears.
    made.update(Admit=Admit, Kill=Kill, Reject=Reject, Start=Start, Stop=Stop)
    return made["Scheduler"]


class MutantTests(SynchronousTestCase):
    """The checks of each rule notice when this rule is broken."""

    def assertNoticed(self, number: int) -> None:
        mutants = [(said, changes) for rule, said, changes in MUTANTS if rule == number]
        self.assertTrue(mutants)
        for said, changes in mutants:
            machine = type(
                "Mutant", (Fleet,), {"make": mutant(changes), "looked_at": frozenset({number})}
            )
            try:
                run_state_machine_as_test(
                    machine, settings=_settings(6000, phases=[Phase.generate], print_blob=False)
                )
            except (Broken, KeyError):  # some forget a model that is still there
                continue
            self.fail(f"nobody noticed: {said}")

    def test_every_rule_has_mutants(self) -> None:
        self.assertEqual({number for number, _, _ in MUTANTS}, RULES)

    def test_rule_1_is_held(self) -> None:
        self.assertNoticed(1)

    def test_rule_2_is_held(self) -> None:
        self.assertNoticed(2)

    def test_rule_3_is_held(self) -> None:
        self.assertNoticed(3)

    def test_rule_4_is_held(self) -> None:
        self.assertNoticed(4)

    def test_rule_5_is_held(self) -> None:
        self.assertNoticed(5)

    def test_rule_6_is_held(self) -> None:
        self.assertNoticed(6)

    def test_rule_7_is_held(self) -> None:
        self.assertNoticed(7)

    def test_rule_8_is_held(self) -> None:
        self.assertNoticed(8)

    def test_rule_9_is_held(self) -> None:
        self.assertNoticed(9)

    def test_rule_10_is_held(self) -> None:
        self.assertNoticed(10)

    def test_rule_11_is_held(self) -> None:
        self.assertNoticed(11)
