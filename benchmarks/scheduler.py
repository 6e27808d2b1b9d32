"""
What an event costs the scheduler, in microseconds, with few models and with thousands.

    PYTHONPATH=. python benchmarks/scheduler.py [number of models ...]

Then the same where memory is counted in bytes, with few and many models in memory, waited for, and
configured; in microseconds and in Python calls. Nothing but the scheduler runs. The calls, which
are the same on every machine, are held by tests/fleet/test_scheduler_cost.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import count

from llamagw.fleet.books import Capacity
from llamagw.fleet.scheduler import Scheduler, Start, Stop
from llamagw.launch import Need
from tests.fleet.test_scheduler_cost import calls

#: Where bytes are counted: models in memory; models waited for, and models configured beside these.
IN_MEMORY = (5, 20, 100)
BESIDE = ((1, 0), (1, 1000), (16, 0), (1000, 0))

#: How often an event is measured, and how many of them at a time.
ROUNDS, EVENTS = 20, 50


class Waiting:
    """A busy model, and a number of others at each of which somebody waits for its room."""

    def __init__(self, models: int) -> None:
        self.now = 0.0
        self.tickets = count()
        self.scheduler = Scheduler(
            [str(number) for number in range(models + 1)], limit=1, swap_after=10, max_queue=10
        )
        self.busy = "0"
        self.scheduler.arrived("0", next(self.tickets), 0)
        self.scheduler.loaded("0", 0)
        self.waiting = {key: self.arrive(key) for key in map(str, range(1, models + 1))}

    def arrive(self, key: str) -> int:
        self.now += 0.001
        ticket = next(self.tickets)
        self.scheduler.arrived(key, ticket, self.now)
        return ticket

    def request(self) -> int:
        """One more request at the busy model begins and ends."""
        self.arrive(self.busy)
        self.scheduler.finished(self.busy, self.now)
        return 2

    def first_leaves(self) -> int:
        """The one who waits longest leaves, and comes back as the last."""
        key, ticket = next(iter(self.waiting.items()))
        del self.waiting[key]
        self.scheduler.left(key, ticket, self.now)
        self.waiting[key] = self.arrive(key)
        return 2

    def last_leaves(self) -> int:
        """The one who came last leaves, and comes back."""
        key, ticket = self.waiting.popitem()
        self.scheduler.left(key, ticket, self.now)
        self.waiting[key] = self.arrive(key)
        return 2

    def swap(self) -> int:
        """The busy model makes room for the next, and somebody comes for it anew."""
        [stop] = self.scheduler.finished(self.busy, self.now)
        assert isinstance(stop, Stop)
        [start] = self.scheduler.exited(stop.key, None, self.now)
        assert isinstance(start, Start)
        self.scheduler.loaded(start.key, self.now)
        del self.waiting[start.key]
        self.busy = start.key
        self.waiting[stop.key] = self.arrive(stop.key)
        return 4

    def tick(self) -> int:
        """Time passes."""
        self.scheduler.tick(self.now)
        return 1

    def impatient(self) -> int:
        """The same, when all are out of patience."""
        self.scheduler.tick(self.now + 1000)
        return 1


class InMemory:
    """A number of busy models in memory, and somebody who waits for the room of one."""

    def __init__(self, models: int) -> None:
        self.now = 0.0
        self.tickets = count()
        self.keys = [str(number) for number in range(models + 1)]
        self.turn = 0
        self.scheduler = Scheduler(self.keys, limit=models, swap_after=10, max_queue=10)
        for key in self.keys:
            self.scheduler.arrived(key, next(self.tickets), self.now)
            if key != self.keys[-1]:
                self.scheduler.loaded(key, self.now)

    def request(self) -> int:
        """A request at one of them in turn begins and ends."""
        self.now += 0.001
        self.turn = (self.turn + 1) % (len(self.keys) - 1)
        key = self.keys[self.turn]
        self.scheduler.arrived(key, next(self.tickets), self.now)
        self.scheduler.finished(key, self.now)
        return 2

    def patience(self) -> int:
        """One of them closes, and opens again."""
        self.scheduler.tick(self.now + 1000)
        self.scheduler.tick(self.now)
        return 2


class Bytes:
    """
    Where bytes are counted: busy models in memory, and others that somebody waits for.

    All take as much; each has three places: either GPU, or half on each.

    :param in_memory: how many are busy
    :param waiting: how many are waited for
    :param others: how many more are configured
    """

    def __init__(self, in_memory: int, waiting: int, others: int) -> None:
        self.now = 0.0
        self.tickets = count()
        keys = [str(number) for number in range(in_memory + waiting + others)]
        self.scheduler = Scheduler((), limit=len(keys), swap_after=10, max_queue=10)
        places = (
            Need(devices={"host": 1, "gpu0": 2}),
            Need(devices={"host": 1, "gpu1": 2}),
            Need(devices={"host": 1, "gpu0": 1, "gpu1": 1}, group=1),
        )
        for key in keys:
            self.scheduler.add(key, needs=lambda: places)
        self.scheduler.memory({"gpu0": Capacity(in_memory), "gpu1": Capacity(in_memory)}, 0)
        self.busy = keys[:in_memory]
        self.last = keys[in_memory + waiting - 1]
        for key in keys[: in_memory + waiting]:
            self.arrive(key)
            if key in self.busy:
                self.scheduler.loaded(key, self.now)

    def arrive(self, key: str) -> int:
        self.now += 0.001
        ticket = next(self.tickets)
        self.scheduler.arrived(key, ticket, self.now)
        return ticket

    def request(self) -> int:
        """A request at a busy model begins and ends."""
        self.arrive(self.busy[0])
        self.scheduler.finished(self.busy[0], self.now)
        return 2

    def waits(self) -> int:
        """One more waits, and leaves."""
        self.scheduler.left(self.last, self.arrive(self.last), self.now)
        return 2

    def swap(self) -> int:
        """A busy model makes room for the next, and somebody comes for it anew."""
        [stop] = self.scheduler.finished(self.busy.pop(0), self.now)
        assert isinstance(stop, Stop)
        [start] = self.scheduler.exited(stop.key, None, self.now)
        assert isinstance(start, Start)
        self.scheduler.loaded(start.key, self.now)
        self.busy.append(start.key)
        self.arrive(stop.key)
        return 4

    def impatient(self) -> int:
        """Time passes: all are out of patience, and some close."""
        self.scheduler.tick(self.now + 1000)
        return 1


def per_event(do: Callable[[], int], number: int = EVENTS) -> float:
    """Microseconds for each event; the best of all rounds, since others use the machine too."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        events = sum(do() for _ in range(number))
        best = min(best, (time.perf_counter() - began) * 1e6 / events)
    return best


