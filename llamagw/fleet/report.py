"""
The state of the models as clients see it: reports, and a `Change` to watchers when it changes.

All of it is derived from the scheduler's `Status` and from the runs; only the state last sent to
watchers is kept here. What requests wait for is put into words by waits.py; the JSON of the API is
made by api/listing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from llamagw.fleet.books import total
from llamagw.fleet.catalogue import Entry
from llamagw.fleet.model import IN_MEMORY, Model, Status
from llamagw.fleet.waits import Waits
from llamagw.launch import Memory
from llamagw.listeners import Listeners

if TYPE_CHECKING:
    from llamagw.fleet.instance import Instance

#: The name of each state in the API; see also `word`.
WORDS = {
    Status.UNLOADED: "unloaded",
    Status.LOADING: "loading",
    Status.READY: "loaded",
    Status.STOPPING: "stopping",
    Status.FAILED: "failed",
}

#: A model with several instances has the state that comes last here of those of its instances.
_FURTHEST = ("failed", "unloaded", "stopping", "loading", "loaded")

#: The status and error of a model of which no change was sent.
_AT_FIRST = ("unloaded", None)


class ReplicaReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of one of a model's remote servers; see `ModelReport`."""

    url: str
    status: str
    in_flight: int
    error: str | None = None
    failed_at: float | None = None


class ModelReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The state of a model.

    :ivar status: unloaded, loading, loaded, stopping or failed
    :ivar port: the TCP port of its run on this machine; None if it has none
    :ivar in_flight: number of requests
    :ivar waiting: number of requests
    :ivar last_used: seconds since the epoch; None if it was never used
    :ivar socket: the UNIX socket that its run listens on; None if it has a port, or none runs
    :ivar pinned: whether it is never evicted
    :ivar elsewhere: whether it is remote, and takes no memory on this machine
    :ivar exit_code: exit status of its last run; None while one runs, and if it was killed or never
        started
    :ivar error: why it has failed; None if it has not. It stays failed until a load succeeds
    :ivar failed_at: since when, in seconds since the epoch
    :ivar memory: what its run has in use on this machine; None if it has none, or it is not known
    :ivar charge: what it is counted with while it is in memory, in bytes by device, with the files
        that it maps; None if it is not, or bytes are not counted
    :ivar charge_from: where that comes from: estimate, learned, config
    :ivar waiting_sec: seconds that the first of its waiters has waited; None if none waits
    :ivar waiting_for: for what, such as "room: `b` is busy"
    :ivar usual_sec: what a load of it usually takes; None if that is not known
    :ivar load_sec: what its load has taken, so far if it is loading; None if it is not in memory
    :ivar unloads_in_sec: seconds until its idle timeout, if it is not used before; None if it has
        none, or is not idle
    :ivar replicas: its remote servers; empty for a local model
    """

    id: str
    status: str
    port: int | None
    in_flight: int
    waiting: int
    last_used: float | None
    socket: str | None = None
    pinned: bool = False
    elsewhere: bool = False
    exit_code: int | None = None
    error: str | None = None
    failed_at: float | None = None
    memory: Memory | None = None
    charge: dict[str, int] | None = None
    charge_from: str | None = None
    waiting_sec: float | None = None
    waiting_for: str | None = None
    usual_sec: float | None = None
    load_sec: float | None = None
    unloads_in_sec: float | None = None
    replicas: list[ReplicaReport] = []


class Change(Struct, frozen=True):
    """
    A model's new state.

    :ivar status: as in `ModelReport`
    :ivar error: why it has failed
    :ivar exit_code: exit status of its last run, if it has ended
    :ivar failed_at: since when it has failed, in seconds since the epoch
    """

    model: str
    status: str
    error: str | None = None
    exit_code: int | None = None
    failed_at: float | None = None


def word(model: Model) -> str:
    """The state of an instance, as clients see it: what failed stays failed."""
    return "failed" if model.failed else WORDS[model.status]


def failure_of(model: Model, since_epoch: float) -> tuple[str | None, float | None]:
    """
    Why an instance counts as failed, and since when.

    :param since_epoch: seconds since the epoch at which the clock was 0
    :return: the reason, and seconds since the epoch; None for both if it does not
    """
    if not model.failed or model.failure is None:
        return None, None
    return model.failure.message, round(since_epoch + model.failed_at, 3)


def furthest(entry: Entry, models: Mapping[str, Model]) -> Instance:
    """The instance whose state counts as the model's (see `_FURTHEST`)."""
    if len(entry.instances) == 1:
        return entry.instances[0]
    return max(entry.instances, key=lambda i: _FURTHEST.index(word(models[i.key])))


def change(entry: Entry, models: Mapping[str, Model], since_epoch: float) -> Change:
    """The state of a model, as a change; the parameters are those of `report`."""
    instance = furthest(entry, models)
    status = word(models[instance.key])
    error, failed_at = failure_of(models[instance.key], since_epoch)
    return Change(
        entry.model.name,
        status,
        error=error,
        exit_code=instance.exit_code if status in ("unloaded", "failed") else None,
        failed_at=failed_at,
    )


