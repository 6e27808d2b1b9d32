"""
Where everybody stands who waits: each request in the queue of its model, each model on its way.

Derived from the scheduler's state when somebody asks; decides nothing. What is waited for is put
into words by waits.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct
from twisted.internet.defer import Deferred

from llamagw.fleet.catalogue import Entry
from llamagw.fleet.lease import Lease, Waiter
from llamagw.fleet.model import Model, Status
from llamagw.fleet.report import change
from llamagw.fleet.room import Room
from llamagw.fleet.waits import NAME_LENGTH, Waits
from llamagw.text import harmless, span


class Standing(NamedTuple):
    """
    A request that waits.

    :ivar model: the name of its model
    :ivar position: in the queue of its model, from 1
    :ivar seconds: since it began to wait
    :ivar waiting_for: as in `llamagw.fleet.ModelReport`
    :ivar state: ``loading`` if its model is, else ``waiting``
    :ivar usual_sec: what a load of its model usually takes; None if that is not known
    """

    model: str
    position: int
    seconds: float
    waiting_for: str
    state: str
    usual_sec: float | None

    def in_words(self) -> str:
        """For a person, on one line; such as "waiting for small: position 3, 12 s so far"."""
        usual = self.usual_sec
        load = "" if usual is None else f"; its load usually takes {span(round(usual) or usual)}"
        return (
            f"waiting for {harmless(self.model, NAME_LENGTH)}: position {self.position}, "
            f"{span(self.seconds)} so far{load}"
        )


class Progress(Struct, frozen=True, kw_only=True):
    """
    How far a model is that loads, or has requests in its queue.

    :ivar state: ``loading``; else ``waiting`` if requests wait, else its status as in
        `llamagw.fleet.ModelReport`
    :ivar elapsed_sec: since its load began; None if it is not loading
    :ivar usual_sec: what a load of it usually takes; None if that is not known
    :ivar done: the part of the load that is done, from 0 to 1, if the engine tells it; else None
    :ivar position: its place among the models that wait for room, from 1; None if it does not
    :ivar waiting: number of requests
    :ivar waiting_sec: for how many seconds the first of them has waited; None if none waits
    :ivar waiting_for: for what; None if none waits
    """

    state: str
    elapsed_sec: float | None = None
    usual_sec: float | None = None
    done: float | None = None
    position: int | None = None
    waiting: int = 0
    waiting_sec: float | None = None
    waiting_for: str | None = None


def progress(entry: Entry, models: Mapping[str, Model], room: Room, now: float) -> Progress:
    """
    How far a model is.

    :param models: the scheduler's, by key
    :param room: the scheduler's
    :param now: seconds on the scheduler's clock
    """
    of_scheduler = [models[instance.key] for instance in entry.instances]
    first = of_scheduler[0]
    wait = Waits(room, now).of(of_scheduler)
    loading = first.status is Status.LOADING
    status = "loading" if loading else change(entry, models, 0).status
    return Progress(
        state="waiting" if wait is not None and not loading else status,
        elapsed_sec=round(now - first.started_at, 3) if loading else None,
        usual_sec=entry.instances[0].launcher.usual(),
        position=room.place_of(first),
        waiting=sum(len(model.waiting) for model in of_scheduler),
        waiting_sec=wait and wait.seconds,
        waiting_for=wait and wait.reason,
    )


class Standings:
    """
    The requests that wait, by the Deferreds that their callers hold.

    :param models: the scheduler's, by key
    :param room: the scheduler's
    :param usual: what a load usually takes, in seconds, by the key of the instance
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        room: Room,
        usual: Callable[[str], float | None],
    ) -> None:
        self._models = models
        self._room = room
        self._usual = usual
        #: Each waiter, and when it began to wait.
        self._waiting: dict[Deferred[Lease], tuple[Waiter, float]] = {}

    def __repr__(self) -> str:
        return f"<Standings of {len(self._waiting)}>"

    def add(self, waiter: Waiter, now: float) -> None:
        """Keep a waiter until its Deferred fires."""
        deferred = waiter.deferred
        self._waiting[deferred] = waiter, now
        deferred.addBoth(self._over, deferred)

    def _over(self, result: Lease, deferred: Deferred[Lease]) -> Lease:
        self._waiting.pop(deferred, None)
        return result

    def of(self, deferred: Deferred[Lease], now: float) -> Standing | None:
        """See `Dispatcher.standing`."""
        waiter, since = self._waiting.get(deferred, (None, 0.0))
        model = None if waiter is None else self._models.get(waiter.key)
        # Else it has been admitted or rejected, by an action that is not carried out yet.
        if model is None or waiter not in model.waiting:
            return None
        reason = Waits(self._room, now).reason(model)
        place = model.waiting.place(waiter)
        return _standing(model, place, now - since, reason, self._usual(model.key))

    def all(self, now: float) -> dict[Deferred[Lease], Standing]:
        """See `Dispatcher.standings`."""
        waits = Waits(self._room, now)
        found: dict[Deferred[Lease], Standing] = {}
        for model in self.models():
            # Once for all: they may be thousands.
            reason, usual = waits.reason(model), self._usual(model.key)
            for position, waiter in enumerate(model.waiting, 1):
                assert isinstance(waiter, Waiter)
                _, since = self._waiting.get(waiter.deferred, (waiter, now))
                found[waiter.deferred] = _standing(model, position, now - since, reason, usual)
        return found

    def models(self) -> Iterator[Model]:
        """The models with requests in their queues, one instance after the other."""
        for key in dict.fromkeys(waiter.key for waiter, _ in self._waiting.values()):
            model = self._models.get(key)
            if model is not None and model.waiting:
                yield model


def _standing(
    model: Model, position: int, seconds: float, reason: str, usual: float | None
) -> Standing:
    state = "loading" if model.status is Status.LOADING else "waiting"
    return Standing(model.name, position, round(seconds, 3), reason, state, usual)
