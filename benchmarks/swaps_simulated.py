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
from collections.abc import Hashable
from functools import partial
from itertools import product
from random import Random
from typing import NamedTuple

from simulated import World, share_of

from llamagw.fleet.actions import Action, Start, Stop
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
        hours = seconds / 3600
        p50, p95, longest = share_of(waits, 0.5, 0.95, 1)
        return cls(len(waits) / hours, p50, p95, longest, loads / hours)


class Turns(World):
    """Clients that have models take turns."""

    def __init__(
        self, load: float, think: float, answer: float, turns: float, swap_after: float | None
    ) -> None:
        super().__init__(Scheduler(MODELS, limit=ROOM, swap_after=swap_after, max_queue=CLIENTS))
        self.load, self.think, self.answer, self.turns = load, think, answer, turns

    def run(self, seconds: float, seed: int) -> Result:
        self.random = Random(seed)
        for number in range(CLIENTS):
            client = Client(Random(seed + number), MODELS[number % len(MODELS)], self.turns)
            self._thinks(client)
        self.until(seconds)
        return Result.of(self.waits, self.loads, seconds)

    def admitted(self, ticket: Hashable) -> None:
        assert isinstance(ticket, Client)
        answer = self.answer * (0.5 + self.random.expovariate(2.0))
        self.later(answer, partial(self._answered, ticket))

    def starts(self, action: Start) -> float:
        return self.load * self.random.uniform(0.9, 1.1)

    def stops(self, action: Stop) -> float:
        return STOP_SEC

    def _thinks(self, client: Client) -> None:
        # It chooses a model as it thinks.
        seconds = client.thinks(self.think)
        self.later(seconds, lambda: self.ask(client.model, client))

    def _answered(self, client: Client) -> list[Action]:
        model = client.model
        self._thinks(client)
        return self.scheduler.finished(model, self.now)


def mean(
    load: float, traffic: tuple[float, float], turns: float, swap_after: float | None, seeds: int
) -> Result:
    """The average of several runs, of a hundred loads each at the least."""
    results = [
        Turns(load, *traffic, turns, swap_after).run(max(600, 100 * load), seed)
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