def leaving(models: int, waiters: int = 500) -> float:
    """Microseconds for each of many who leave one after the other, first come, first gone."""
    scene = Waiting(models)
    tickets = list(scene.waiting.items())[:waiters]
    began = time.perf_counter()
    for key, ticket in tickets:
        scene.scheduler.left(key, ticket, scene.now)
    return (time.perf_counter() - began) * 1e6 / len(tickets)


def in_bytes() -> None:
    """The table where bytes are counted."""
    print("\nbytes counted: microseconds (calls) an event")
    print(f"{'models in memory:':27}", *(f"{number:>15}" for number in IN_MEMORY))
    for waiting, others in BESIDE:
        print(f"{waiting:,} waited for" + (f", {others:,} more configured" if others else ""))
        for title, name in (
            ("a request at a busy model", "request"),
            ("one more waits, leaves", "waits"),
            ("a swap", "swap"),
            ("all are out of patience", "impatient"),
        ):
            cells = []
            for in_memory in IN_MEMORY:
                scene = Bytes(in_memory, waiting, others)
                do: Callable[[], int] = getattr(scene, name)
                took, events = per_event(do, number=10), do()
                cells.append(f"{took:.1f} ({calls(do) // events})")
            print(f"  {title:25}", *(f"{cell:>15}" for cell in cells), flush=True)


def main(sizes: list[int]) -> None:
    rows: list[tuple[str, list[float]]] = []
    for title, name in (
        ("a request at the busy model", "request"),
        ("the first who waits leaves, comes back", "first_leaves"),
        ("the last who waits leaves, comes back", "last_leaves"),
        ("a swap", "swap"),
        ("time passes", "tick"),
        ("all are out of patience", "impatient"),
    ):
        rows.append((title, [per_event(getattr(Waiting(size), name)) for size in sizes]))
    rows.append(("500 leave", [leaving(size) for size in sizes]))
    busy = [InMemory(size) for size in sizes]
    rows.append(("in memory: a request at each", [per_event(scene.request) for scene in busy]))
    rows.append(("in memory: one closes and opens", [per_event(scene.patience) for scene in busy]))
    print(f"{'microseconds an event; models:':42}", *(f"{size:>8,}" for size in sizes))
    for title, figures in rows:
        print(f"{title:42}", *(f"{figure:8.1f}" for figure in figures))
    in_bytes()


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [10, 100, 1000, 5000])
