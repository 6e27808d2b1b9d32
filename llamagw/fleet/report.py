"""
What clients hear of the models: how each is now, and each change of that.

All of it is derived from the scheduler's `Status`, the one book of an instance's life; nothing here
is remembered but what watchers have heard last.
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

#: What clients call each state.
WORDS = {
    Status.UNLOADED: "unloaded",
    Status.LOADING: "loading",
    Status.READY: "loaded",
    Status.STOPPING: "stopping",
    Status.FAILED: "failed",
}

#: Of several instances of a model, the one that is furthest says how the model is.
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
    """How one of a model's remote servers is."""

    url: str
    status: str
    in_flight: int
    error: str | None = None


class ModelReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    How a model is.

    :ivar status: unloaded, loading, loaded, stopping or failed
    :ivar port: where its instance listens on this machine; None without one
    :ivar last_used: seconds since the epoch; None if it never was
    :ivar pinned: whether it is never unloaded for room
    :ivar elsewhere: whether it takes no room here
    :ivar exit_code: the status that its last run ended with; None while one runs, and if it was
        killed or never started
    :ivar error: why it is failed; None if it is not
    :ivar replicas: its servers, if they are remote
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
    :ivar error: why it is failed
    :ivar exit_code: the status that its run ended with, if one did
    """

    model: str
    status: str
    error: str | None = None
    exit_code: int | None = None


def furthest(entry: Entry, status_of: StatusOf) -> Instance:
    """The instance that says how the model is."""
    if len(entry.instances) == 1:
        return entry.instances[0]
    return max(entry.instances, key=lambda i: _FURTHEST.index(status_of(i)))


def change(entry: Entry, status_of: StatusOf) -> Change:
    """How a model is now."""
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
    Those who hear of each change of a model's state.

    :param status_of: the scheduler's
    """

    def __init__(self, status_of: StatusOf) -> None:
        self._status_of = status_of
        self._listeners = Listeners[Change | None]()
        #: The state that was sent last, by name of the model; of those not in it, unloaded.
        self._sent: dict[str, str] = {}
        #: Models whose state may have changed in this turn; a dict keeps their order.
        self.touched: dict[Entry, None] = {}
        self._over = False

    def watch(self, tell: Callable[[Change | None], object]) -> Callable[[], None]:
        """
        Hear of each change.

        :param tell: called with None when there will be no more
        :return: call it to hear no more
        """
        if self._over:
            tell(None)
            return lambda: None
        return self._listeners.add(tell)

    def touch(self, entry: Entry) -> None:
        """Compare this model with what was sent of it, when the turn is over."""
        self.touched[entry] = None

    def send(self, configured: Callable[[Entry], bool]) -> None:
        """
        After a turn: send the changes of the models that were touched in it.

        :param configured: whether a model is not retired
        """
        touched, self.touched = self.touched, {}
        for entry in filter(configured, touched):
            now = change(entry, self._status_of)
            if now.status != self._sent.get(now.model, "unloaded"):
                self._sent[now.model] = now.status
                self._listeners.tell(now)

    def retired(self, name: str) -> None:
        """A model is configured no more: its name stands for its successor, if for anything."""
        if self._sent.pop(name, "unloaded") != "unloaded":
            self._listeners.tell(Change(name, "unloaded"))

    def end(self) -> None:
        """There will be no more."""
        self._over = True
        self._listeners.tell(None)
        self._listeners.clear()


def report(entry: Entry, models: Mapping[str, Model], since_epoch: float) -> ModelReport:
    """
    How a model is now, whole.

    :param models: the scheduler's, by key
    :param since_epoch: what the clock's seconds lack to seconds since the epoch
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
