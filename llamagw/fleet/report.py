"""
The state of the models as clients see it: reports, and a `Change` to watchers when it changes.

All of it is derived from the scheduler's `Status`; only the state last sent to watchers is kept
here. The JSON of the API is made by api/listing.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from llamagw.fleet.catalogue import Entry
from llamagw.fleet.scheduler import Model, Status
from llamagw.listeners import Listeners

if TYPE_CHECKING:
    from llamagw.fleet.instance import Instance

#: The name of each state in the API.
WORDS = {
    Status.UNLOADED: "unloaded",
    Status.LOADING: "loading",
    Status.READY: "loaded",
    Status.STOPPING: "stopping",
    Status.FAILED: "failed",
}

#: A model with several instances has the state that comes last here of those of its instances.
_FURTHEST = (
    Status.FAILED,
    Status.UNLOADED,
    Status.STOPPING,
    Status.LOADING,
    Status.READY,
)

#: The scheduler's `Status` of an instance.
StatusOf = Callable[["Instance"], Status]


class ReplicaReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of one of a model's remote servers."""

    url: str
    status: str
    in_flight: int
    error: str | None = None


class ModelReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The state of a model.

    :ivar status: unloaded, loading, loaded, stopping or failed
    :ivar port: the TCP port of its run on this machine; None if it has none
    :ivar in_flight: number of requests
    :ivar waiting: number of requests
    :ivar last_used: seconds since the epoch; None if it was never used
    :ivar pinned: whether it is never evicted
    :ivar elsewhere: whether it is remote, and takes no memory on this machine
    :ivar exit_code: exit status of its last run; None while one runs, and if it was killed or never
        started
    :ivar error: why it has failed; None if it has not
    :ivar replicas: its remote servers; empty for a local model
    """

    id: str
    status: str
    port: int | None
    in_flight: int
    waiting: int
    last_used: float | None
    pinned: bool = False
    elsewhere: bool = False
    exit_code: int | None = None
    error: str | None = None
    replicas: list[ReplicaReport] = []


class Change(Struct, frozen=True):
    """
    A model's new state.

    :ivar status: as in `ModelReport`
    :ivar error: why it has failed
    :ivar exit_code: exit status of its last run, if it has ended
    """

    model: str
    status: str
    error: str | None = None
    exit_code: int | None = None


def furthest(entry: Entry, status_of: StatusOf) -> Instance:
    """The instance whose state counts as the model's (see `_FURTHEST`)."""
    if len(entry.instances) == 1:
        return entry.instances[0]
    return max(entry.instances, key=lambda i: _FURTHEST.index(status_of(i)))


def change(entry: Entry, status_of: StatusOf) -> Change:
    """The state of a model, as a change."""
    instance = furthest(entry, status_of)
    status = status_of(instance)
    return Change(
        entry.model.name,
        WORDS[status],
        error=instance.failure.message if instance.failure else None,
        exit_code=instance.exit_code if status in (Status.UNLOADED, Status.FAILED) else None,
    )


class Watchers:
    """
    Sends each change of a model's state to its subscribers.

    :param status_of: gives the scheduler's status of an instance
    :ivar touched: models whose state may have changed in this turn; a dict keeps their order
    """

    def __init__(self, status_of: StatusOf) -> None:
        self._status_of = status_of
        self._listeners = Listeners[Change | None]()
        #: The state that was sent last, by name of the model; "unloaded" if it is not in here.
        self._sent: dict[str, str] = {}
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

    def send(self, configured: Callable[[Entry], bool]) -> None:
        """
        Send the changes of the models that were touched since the last call.

        :param configured: tells whether a model is still configured; others are left out
        """
        touched, self.touched = self.touched, {}
        for entry in filter(configured, touched):
            now = change(entry, self._status_of)
            if now.status != self._sent.get(now.model, "unloaded"):
                self._sent[now.model] = now.status
                self._listeners.tell(now)

    def retired(self, name: str) -> None:
        """Send that a model is unloaded: it is retired, and its name is free for a successor."""
        if self._sent.pop(name, "unloaded") != "unloaded":
            self._listeners.tell(Change(name, "unloaded"))

    def end(self) -> None:
        """Send None to all subscribers, and drop them."""
        self._over = True
        self._listeners.tell(None)
        self._listeners.clear()


def report(entry: Entry, models: Mapping[str, Model], since_epoch: float) -> ModelReport:
    """
    The state of a model.

    :param models: the scheduler's, by key
    :param since_epoch: seconds since the epoch at which the clock was 0
    """

    def status_of(instance: Instance) -> Status:
        return models[instance.key].status

    now = change(entry, status_of)
    of_scheduler = [models[instance.key] for instance in entry.instances]
    used = [m.last_used for m in of_scheduler if m.last_used is not None]
    first = entry.instances[0]
    takes_room = first.launcher.takes_room
    return ModelReport(
        id=entry.model.name,
        status=now.status,
        port=first.life.run.port if first.life else None,
        in_flight=sum(m.in_flight for m in of_scheduler),
        waiting=sum(len(m.waiting) for m in of_scheduler),
        last_used=since_epoch + max(used) if used else None,
        pinned=entry.model.pinned,
        elsewhere=not takes_room,
        exit_code=now.exit_code,
        error=now.error,
        replicas=[]
        if takes_room
        else [
            ReplicaReport(
                url=instance.launcher.name,
                status=WORDS[model.status],
                in_flight=model.in_flight,
                error=instance.failure.message if instance.failure else None,
            )
            for instance, model in zip(entry.instances, of_scheduler, strict=True)
        ],
    )
