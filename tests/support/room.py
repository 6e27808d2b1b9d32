"""
A world in which memory is counted in bytes, to hold the scheduler's plans against the contract.

`World` plays requests, backends, neighbours and time to a scheduler, and keeps books of its own
from the actions alone: which process there is, what it holds on each device, who waits. Each check
bears the number of its rule in the docstring of `llamagw.fleet.scheduler`, or is one of these:

- P1: at each start, the world's own books are within the budget.
- P2: only idle models are stopped for room, and none that is pinned.
- P3: each that goes helps, and none of them could have stayed.
- P4: nobody waits for a model that is ready and open.
- P5: the oldest waiter is answered within `BOUND` rounds, whatever the adversary does.
- P6: all are answered in the end.

Two adversaries ask for all other models without end: one keeps every open model busy, the other
leaves what is ready idle and always has something loading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from llamagw.errors import GatewayError, ModelUnavailable
from llamagw.fleet.actions import Action, Admit, Kill, Reject, Start, Stop
from llamagw.fleet.books import Capacity
from llamagw.fleet.model import Model, Status, Why
from llamagw.fleet.scheduler import Scheduler
from llamagw.launch import Need

DEVICES = ("host", "gpu0", "gpu1")

#: Files that several models map.
FILES = ("a", "b")

#: Rounds within which the oldest waiter is answered, whatever the others do.
BOUND = 60

CRASH = ModelUnavailable("It has crashed.", retry_after=0)
NO_MEMORY = ModelUnavailable("It ran out of memory.", retry_after=1)


class Broken(AssertionError):
    """The contract is broken."""


def hold(held: object, rule: str, *seen: object) -> None:
    """Fail unless it is held."""
    if not held:
        raise Broken(rule, *seen)


def size_on(needs: Sequence[Need], device: str) -> int:
    """What several runs take on a device; of a file that they share as much as one of them maps."""
    taken = sum(need.devices.get(device, 0) for need in needs)
    if device == "host":
        files: dict[str, int] = {}
        for need in needs:
            for file, size in need.files.items():
                files[file] = max(files.get(file, 0), size)
        taken += sum(files.values())
    return taken


class World:
    """
    :param random: decides what there is
    :param trouble: whether runs grow, neighbours take memory, and loads fail for want of it
    """

    def __init__(self, random: Random, trouble: bool) -> None:
        self.random = random
        self.trouble = trouble
        self.now = 0.0
        swap_after = random.choice([0.0, 3.0, 10.0, None])
        self.step = max(1.0, (swap_after or 0) / 2)
        self.scheduler = Scheduler(
            (), limit=random.choice([2, 3, 99, 99]), swap_after=swap_after, max_queue=99
        )
        self.limit = self.scheduler.room.limit
        self.budget = {device: random.randint(4, 20) for device in DEVICES}
        self.others = dict.fromkeys(DEVICES, 0)
        self.names = [f"m{number}" for number in range(random.randint(2, 6))]
        self.needs = {name: self._some_needs() for name in self.names}
        self.pinned = {"m0"} if random.random() < 0.4 else set()
        for name in self.names:
            self.scheduler.add(
                name,
                pinned=name in self.pinned,
                needs=lambda name=name: self.needs[name],  # type: ignore[misc]
            )
        self.scheduler.memory(self.capacity(), self.now)
        #: What each process holds; by name of its model.
        self.held: dict[str, Need] = {}
        self.state: dict[str, str] = {}
        #: The leases of each, and who waits for it, since when.
        self.leases: dict[str, int] = dict.fromkeys(self.names, 0)
        self.queue: dict[str, dict[int, float]] = {name: {} for name in self.names}
        self.answers: dict[int, str] = {}
        self.names_of: dict[int, str] = {}
        #: How often in a row a load of each has failed for want of memory, before it was answered.
        self.fell_short = dict.fromkeys(self.names, 0)

    def _some_needs(self) -> list[Need]:
        random = self.random
        needs = []
        for _ in range(random.randint(1, 2)):
            devices = {
                device: random.randint(1, 12)
                for device in random.sample(DEVICES, random.randint(1, 2))
            }
            files = {}
            if random.random() < 0.3:
                file = random.choice(FILES)
                files = {file: random.randint(1, 5)}
            needs.append(Need(devices=devices, files=files, group=random.randint(0, 1)))
        return needs

    def capacity(self) -> dict[str, Capacity]:
        return {device: Capacity(self.budget[device], self.others[device]) for device in DEVICES}

    def room(self, device: str) -> int:
        return self.budget[device] - self.others[device]

    # Events

    def hear(self, actions: Sequence[Action]) -> Sequence[Action]:
        """Carry out what the scheduler has decided, and check it."""
        for action in actions:
            if isinstance(action, Start):
                self._starts(action.key, action.need)
            elif isinstance(action, Stop):
                self._stops(action)
            elif isinstance(action, Admit):
                ticket = action.ticket
                assert isinstance(ticket, int)
                self._answer(ticket, "admitted", self.names_of[ticket])
                hold(self.state.get(self.names_of[ticket]) == "ready", "1", action)
                self.leases[self.names_of[ticket]] += 1
            elif isinstance(action, Reject):
                assert isinstance(action.ticket, int)
                name = self.names_of[action.ticket]
                self._answer(action.ticket, "rejected", name)
                fits = self.fits_somewhere(self.scheduler.models[name])
                if "does not fit into memory" in action.error.message:
                    hold(not fits, "15: refused what fits", name, action.error.message)
            else:
                assert isinstance(action, Kill)
        return actions

    def _answer(self, ticket: int, how: str, name: str) -> None:
        hold(self.answers.get(ticket) == "waits", "8: answered once", ticket, how)
        self.answers[ticket] = how
        self.queue[name].pop(ticket, None)

    def _starts(self, name: str, need: Need | None) -> None:
        hold(name not in self.held, "2", name)
        assert need is not None
        self.held[name] = need
        self.state[name] = "loading"
        hold(len(self.held) <= self.limit, "4: count", self.held)
        if self.scheduler.models[name].anyway:
            alone = [self.held[one] for one in self.held if one in self.pinned or one == name]
            others = [self.held[one] for one in self.held]
            for device in DEVICES:
                if need.devices.get(device) and size_on(alone, device) <= self.room(device):
                    hold(size_on(others, device) <= self.room(device), "P1", name, self.held)
            return
        for device in DEVICES:
            if need.devices.get(device) or (device == "host" and need.files):
                taken = size_on(list(self.held.values()), device)
                hold(taken <= self.room(device), "P1", name, self.held, self.room(device))

    def _stops(self, action: Stop) -> None:
        name = action.key
        hold(self.state.get(name) in ("loading", "ready"), "P2", name, self.state)
        hold(not self.leases[name], "P2: busy", name)
        if action.why is Why.ROOM:
            hold(name not in self.pinned, "P2: pinned", name)
        self.state[name] = "stopping"

    def arrive(self, name: str, anyway: bool = False) -> int:
        ticket = len(self.answers)
        self.answers[ticket] = "waits"
        self.names_of[ticket] = name
        self.queue[name][ticket] = self.now
        self.hear(self.scheduler.arrived(name, ticket, self.now, anyway=anyway))
        return ticket

    def leave(self, name: str) -> None:
        ticket = next(iter(self.queue[name]))
        del self.queue[name][ticket]
        self.answers[ticket] = "left"
        self.hear(self.scheduler.left(name, ticket, self.now))

    def finish(self, name: str) -> None:
        self.leases[name] -= 1
        self.hear(self.scheduler.finished(name, self.now))

    def load(self, name: str) -> None:
        self.state[name] = "ready"
        self.fell_short[name] = 0
        self.hear(self.scheduler.loaded(name, self.now))

    def exit(self, name: str, failure: GatewayError | None = None) -> None:
        del self.held[name], self.state[name]
        self.hear(self.scheduler.exited(name, failure, self.now))

    def runs_out(self, name: str) -> None:
        """Its load fails for want of memory (16): it is tried again once, if others could go."""
        waiting, was = list(self.queue[name]), self.held.pop(name)
        del self.state[name]
        there = [
            one
            for one in self.held
            if one not in self.pinned
            and any(size_on([self.held[one]], d) for d in DEVICES if size_on([was], d))
        ]
        again = bool(waiting and there) and not self.fell_short[name]
        self.fell_short[name] = 0 if not again else 1
        self.hear(self.scheduler.exited(name, NO_MEMORY, self.now, out_of_memory=True))
        # It may not fit at all any more, beside what others have taken meanwhile.
        again = again and self.fits_somewhere(self.scheduler.models[name])
        for ticket in waiting:
            rejected = self.answers[ticket] == "rejected"
            hold(rejected is not again, "16: once", name, self.answers[ticket])
        if not again:
            self.hear(self.scheduler.recovered(name, self.now))

    def grow(self, name: str, device: str, more: int) -> None:
        """Its process is seen to hold more than it was counted with."""
        need = self.held[name]
        devices = {**need.devices, device: need.devices.get(device, 0) + more}
        self.held[name] = Need(devices=devices, files=need.files)
        self.hear(self.scheduler.measured(name, {device: devices[device]}, self.now))
        # It does not give back what it has had.
        self.hear(self.scheduler.measured(name, {device: 0}, self.now))

    def neighbours(self, device: str, size: int) -> None:
        """Others hold this much of a device."""
        self.others[device] = size
        self.hear(self.scheduler.memory(self.capacity(), self.now))

    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.hear(self.scheduler.tick(self.now))

    # What must be so at any time

    def look(self) -> None:
        """P4: nobody waits for what is ready and open; who never fits does not wait (15)."""
        for name, model in self.scheduler.models.items():
            if model.status is Status.READY and not model.closing:
                hold(not model.waiting, "P4", name)
            if model.status is Status.UNLOADED and model.waiting:
                hold(self.fits_somewhere(model), "15: waits for what never comes", name)
        if self.scheduler.room.swap_after is not None:
            self._look_at_what_is_over()

    def _look_at_what_is_over(self) -> None:
        """14: where more is held than there will be room for, nobody is idle that may go."""
        models = self.scheduler.models
        for device in DEVICES:
            stay = [
                name
                for name in self.held
                if self.state[name] != "stopping" and not models[name].closing
            ]
            if size_on([self.held[name] for name in stay], device) <= self.room(device):
                continue
            for name in stay:
                model = models[name]
                hold(
                    not model.idle or model.pinned or not size_on([self.held[name]], device),
                    "14",
                    name,
                    device,
                )

    def fits_somewhere(self, model: Model) -> bool:
        """Whether it would fit beside the pinned ones in memory."""
        if model.anyway:
            return True
        pinned = [self.held[one] for one in self.held if one in self.pinned and one != model.key]
        return any(
            all(
                size_on([*pinned, need], device) <= self.room(device)
                or size_on([*pinned, need], device) == size_on(pinned, device)
                for device in DEVICES
            )
            for need in self.needs[model.key]
        )

    # Histories

    def one_event(self) -> None:
        """Something happens."""
        random = self.random
        name, device = random.choice(self.names), random.choice(DEVICES)
        kind, size = random.randint(0, 9), random.randint(1, 14)
        state = self.state.get(name)
        self.now += random.choice([0.25, 1.0])
        if kind <= 2:
            self.arrive(name)
        elif kind == 3 and self.leases[name] and state == "ready":
            self.finish(name)
        elif kind == 4 and state == "loading":
            self.load(name)
        elif kind == 5 and state == "stopping":
            self.exit(name)
        elif kind == 6 and self.queue[name]:
            self.leave(name)
        elif kind == 7 and self.trouble and state == "ready" and device in self.held[name].devices:
            self.grow(name, device, size // 4)
        elif kind == 7 and self.trouble and state == "loading":
            self.runs_out(name)
        elif kind == 8 and self.trouble:
            self.neighbours(device, size // 3)
        elif kind == 9 and self.trouble and state == "ready" and random.random() < 0.3:
            self._crash(name)
        else:
            self.time_passes(self.step)
        self.look()

    def _crash(self, name: str) -> None:
        while self.leases[name]:
            self.finish(name)
        if self.state.get(name) == "ready":
            self.exit(name, CRASH)

    def oldest(self) -> int | None:
        """The ticket of who waits for the longest."""
        waiting = [ticket for ticket, answer in self.answers.items() if answer == "waits"]
        return min(waiting, default=None)

    def outlast(self, relentless: bool) -> None:
        """
        P5: the oldest waiter is answered, however much the adversary asks for the others.

        :param relentless: whether it keeps each open model busy; else it leaves the ready ones
            idle, and asks for those that are not loaded
        """
        victim = self.oldest()
        if victim is None:
            return
        owner, ages, rounds = self.names_of[victim], dict.fromkeys(self.names, 0), 0
        while self.answers[victim] == "waits":
            rounds += 1
            hold(rounds < BOUND, "P5", owner, self.scheduler.models, self.budget, self.others)
            self.now += self.step
            self._ask(owner, relentless)
            jobs = [name for name in self.names for _ in range(self.leases[name] or 1)]
            self.random.shuffle(jobs)
            for name in jobs:
                self._one_job(name, ages, relentless, owner)
            self.time_passes(0.0)

    def _ask(self, owner: str, relentless: bool) -> None:
        """Ask for the others, before the old leases end: what is open is never idle."""
        for name in self.random.sample(self.names, len(self.names)):
            if name == owner:
                continue
            loaded = self.state.get(name) in ("ready", "loading")
            if relentless or (not loaded and not self.queue[name]):
                self.arrive(name)

    def _one_job(self, name: str, ages: dict[str, int], relentless: bool, owner: str) -> None:
        """A lease, a load or a stop ends; each takes one to three rounds."""
        ages[name] += 1
        if ages[name] < 3 and self.random.random() > (0.45 if relentless else 0.7):
            return
        ages[name] = 0
        state = self.state.get(name)
        if state == "loading":
            self.load(name)
        elif state == "stopping":
            self.exit(name)
        elif state == "ready" and self.leases[name]:
            self.finish(name)
            while not relentless and self.leases[name]:
                self.finish(name)

    def end(self) -> None:
        """P6: everybody is answered, if all goes on and nobody else comes."""
        for _ in range(80 * len(self.names)):
            if self.oldest() is None:
                break
            self.now += self.step
            for name in self.names:
                while self.leases[name]:
                    self.finish(name)
                if self.state.get(name) == "loading":
                    self.load(name)
                if self.state.get(name) == "stopping":
                    self.exit(name)
            self.time_passes(0.0)
        hold(self.oldest() is None, "P6", self.scheduler.models)


def history(seed: int) -> None:
    """
    One history, checked at each event; then the adversary, then the end.

    :param seed: of all that happens in it
    """
    made = World(Random(seed), trouble=bool(seed % 2))
    for _ in range(made.random.randint(0, 70)):
        made.one_event()
    made.outlast(relentless=made.random.random() < 0.6)
    made.end()


def eviction(seed: int) -> None:
    """
    P3: all are idle, and one is asked for: each that goes helps, and none of them could stay.

    :param seed: of the order in which models are asked for
    """
    made = World(Random(seed), trouble=False)
    made.scheduler.room.swap_after = 0.0
    for _ in range(made.random.randint(1, 25)):
        name = made.random.choice(made.names)
        made.now += 1
        before = dict(made.held)
        made.arrive(name)
        stopped = [one for one in before if made.state.get(one) == "stopping"]
        if stopped:
            hold(_is_minimal(made, name, before, stopped), "P3", name, before, stopped)
        for _ in range(6):
            _all_goes_on(made)


def _is_minimal(made: World, name: str, before: Mapping[str, Need], stopped: list[str]) -> bool:
    def fits(need: Need, gone: Sequence[str]) -> bool:
        stay = [before[one] for one in before if one not in gone]
        return len(stay) < made.limit and all(
            size_on([*stay, need], device) <= made.room(device)
            for device in DEVICES
            if size_on([need], device)
        )

    return any(
        fits(need, stopped)
        and not any(fits(need, [one for one in stopped if one != other]) for other in stopped)
        for need in made.needs[name]
    )


def _all_goes_on(made: World) -> None:
    for name in made.names:
        while made.leases[name]:
            made.finish(name)
        if made.state.get(name) == "loading":
            made.load(name)
        if made.state.get(name) == "stopping":
            made.exit(name)
