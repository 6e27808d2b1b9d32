"""
A day of thirty models, 1B to 70B: memory counted in bytes against models counted; simulated.

    PYTHONPATH=. python benchmarks/fit_sim.py [--write] [--seeds N]

The scheduler is the real one, and so are the places of each model and what it is counted with there
(launch/placement.py), by heads as those of benchmarks/memory.py, with 8192 tokens and all layers on
GPUs. Engines, clients and the clock are not. Somebody turns to a model and asks it several requests
in a row, by day more often than at night; some models are asked for far more often than others, and
which ones these are is another with each seed. The traffic is the same for all that is compared.

A count is *safe* if any so many of the models fit together; the largest such one is what who counts
can choose. Larger ones are played as if all went well, up to that with no more loads than by bytes,
and it is told how often a load would not have fitted. What fits is here what the estimate says
without its margin, in all that the machine has: that is kinder to counts. A model that does not
even fit alone is left out.

The world keeps books of its own: no load by bytes may exceed them. With ``--write``, the tables of
docs/memory.md.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import tempfile
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from random import Random
from typing import NamedTuple

from simulated import World, share_of

from llamagw.config import LocalModel, ModelEntry
from llamagw.fleet.actions import Action, Start, Stop
from llamagw.fleet.books import Capacity
from llamagw.fleet.scheduler import Scheduler
from llamagw.launch import Need
from llamagw.launch.charge import Machine, Place
from llamagw.launch.command import command_line
from llamagw.launch.flags import asked
from llamagw.launch.placement import Placement
from llamagw.models import HOST, Facts
from llamagw.models.facts import look
from tests.models import heads
from tests.support.room import size_on

DOC = Path(__file__).resolve().parents[1] / "docs" / "memory.md"
PLACE = re.compile(r"(<!-- made by benchmarks/fit_sim\.py: (\w+) -->\n)(?:\|.*\n)*")
GIB, GB = 2**30, 10**9

#: The GPUs of each machine, and its own memory.
MACHINES = {
    "24 GB": {"CUDA0": 24 * GIB},
    "48 GB": {"CUDA0": 48 * GIB},
    "2 × 24 GB": {"CUDA0": 24 * GIB, "CUDA1": 24 * GIB},
}
RAM = 128 * GIB

#: What `memory_reserve` is if nothing is said.
RESERVE = GB

#: How many there are of each size, of the makes of Llama 3, Codestral, and Qwen2.5.
SIZES = {
    "1B": (4, heads.llama(16, 2048, 8192, 32, 8, 128256)),
    "3B": (5, heads.llama(28, 3072, 8192, 24, 8, 128256)),
    "8B": (9, heads.llama(32, 4096, 14336, 32, 8, 128256)),
    "14B": (5, heads.llama(48, 5120, 13824, 40, 8, 152064)),
    "22B": (2, heads.llama(56, 6144, 16384, 48, 8, 32768)),
    "32B": (3, heads.llama(64, 5120, 27648, 40, 8, 152064)),
    "70B": (2, heads.llama(80, 8192, 28672, 64, 8, 128256)),
}

#: Which of them are configured.
SETS = {"1B to 70B": tuple(SIZES), "1B to 14B": ("1B", "3B", "8B", "14B")}

#: A load: a second, and what is read from a disk, in bytes a second. A stop, in seconds.
LOAD_SEC, READ = 1.0, 1.5 * GB
STOP_SEC = (0.1, 0.5)

#: Requests of a session, and seconds between an answer and the next one, on average.
REQUESTS, THINK_SEC = 5, 20.0

#: An answer: seconds before it, its tokens on average, and bytes a second that each of them reads.
PREFILL_SEC, TOKENS, BANDWIDTH = 1.0, 300, 500 * GB

#: How often each of the models is asked for falls with its rank, by this power.
ZIPF = 1.0

#: By how much there are more sessions at the height of the day than on average, and less at night.
SWING = 0.9

DAY = 86_400.0

#: Sessions a day, on average; and how many there are in the first table.
SESSIONS = (150, 600, 1500)
NORMAL = 600

WAITS = ("p50", "p95", "longest")


class Model(NamedTuple):
    """
    A model as it is on a machine.

    :ivar needs: what it is counted with, in each of its places
    :ivar real: what it takes there: without margins
    :ivar answer: seconds of an answer of it, on average
    """

    name: str
    needs: tuple[Need, ...]
    real: tuple[Need, ...]
    answer: float

    @property
    def spread(self) -> Need:
        """What it takes where nothing says on which GPU it is to be: on all."""
        return self.real[-1]

    @property
    def size(self) -> int:
        """Bytes on GPUs."""
        return sum(size for device, size in self.spread.devices.items() if device != HOST)


def models(gpus: Mapping[str, int], sizes: Sequence[str], folder: Path) -> list[Model]:
    """The models of a machine, each with a file of its own."""
    return [
        _model(f"{size}-{number}", heads.write(SIZES[size][1], folder / f"{size}-{number}"), gpus)
        for size in sizes
        for number in range(SIZES[size][0])
    ]


def _model(name: str, path: Path, gpus: Mapping[str, int]) -> Model:
    entry = ModelEntry(name=name, model_path=str(path), context_size=8192, gpu_layers=-1)
    model = LocalModel.of(entry)
    command = command_line("llama-server", model, 0, {}, counted=True)
    facts: dict[str, Facts] = {str(path): look(str(path))}
    placement = Placement(asked(command, {}, {}, [*gpus]), facts, Machine("", gpus), model, {})
    places = placement.places([None] * len(placement.keys))
    needs, real = (place.need for place in places), (_real(place) for place in places)
    answer = PREFILL_SEC + TOKENS * facts[str(path)].size / BANDWIDTH
    return Model(name, tuple(needs), tuple(real), answer)


def _real(place: Place) -> Need:
    """A need without its margins."""
    parts = place.estimate.devices
    devices = {name: size - parts[name].margin for name, size in place.need.devices.items()}
    return Need(devices=devices, files=place.need.files)


class Session:
    """Somebody who asks a model several requests in a row."""

    def __init__(self, model: Model, random: Random) -> None:
        self.model = model
        again = (REQUESTS - 1) / REQUESTS
        requests = next(n for n in count(1) if random.random() > again)
        #: Seconds of each answer, and of thought thereafter.
        self.turns = [
            (model.answer * (0.5 + random.expovariate(2.0)), random.expovariate(1 / THINK_SEC))
            for _ in range(requests)
        ]


def sessions(of: Sequence[Model], a_day: float, seed: int) -> Iterator[tuple[float, Session]]:
    """
    Who comes in a day.

    :param of: the models
    :param a_day: sessions on average
    :return: when each begins
    """
    random = Random(seed)
    ranked = random.sample(of, len(of))
    weights = list(accumulate(1 / rank**ZIPF for rank in range(1, len(of) + 1)))
    most, now = a_day / DAY * (1 + SWING), 0.0
    while (now := now + random.expovariate(most)) < DAY:
        hour = 1 - SWING * math.cos(2 * math.pi * now / DAY)
        if random.random() * (1 + SWING) < hour:
            [model] = random.choices(ranked, cum_weights=weights)
            yield now, Session(model, random)


class Result(NamedTuple):
    """
    What a day came to.

    :ivar loads: how many there were
    :ivar answered: requests that were admitted
    :ivar p50: seconds of waiting for that; p95 and the longest too
    :ivar refused: requests that were turned away
    :ivar over: loads for which there was no room
    """

    loads: int
    answered: int
    p50: float
    p95: float
    longest: float
    refused: int
    over: int


class Day(World):
    """
    :param machine: bytes of each of its devices
    :param of: the models
    :param limit: how many may be in memory; None to count bytes
    """

    def __init__(self, machine: Mapping[str, int], of: Sequence[Model], limit: int | None) -> None:
        super().__init__(Scheduler((), limit=limit or len(of), swap_after=None, max_queue=512))
        self.machine, self.budget = machine, budget(machine)
        self.models = {model.name: model for model in of}
        self.bytes = limit is None
        self.answered = self.refused = self.over = 0
        for model in of:
            self.scheduler.add(model.name, needs=partial(_needs, model, self.bytes))
        if self.bytes:
            capacity = {device: Capacity(size) for device, size in self.budget.items()}
            self.scheduler.memory(capacity, 0.0)
        #: What each process takes, and what it is counted with; by name of its model.
        self.real: dict[str, Need] = {}
        self.counted: dict[str, Need] = {}

    def run(self, a_day: float, seed: int) -> Result:
        """
        :param a_day: sessions on average
        """
        # Times of loads are others' business: they must not change who comes.
        self.random = Random(f"{seed} loads")
        for begin, session in sessions([*self.models.values()], a_day, seed):
            self.later(begin, partial(self._asks, session))
        self.until(DAY)
        p50, p95, longest = share_of(self.waits, 0.5, 0.95, 1)
        return Result(self.loads, self.answered, p50, p95, longest, self.refused, self.over)

    def admitted(self, ticket: Hashable) -> None:
        assert isinstance(ticket, Session)
        self.answered += 1
        self.later(ticket.turns[0][0], partial(self._answered, ticket))

    def rejected(self, ticket: Hashable) -> None:
        self.refused += 1

    def starts(self, action: Start) -> float:
        model = self.models[action.key]
        real = model.spread
        if self.bytes:
            assert action.need is not None
            real = model.real[model.needs.index(action.need)]
            self.counted[action.key] = action.need
            assert fit([*self.counted.values()], self.budget), "it is started over the budget"
        self.real[action.key] = real
        over = not fit([*self.real.values()], self.machine)
        assert not (self.bytes and over), "what is counted is at least what is taken"
        self.over += over
        return (LOAD_SEC + model.size / READ) * self.random.uniform(0.9, 1.1)

    def stops(self, action: Stop) -> float:
        return self.random.uniform(*STOP_SEC)

    def gone(self, key: str) -> None:
        del self.real[key]
        self.counted.pop(key, None)

    def _asks(self, session: Session) -> list[Action]:
        return self.ask(session.model.name, session)

    def _answered(self, session: Session) -> list[Action]:
        _, thinks = session.turns.pop(0)
        if session.turns:
            self.later(thinks, partial(self._asks, session))
        return self.scheduler.finished(session.model.name, self.now)


def _needs(model: Model, counted: bool) -> tuple[Need, ...]:
    return model.needs if counted else ()


def budget(machine: Mapping[str, int]) -> dict[str, int]:
    """What may be used of each device."""
    return {device: size - RESERVE for device, size in machine.items()}


def fit(needs: Sequence[Need], devices: Mapping[str, int]) -> bool:
    """Whether they fit together, by books that are not the scheduler's."""
    return all(size_on(needs, device) <= size for device, size in devices.items())