class Watchers:
    """
    Sends each change of a model's state to its subscribers.

    :param models: the scheduler's, by key
    :ivar touched: models whose state may have changed in this turn; a dict keeps their order
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        self._listeners = Listeners[Change | None]()
        #: The status and error that were sent last, by name of the model; `_AT_FIRST` without one.
        self._sent: dict[str, tuple[str, str | None]] = {}
        self.touched: dict[Entry, None] = {}
        self._over = False

    def __repr__(self) -> str:
        return f"<Watchers: sent {self._sent}>"

    def watch(self, tell: Callable[[Change | None], object]) -> Callable[[], None]:
        """
        Subscribe.

        :param tell: called with each change, and with None when no more will follow
        :return: unsubscribes
        """
        if self._over:
            tell(None)
            return lambda: None
        return self._listeners.add(tell)

    def touch(self, entry: Entry) -> None:
        """Have `send` compare the state of this model with the one that was sent last."""
        self.touched[entry] = None

    def send(self, configured: Callable[[Entry], bool], since_epoch: float) -> None:
        """
        Send the changes of the models that were touched since the last call.

        :param configured: tells whether a model is still configured; others are left out
        :param since_epoch: seconds since the epoch at which the clock was 0
        """
        touched, self.touched = self.touched, {}
        for entry in filter(configured, touched):
            now = change(entry, self._models, since_epoch)
            if (now.status, now.error) != self._sent.get(now.model, _AT_FIRST):
                self._sent[now.model] = now.status, now.error
                self._listeners.tell(now)

    def retired(self, name: str) -> None:
        """Send that a model is unloaded: it is retired, and its name is free for a successor."""
        if self._sent.pop(name, _AT_FIRST) != _AT_FIRST:
            self._listeners.tell(Change(name, "unloaded"))

    def end(self) -> None:
        """Send None to all subscribers, and drop them."""
        self._over = True
        self._listeners.tell(None)
        self._listeners.clear()


def report(
    entry: Entry, models: Mapping[str, Model], since_epoch: float, waits: Waits
) -> ModelReport:
    """
    The state of a model.

    :param models: the scheduler's, by key
    :param since_epoch: seconds since the epoch at which the clock was 0
    :param waits: tells what its requests wait for
    """
    now = change(entry, models, since_epoch)
    of_scheduler = [models[instance.key] for instance in entry.instances]
    used = [m.last_used for m in of_scheduler if m.last_used is not None]
    first = entry.instances[0]
    takes_room = first.launcher.takes_room
    wait = waits.of(of_scheduler)
    charge = of_scheduler[0].charge
    return ModelReport(
        id=entry.model.name,
        status=now.status,
        port=first.life.run.port if first.life else None,
        socket=first.life.run.address.socket if first.life else None,
        in_flight=sum(m.in_flight for m in of_scheduler),
        waiting=sum(len(m.waiting) for m in of_scheduler),
        last_used=since_epoch + max(used) if used else None,
        pinned=of_scheduler[0].pinned,
        elsewhere=not takes_room,
        exit_code=now.exit_code,
        error=now.error,
        failed_at=now.failed_at,
        memory=first.life.run.memory() if first.life else None,
        charge=total(charge) if charge else None,
        charge_from=charge.source if charge else None,
        waiting_sec=wait and wait.seconds,
        waiting_for=wait and wait.reason,
        usual_sec=first.launcher.usual(),
        load_sec=_load_sec(of_scheduler[0], waits.now) if takes_room else None,
        unloads_in_sec=_idle_for(of_scheduler[0], entry.model.idle_unload_sec, waits.now),
        replicas=[]
        if takes_room
        else [
            replica_report(instance.launcher.name, model, since_epoch)
            for instance, model in zip(entry.instances, of_scheduler, strict=True)
        ],
    )


def _load_sec(model: Model, now: float) -> float | None:
    """See `ModelReport`."""
    if model.status is Status.LOADING:
        return round(now - model.started_at, 3)
    was_loaded = model.status in IN_MEMORY and model.loaded_at >= model.started_at
    return round(model.loaded_at - model.started_at, 3) if was_loaded else None


def _idle_for(model: Model, limit: float, now: float) -> float | None:
    """See `ModelReport.unloads_in_sec`."""
    idle = model.status is Status.READY and not model.leaving and not model.in_flight
    if not (limit and idle) or model.last_used is None:
        return None
    return round(max(model.last_used + limit - now, 0.0), 3)


def replica_report(url: str, model: Model, since_epoch: float) -> ReplicaReport:
    """
    The state of one remote server.

    :param model: the scheduler's
    :param since_epoch: seconds since the epoch at which the clock was 0
    """
    error, failed_at = failure_of(model, since_epoch)
    return ReplicaReport(
        url=url,
        status=word(model),
        in_flight=model.in_flight,
        error=error,
        failed_at=failed_at,
    )
