"""
What models in turn cost their clients: six clients, three models, room for one; simulated.

    PYTHONPATH=. python benchmarks/swaps_simulated.py [--seeds N] [--swap-after SECONDS]

The scheduler is the real one; engines, clients and the clock are not. Each client thinks, sends a
request, waits for its answer, and thinks again. `swap_after_sec: auto` is compared with a number
of seconds, on loads of 0.5, 5 and 60 s, with three kinds of traffic and three kinds of clients.
benchmarks/swaps.py does the same with the real engine.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import count, product
from random import Random
from typing import NamedTuple

from llamagw.fleet.actions import Action, Admit, Start, Stop
from llamagw.fleet.model import Status
from llamagw.fleet.scheduler import Scheduler

CLIENTS, MODELS, ROOM = 6, "abc", 1
LOADS = (0.5, 5.0, 60.0)
STOP_SEC = 0.1

#: Traffic: seconds of thought and of an answer, both on average.
TRAFFIC = {"heavy": (0.3, 0.15), "busy": (1.0, 2.0), "light": (10.0, 2.0)}

#: Clients: how likely one turns to any of the models, instead of the one that it asked last.
KINDS = {"any model": 1.0, "5 in a row": 0.2, "own model": 0.0}


class Client:
    """
    Asks one request after the other.

    :param random: for what it thinks and chooses
    :param model: the model that it asks first
    :param turns: how likely it chooses anew before a request
    """

    def __init__(self, random: Random, model: str, turns: float) -> None:
        self.model = model
        self._random = random
        self._turns = turns

    def thinks(self, seconds: float) -> float:
        """How long it thinks, if it is so long on average; thereafter it has chosen a model."""
        if self._random.random() < self._turns:
            self.model = self._random.choice(MODELS)
        return self._random.expovariate(1 / seconds)


class Result(NamedTuple):
    """What a run came to: requests and loads an hour; half of the waits, most, and the longest."""

    requests: float
    p50: float
    p95: float
    longest: float
    loads: float

    @classmethod
    def of(cls, waits: list[float], loads: int, seconds: float) -> Result:
        """
        :param waits: of each request, in seconds
        :param loads: how many there were
        :param seconds: how long it took
        """
        waits = sorted(waits)
        p50, p95 = (waits[int(share * (len(waits) - 1))] for share in (0.5, 0.95))
        hours = seconds / 3600
        return cls(len(waits) / hours, p50, p95, waits[-1], loads / hours)


class World:
    """Clients and engines on a clock of their own, which drive a scheduler."""

    def __init__(
        self, load: float, think: float, answer: float, turns: float, swap_after: float | None
    ) -> None:
        self.load, self.think, self.answer, self.turns = load, think, answer, turns
        self.scheduler = Scheduler(MODELS, limit=ROOM, swap_after=swap_after, max_queue=CLIENTS)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], list[Action]]]] = []
        self._number = count()
        self._due: float | None = None

    def run(self, seconds: float, seed: int) -> Result:
        self.random = Random(seed)
        self.asked: dict[Client, float] = {}
        self.waits: list[float] = []
        self.loads = 0
        for number in range(CLIENTS):
            client = Client(Random(seed + number), MODELS[number % len(MODELS)], self.turns)
            self._in(client.thinks(self.think), partial(self._asks, client))
        while self._events[0][0] <= seconds:
            self.now, _, event = heappop(self._events)
            self._do(event())
        # Who waits at the end has waited so long at least.
        self.waits += [seconds - asked for asked in self.asked.values()]
        return Result.of(self.waits, self.loads, seconds)

    def _in(self, seconds: float, event: Callable[[], list[Action]]) -> None:
        heappush(self._events, (self.now + seconds, next(self._number), event))

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Admit):
                client = action.ticket
                assert isinstance(client, Client)
                self.waits.append(self.now - self.asked.pop(client))
                answer = self.answer * (0.5 + self.random.expovariate(2.0))
                self._in(answer, partial(self._answered, client))
            elif isinstance(action, Start):
                self.loads += 1
                took = self.load * self.random.uniform(0.9, 1.1)
                self._in(took, partial(self._loaded, action.key))
            else:
                assert isinstance(action, Stop), "nobody is turned away here"
                self._in(STOP_SEC, partial(self._exited, action.key))
        due = self.scheduler.wake_at
        if due is not None and due != self._due:
            self._in(due - self.now, partial(self._tick, due))
        self._due = due

    def _asks(self, client: Client) -> list[Action]:
        self.asked[client] = self.now
        return self.scheduler.arrived(client.model, client, self.now)

    def _answered(self, client: Client) -> list[Action]:
        model = client.model
        self._in(client.thinks(self.think), partial(self._asks, client))
        return self.scheduler.finished(model, self.now)

    def _loaded(self, key: str) -> list[Action]:
        if self.scheduler.models[key].status is not Status.LOADING:
            return []
        return self.scheduler.loaded(key, self.now)

    def _exited(self, key: str) -> list[Action]:
        return self.scheduler.exited(key, None, self.now)

    def _tick(self, due: float) -> list[Action]:
        return self.scheduler.tick(self.now) if due == self._due else []


def mean(
    load: float, traffic: tuple[float, float], turns: float, swap_after: float | None, seeds: int
) -> Result:
    """The average of several runs, of a hundred loads each at the least."""
    results = [
        World(load, *traffic, turns, swap_after).run(max(600, 100 * load), seed)
        for seed in range(seeds)
    ]
    return Result(*(sum(values) / seeds for values in zip(*results, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Models in turn, on a simulated clock.")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--swap-after", type=float, default=10, help="what auto is compared with")
    options = parser.parse_args()
    number = f"swap_after_sec: {options.swap_after:g}"
    print(f"{'':28}{number:26}{'auto':26}{'compared'}")
    columns = f"{'req/h':>6} {'p50':>5} {'p95':>5} {'loads':>5}  "
    print(f"{'load traffic clients':28}{columns}{columns}{'req/h':>6} {'p95':>5} {'max':>5}")
    for load, traffic, kind in product(LOADS, TRAFFIC, KINDS):
        old, new = (
            mean(load, TRAFFIC[traffic], KINDS[kind], after, options.seeds)
            for after in (options.swap_after, None)
        )
        print(f"{load:4g} s {traffic:6} {kind:14}", end="")
        for result in (old, new):
            print(f"{result.requests:6.0f} {result.p50:5.1f} {result.p95:5.1f}", end=" ")
            print(f"{result.loads:5.0f}", end="  ")
        more, longer = new.requests / old.requests, new.longest / old.longest
        print(f"{more:5.2f}x {ratio(new.p95, old.p95)} {longer:5.2f}", flush=True)


def ratio(new: float, old: float) -> str:
    return f"{new / old:5.2f}" if old and math.isfinite(old) else f"{'-':>5}"


if __name__ == "__main__":
    main()