def safe_count(machine: Mapping[str, int], of: Sequence[Model]) -> int:
    """The most models of which any so many fit together: the largest do."""
    largest = [one.spread for one in sorted(of, key=lambda one: one.size, reverse=True)]
    return sum(fit(largest[:number], machine) for number in range(1, len(of) + 1))


def fitting(machine: Mapping[str, int], of: Sequence[Model]) -> list[Model]:
    """The models that fit alone, by bytes and by count."""
    ours = budget(machine)
    return [
        one
        for one in of
        if fit([one.spread], machine) and any(fit([need], ours) for need in one.needs)
    ]


class Row(NamedTuple):
    """
    A way to admit, on a machine.

    :ivar limit: how many models may be in memory; None if bytes are counted
    :ivar days: by seed
    """

    limit: int | None
    days: list[Result]

    def mean(self, figure: str) -> float:
        return statistics.mean(float(getattr(day, figure)) for day in self.days)

    def cells(self, safe: Row) -> list[str]:
        """Of a table; `safe` is what its loads are compared with."""
        way = "bytes" if self.limit is None else f"{self.limit}{' (safe)' * (self is safe)}"
        spread = statistics.pstdev(day.loads for day in self.days)
        waits = (f"{self.mean(figure):.0f}" for figure in ("p50", "p95", "longest"))
        loads = f"{self.mean('loads'):.0f} ± {spread:.0f}"
        others = (f"{self.mean(figure):.0f}" for figure in ("refused", "over"))
        return [way, loads, f"{self.mean('loads') / safe.mean('loads'):.2f}", *waits, *others]


