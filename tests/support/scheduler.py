"""
The world that the scheduler's properties are tested in, and the contract as checks.

`Fleet` plays requests, backends and time to a scheduler and keeps an account of its own, from the
scheduler's actions alone: which processes there are, who waits where and since when, how many
leases are out, when each model was last used. After each step the account is checked against the
rules of the contract; each check bears the numbers of the rules that it holds (see the docstring of
`llamagw.fleet.scheduler`). Whether a model is closing is found out as a client would: by asking for
it, of a copy of the scheduler.

Which steps are taken is not said here: `STEPS` is what can be done, and hypothesis or a random walk
chooses (test_scheduler_properties.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st

from llamagw.errors import GatewayError, ModelNotLoaded, ModelUnavailable, ShuttingDown
from llamagw.fleet.room import BUSY_STAY, STAY, UNASKED
from llamagw.fleet.scheduler import Action, Admit, Kill, Reject, Scheduler, Start, Stop
from llamagw.launch.restarts import Restarts

#: The rules of the contract.
RULES = frozenset(range(1, 13))
FAILURE = ModelUnavailable("The engine has no words.", retry_after=1)

#: After this one a model may be started again at once.
CRASH = ModelUnavailable("The engine has crashed.", retry_after=0)


class Pick(NamedTuple):
    """An argument of a step: one of some values, or a list of 1 to ``most`` of them."""

    values: Sequence[Any]
    most: int | None = None

    def strategy(self) -> st.SearchStrategy[Any]:
        one = st.sampled_from(self.values)
        return one if self.most is None else st.lists(one, min_size=1, max_size=self.most)

    def draw(self, random: Random) -> Any:
        if self.most is None:
            return random.choice(self.values)
        return random.choices(self.values, k=random.randint(1, self.most))


#: Picks one of several, whatever their number; or a few, one after the other.
one = Pick(range(12))
some = Pick(range(12), most=4)
maybe = Pick([False, True])


class Broken(AssertionError):
    """A rule of the contract is broken."""


class Fleet:
    """Plays the world to a scheduler, and keeps account. `begin` comes first, `end` last."""

    #: The rules that are looked at.
    looked_at = RULES
    broken = False
    #: A copy of the scheduler as it is at this moment, if one was needed.
    double: Scheduler | None = None

    def begin(
        self,
        count: int,
        limit: int,
        swap_after: float | None,
        max_queue: int,
        busy: list[bool],
        pinned: int,
        elsewhere: bool,
        failures: int,
        load_sec: float,
    ) -> None:
        self.names = list("abcd"[:count])
        self.limit = limit
        self.swap_after = swap_after
        self.max_queue = max_queue
        self.scheduler = Scheduler((), limit=limit, swap_after=swap_after, max_queue=max_queue)
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
        #: Those of them for whose next start who asks is to wait.
        self.held: set[str] = set()
        #: What says how soon each may be started again, and how often it has failed.
        self.restarts = {name: Restarts() for name in self.names}
        self.failures = dict.fromkeys(self.names, failures)
        for restarts in self.restarts.values():
            restarts.failures = failures
        self.queue: dict[str, dict[int, float]] = {name: {} for name in self.names}
        self.leases = dict.fromkeys(self.names, 0)
        #: How many of the leases do not count as use.
        self.visits = dict.fromkeys(self.names, 0)
        self.used = dict.fromkeys(self.names, float("-inf"))
        #: When the last load of each began, when it ended, and what a load of it takes.
        self.started: dict[str, float] = {}
        self.ready_at: dict[str, float] = {}
        self.load_sec: dict[str, float] = {}
        #: Whether the last event was one that decides anew who goes.
        self.settled = True
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
            self.time_passes(load_sec)
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
        self.visits[name] = self.failures[name] = 0
        self.restarts[name] = Restarts()
        pinned, elsewhere = name in self.pinned, name in self.elsewhere
        self.scheduler.add(name, pinned=pinned, takes_no_room=elsewhere)

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

    def is_kept(self, name: str) -> bool:
        """Whether models stay for a time of their own, and this one is ready and open."""
        return (
            self.swap_after is None
            and self.process.get(name) == "ready"
            and name not in self.closed
        )

    def going_order(self, name: str) -> float:
        """Of those that can go, the one with the lowest does."""
        if self.swap_after is not None:
            return self.used[name]
        if not self.is_kept(name):
            return float("-inf")
        return self.used[name] + UNASKED * self.load_sec[name]

    def stays_idle_until(self, name: str) -> float:
        if not self.is_kept(name):
            return float("-inf")
        return min(self.going_order(name), self.ready_at[name] + STAY * self.load_sec[name])

    def stays_busy_until(self, name: str) -> float:
        if self.swap_after is not None:
            return float("-inf")
        return self.ready_at[name] + max(STAY * self.load_sec[name], BUSY_STAY)

    def takes_newcomers(self, name: str) -> bool:
        if self.double is None:
            self.double = copy.deepcopy(self.scheduler)
        return self.double.arrived(name, -1, self.now) == [Admit(-1)]

    # What the scheduler says, into the account

    def hear(
        self, actions: list[Action], failed: str = "", abandon: bool = False, settled: bool = True
    ) -> None:
        self.settled = settled
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
            or name in self.failed - self.held
            or len(self.queue[name]) > self.max_queue
        )
        self.hold((8, 12), reason and error.message, "somebody is turned away without a reason")
        self.queue[name].pop(ticket, None)

    def start(self, name: str) -> None:
        self.hold((2,), name not in self.process, "a second process for one model")
        self.started[name] = self.now
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
            mine = self.going_order(name)
            older = [n for n in self.names if self.can_go(n) and self.going_order(n) < mine]
            self.hold((3,), name in self.closed or not older, "not the least recently used one")
            over = self.stays_idle_until(name) <= self.now
            self.hold((3,), over, "a model is stopped for room before its stay is over")
        self.process[name] = "stopping"

    # What can happen to requests

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
        self.hear(actions, settled=actions != [Admit(ticket)])
        self.look()

    def is_open(self, name: str) -> bool:
        closed = name in self.closed or name in self.leaving
        return self.process.get(name) == "ready" and not closed and not self.draining

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
            self.settled = False
        else:
            errors = [type(action.error) for action in actions if isinstance(action, Reject)]
            wanted = ShuttingDown if self.draining else ModelNotLoaded
            self.hold((10,), errors == [wanted], "who must not load is not told so")
            self.hold((10,), len(actions) == 1, "something is done for who must not load")
        self.look()

    def visit_over(self, which: int) -> None:
        visited = [name for name in self.names if self.visits[name]]
        self.finish(visited[which % len(visited)], visit=True)

    def left(self, which: int) -> None:
        waiting = [(name, ticket) for name in self.names for ticket in self.queue[name]]
        name, ticket = waiting[which % len(waiting)]
        del self.queue[name][ticket]
        self.hear(self.scheduler.left(name, ticket, self.now))
        self.look()

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
        actions = self.scheduler.finished(name, self.now, used=not visit)
        self.hear(actions, settled=not self.leases[name])
        self.look()

    # What can happen to processes

    def loaded(self, which: int) -> None:
        loading = self.in_state("loading")
        self.load(loading[which % len(loading)])

    def load(self, name: str) -> None:
        waiting = list(self.queue[name])
        self.process[name] = "ready"
        self.used[name] = self.ready_at[name] = self.now
        took = self.now - self.started[name]
        self.load_sec[name] = (took + self.load_sec.get(name, took)) / 2
        actions = self.scheduler.loaded(name, self.now)
        served = [action.ticket for action in actions if isinstance(action, Admit)]
        missed = [ticket for ticket in waiting if ticket not in served]
        self.hold((2, 5), not missed, "somebody who waited for a load is not served by it")
        self.hear(actions)
        self.look()

    def load_failed(self, which: int) -> None:
        loading = self.in_state("loading")
        name = loading[which % len(loading)]
        self.process[name] = "stopping"
        self.hear(self.scheduler.load_failed(name, FAILURE, self.now), failed=name)
        self.hold((8,), not self.queue[name], "somebody waits on for a load that was given up")
        self.look()

    def exited(self, which: int, fails: bool) -> None:
        there = self.in_state("loading", "ready", "stopping")
        name = there[which % len(there)]
        hold = False
        if fails and self.process[name] == "loading":
            pause = self.restarts[name].load_failed()
            hold = pause.hold
            self.hold((12,), pause == (self.longer(name), False), "a failed load does not count")
        self.exit(name, FAILURE if fails else None, hold)

    def crashed(self, which: int, answered: bool, stable: bool) -> None:
        """A backend that was ready is gone, and nobody wanted that."""
        ready = self.in_state("ready")
        # Those that close are few, and the ones with something to lose.
        ready = [name for name in ready if self.queue[name]] or ready
        name = ready[which % len(ready)]
        if answered or stable:
            self.failures[name] = 0
        free = answered or not self.failures[name]
        if free and not answered:
            self.failures[name] = 1
        seconds = 0.0 if free else self.longer(name)
        pause = self.restarts[name].crashed(answered, stable)
        self.hold((12,), pause == (seconds, seconds <= 5), "it may start too soon or too late")
        waiting = list(self.queue[name])
        self.exit(name, FAILURE if pause.seconds else CRASH, pause.hold)
        kept = list(self.queue[name]) == waiting
        self.hold((12,), kept or not pause.hold, "somebody loses its place by a crash")

    def longer(self, name: str) -> float:
        """It fails once more: for how many seconds it is not to be started."""
        self.failures[name] += 1
        return min(2.0 ** (self.failures[name] - 1), 60.0)

    def exit(self, name: str, failure: GatewayError | None = None, hold: bool = False) -> None:
        del self.process[name]
        self.leaving.discard(name)
        if failure is FAILURE:
            self.failed.add(name)
        if failure is FAILURE and hold:
            self.held.add(name)
        self.hear(self.scheduler.exited(name, failure, self.now, hold))
        self.look()

    def recovered(self, which: int) -> None:
        failed = sorted(self.failed)
        self.recover(failed[which % len(failed)])

    def recover(self, name: str) -> None:
        self.failed.remove(name)
        self.held.discard(name)
        self.hear(self.scheduler.recovered(name, self.now))
        self.look()

    def all_goes_well(self) -> None:
        for name in list(self.names):
            self.respond(name)

    # What can be wanted of a model

    def unload(self, which: int) -> None:
        name = self.alive()[which % len(self.alive())]
        if self.process.get(name) in ("loading", "ready"):
            self.leaving.add(name)
        self.failed.discard(name)
        self.held.discard(name)
        settled = self.settled or name in self.process
        self.hear(self.scheduler.unload(name, self.now), settled=settled)
        self.look()

    def unload_by_force(self, which: int) -> None:
        name = self.alive()[which % len(self.alive())]
        there = name in self.process
        waited = len(self.queue[name])
        self.failed.discard(name)
        self.held.discard(name)
        actions = self.scheduler.unload(name, self.now, force=True)
        killed = [action.key for action in actions if isinstance(action, Kill)]
        self.hold((9,), killed == ([name] if there else []), "not the model that was meant dies")
        self.hear(actions, failed=name if there else "", settled=self.settled or there)
        left = 0 if there else waited
        self.hold((9,), len(self.queue[name]) == left, "somebody waits for what was killed")
        self.look()

    def rest(self, which: int, limit: float) -> None:
        name = self.alive()[which % len(self.alive())]
        ready = self.process.get(name) == "ready"
        rested = ready and not self.leases[name] and self.used[name] + limit <= self.now
        if rested:
            self.leaving.add(name)
        actions, again = self.scheduler.idle_timeout(name, limit, self.now)
        self.hold((9,), rested or not actions, "a model is stopped before it has rested")
        if rested or not ready:
            self.hold((9,), again is None, "it is looked at again for nothing")
        else:
            soon = again is not None and 0 < again <= limit + 1e-9
            self.hold((9,), soon, "it is looked at too late")
        self.hear(actions, settled=self.settled or rested)
        self.look()

    def pin(self, which: int, pinned: bool) -> None:
        """Somebody pins a model, or unpins it."""
        local = [name for name in self.alive() if name not in self.elsewhere]
        # Those that close are few, and the ones for which it makes a difference.
        local = [name for name in local if name in self.closed] or local
        name = local[which % len(local)]
        if not pinned:
            self.pinned.discard(name)
        elif len(self.pinned | {name}) < self.limit:
            self.pinned.add(name)
            self.closed.discard(name)
        else:
            return
        self.hear(self.scheduler.pin(name, pinned, self.now))
        self.look()

    # What can happen otherwise

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
            assert isinstance(ticket, int)
            self.arrive(new, ticket)

    def limits(self, limit: int, swap_after: float | None) -> None:
        self.limit = limit = max(limit, len(self.pinned) + 1)
        self.swap_after = swap_after
        self.ceiling = max(limit, len(self.in_memory()))
        actions = self.scheduler.limits(
            limit=limit, swap_after=swap_after, max_queue=self.max_queue, now=self.now
        )
        self.hear(actions)
        self.look()

    def drain(self) -> None:
        self.draining = True
        self.hear(self.scheduler.drain(self.now))
        self.look()

    def abandon(self) -> None:
        self.abandoned = True
        self.hear(self.scheduler.abandon(), abandon=True)
        self.look()

    # What must be so at any moment: looked at after each event

    def look(self) -> None:
        # One copy does for all questions: to ask for one model changes nothing for another.
        self.double = None
        count = len(self.in_memory())
        self.hold((4,), count <= self.ceiling, "more models in memory than allowed")
        self.ceiling = max(self.limit, min(self.ceiling, count))
        for name in [n for n in self.names if n in self.retired]:
            if name not in self.process and not self.leases[name]:
                self.names.remove(name)
                self.failed.discard(name)
                self.held.discard(name)
                self.hold((8,), name not in self.scheduler.models, "a retired model stays")
                assert self.scheduler.recovered(name, self.now) == []
        for name in self.names:
            told = self.scheduler.models[name]
            self.hold((7,), told.in_flight == self.leases[name], "the leases are miscounted")
            used = float("-inf") if told.last_used is None else told.last_used
            self.hold((10,), used == self.used[name], "what is no use counts as use")
            self.hold((8,), list(told.waiting) == list(self.queue[name]), "a waiter is forgotten")
            lost = name in self.failed - self.held and self.queue[name]
            self.hold((8, 12), not lost, "somebody waits for a model that has failed")
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
        before = self.closed
        going = self.retired | self.leaving | self.elsewhere
        ready = [name for name in self.in_state("ready") if name not in going]
        self.closed = {name for name in ready if not self.takes_newcomers(name)}
        idle = [name for name in self.names if self.can_go(name)] if self.shortage() else []
        kept = min(idle, key=self.going_order, default=None)
        if kept and self.settled:
            stays = self.stays_idle_until(kept) > self.now
            self.hold((5, 7, 8), stays, "an idle model keeps room that somebody waits for")
        patience = self.swap_after or 0.0
        overdue = [name for name in short if self.first(name) + patience <= self.now]
        # What is over a limit that was lowered closes too; what is going makes room anyway.
        needed = len(overdue) + self.shortage() - len(short)
        ours = [name for name in self.in_state("ready") if name not in self.elsewhere]
        needed = max(needed - len(ours) + len(ready), 0)
        self.hold((1,), len(self.closed) <= needed, "a model closes without need")
        self.hold((5,), not self.closed & self.pinned, "a pinned model closes")
        may_close = [name for name in ready if name not in self.pinned]
        open_ = [name for name in may_close if name not in self.closed]
        enough = len(self.closed) >= min(needed, len(may_close)) or self.stay(kept, open_)
        self.hold((5,), enough, "patience is over and no model closes")
        for name in ready:
            kept_back = self.queue[name] and name not in self.closed
            self.hold((1,), not kept_back, "somebody waits at a model that is open")
        # A model that closes is left to it; another one closes by its last use.
        stayed = before & set(ready)
        if len(stayed) >= len(self.closed):
            self.hold((5,), self.closed <= stayed, "it closes another instead of the one it chose")
        for name in self.closed - before:
            self.hold((5,), not kept, "a busy model closes though an idle one is about to go")
            over = self.stays_busy_until(name) <= self.now
            self.hold((5,), over, "a busy model closes before its stay is over")
            older = [n for n in open_ if self.used[n] < self.used[name]]
            self.hold((5,), not older, "not the least recently used one closes")

    def stay(self, kept: str | None, open_: list[str]) -> bool:
        """Whether none of the open models need close as yet, and it is known when that ends."""
        if self.swap_after is not None:
            return False
        ends = [self.stays_busy_until(name) for name in open_]
        woken = self.scheduler.wake_at
        if woken is None or not self.now < woken <= max(ends, default=0.0):
            return False
        first = min(open_, key=lambda name: self.used[name])
        return bool(kept or not self.settled or self.stays_busy_until(first) > self.now)

    # How it must come out in the end

    def end(self) -> None:
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
            stays = [self.stays_busy_until(name) for name in self.in_state("ready")]
            longest = max(stays, default=self.now) - self.now
            self.time_passes(max(longest, self.swap_after or 0.0, 0.0) / 2 + 0.1)
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


class Step(NamedTuple):
    """
    Something that can happen.

    :ivar do: the method of `Fleet` that makes it happen
    :ivar arguments: what it is called with
    :ivar possible: whether it can happen now
    :ivar weight: how often it does in a random walk
    """

    do: Callable[..., None]
    arguments: dict[str, Pick]
    possible: Callable[[Any], object] = lambda fleet: True
    weight: int = 4


BEGIN = Step(
    Fleet.begin,
    {
        "count": Pick([3, 4]),
        "limit": Pick([2, 1, 3]),
        "swap_after": Pick([0.7, 10.0, 0.0, None, None]),
        "max_queue": Pick([2, 3, 4, 5]),
        "busy": Pick([False, True], most=3),
        "pinned": Pick([0, 1, 2]),
        "elsewhere": maybe,
        "failures": Pick([0, 1, 2, 3]),
        "load_sec": Pick([0.0, 2.0, 40.0]),
    },
)

STEPS = [
    Step(Fleet.arrived, {"which": some}, weight=8),
    Step(Fleet.visited, {"which": one}),
    Step(Fleet.visit_over, {"which": one}, lambda fleet: any(fleet.visits.values())),
    Step(Fleet.left, {"which": one}, lambda fleet: any(fleet.queue.values())),
    Step(Fleet.finished, {"which": some}, lambda fleet: any(fleet.leases.values()), weight=8),
    Step(Fleet.loaded, {"which": one}, lambda fleet: fleet.in_state("loading"), weight=8),
    Step(Fleet.load_failed, {"which": one}, lambda fleet: fleet.in_state("loading"), weight=2),
    Step(Fleet.exited, {"which": one, "fails": maybe}, lambda fleet: fleet.process),
    Step(
        Fleet.crashed,
        {"which": one, "answered": maybe, "stable": Pick([False, False, True])},
        lambda fleet: fleet.in_state("ready"),
        weight=6,
    ),
    Step(Fleet.recovered, {"which": one}, lambda fleet: fleet.failed),
    Step(Fleet.all_goes_well, {}, lambda fleet: fleet.in_state("loading", "stopping"), weight=8),
    Step(Fleet.unload, {"which": one}),
    Step(Fleet.unload_by_force, {"which": one}, weight=2),
    Step(Fleet.rest, {"which": one, "limit": Pick([0.1, 5.0])}),
    Step(Fleet.pin, {"which": one, "pinned": maybe}, weight=2),
    Step(Fleet.time_passes, {"seconds": Pick([0.1, 0.6, 5.0, 10.0])}),
    Step(
        Fleet.retire, {"which": one}, lambda fleet: not fleet.draining and fleet.added < 3, weight=2
    ),
    Step(
        Fleet.limits,
        {"limit": Pick([1, 2, 3]), "swap_after": Pick([0.7, 10.0, None])},
        lambda fleet: not fleet.draining,
        weight=2,
    ),
    Step(Fleet.drain, {}, lambda fleet: fleet.tickets > 12 and not fleet.draining, weight=1),
    Step(Fleet.abandon, {}, lambda fleet: fleet.draining),
]


def walk(looked_at: frozenset[int], random: Random, steps: int = 40) -> None:
    """
    Let things happen at random, as often as is said, and come to an end.

    :param looked_at: the rules that are checked
    :raises Broken: when one of them is broken
    """
    fleet = Fleet()
    fleet.looked_at = looked_at
    take(BEGIN, fleet, random)
    for _ in range(steps):
        possible = [step for step in STEPS if step.possible(fleet)]
        [step] = random.choices(possible, [step.weight for step in possible])
        take(step, fleet, random)
    fleet.end()


def take(step: Step, fleet: Fleet, random: Random) -> None:
    step.do(fleet, **{name: pick.draw(random) for name, pick in step.arguments.items()})