class Case(NamedTuple):
    """
    A machine and its models.

    :ivar name: of both
    :ivar machine: bytes of each device
    :ivar of: the models that fit alone
    """

    name: str
    machine: Mapping[str, int]
    of: list[Model]

    def row(self, limit: int | None, a_day: float, seeds: int) -> Row:
        """Some days of one way to admit."""
        days = (Day(self.machine, self.of, limit).run(a_day, seed) for seed in range(seeds))
        return Row(limit, [*days])


def cases() -> Iterator[Case]:
    """All of them."""
    for name, gpus in MACHINES.items():
        for title, sizes in SETS.items():
            with tempfile.TemporaryDirectory() as folder:
                machine = {HOST: RAM, **gpus}
                of = fitting(machine, models(gpus, sizes, Path(folder)))
            yield Case(f"{name}, {title}", machine, of)


def as_many(case: Case, rows: Sequence[Row], seeds: int) -> Row:
    """The smallest count with no more loads than by bytes."""
    by_bytes, safe = rows
    assert safe.limit is not None
    for limit in range(safe.limit + 1, len(case.of)):
        row = case.row(limit, NORMAL, seeds)
        if row.mean("loads") <= by_bytes.mean("loads"):
            break
    return row


def ratios(by_bytes: Row, safe: Row) -> str:
    """Loads by bytes for each by the safe count, of all days and of the best and the worst; p95."""
    days = zip(by_bytes.days, safe.days, strict=True)
    each = [ours.loads / theirs.loads for ours, theirs in days]
    mean = by_bytes.mean("loads") / safe.mean("loads")
    p95 = f"{by_bytes.mean('p95'):.0f} / {safe.mean('p95'):.0f}"
    return f"{mean:.2f} ({min(each):.2f}–{max(each):.2f}), p95 {p95}"


def table(*rows: Sequence[str]) -> str:
    """A table of a document; its titles first."""
    lines = [f"| {' | '.join(cells)} |\n" for cells in rows]
    return "".join([lines[0], "|---" * len(rows[0]) + "|\n", *lines[1:]])


def main() -> None:
    """Compare, print, and write."""
    parser = argparse.ArgumentParser(description="Bytes or models counted, on a simulated clock.")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/memory.md")
    parser.add_argument("--seeds", type=int, default=8, help="days of each (default: 8)")
    options = parser.parse_args()
    normal: list[Sequence[str]] = [
        ("machine, models", "counted", "loads", "of safe", *WAITS, "refused", "not fitting")
    ]
    loads: list[Sequence[str]] = [("machine, models", *(f"{a_day} sessions" for a_day in SESSIONS))]
    for case in cases():
        found = []
        for a_day in SESSIONS:
            limits = (None, safe_count(case.machine, case.of))
            rows = [case.row(limit, a_day, options.seeds) for limit in limits]
            found.append(ratios(*rows))
            if a_day == NORMAL:
                rows.append(as_many(case, rows, options.seeds))
                normal += [("", *row.cells(rows[1])) for row in rows]
                normal[-len(rows)] = (case.name, *normal[-len(rows)][1:])
        loads.append((case.name, *found))
        print(case.name, *found, sep="\n    ", flush=True)
    made = {"normal": table(*normal), "loads": table(*loads)}
    print("", *made.values(), sep="\n")
    if options.write:
        text = DOC.read_text()
        DOC.write_text(PLACE.sub(lambda place: place[1] + made[place[2]], text))


if __name__ == "__main__":
    main()
