"""
What somebody gets who asks for a model: a place in the queue, and then a lease.

Who gets which, and when, is the scheduler's and the manager's affair.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from llamagw.fleet.keeper import Keeper


class Lease:
    """
    The right to send one request to a model's backend, which is not stopped for room meanwhile.

    :ivar model: the model as it was configured when it was asked for
    :ivar address: where the backend answers
    :ivar key: the backend's name in the scheduler
    """

    __slots__ = (
        "_answered",
        "_keeper",
        "_life",
        "_replicas",
        "_used",
        "address",
        "engine",
        "key",
        "model",
    )

    def __init__(self, keeper: Keeper, used: bool) -> None:
        assert keeper.engine is not None, "a model that admits has a process"
        self._keeper: Keeper | None = keeper
        self._life = keeper.life
        self._used = used
        self._answered = False
        self.model = keeper.model
        self.key = keeper.key
        self._replicas = keeper.entry.keepers
        self.engine = keeper.engine
        self.address = keeper.engine.address

    @property
    def tries(self) -> int:
        """How many backends are worth asking when they break off before they answer."""
        # A process that died is started anew; a server elsewhere is replaced by another.
        return len(self._replicas) if self._replicas[0].replica is not None else 2

    @property
    def revoked(self) -> bool:
        """Whether the backend was unloaded by force: the request is not to be sent to another."""
        return self._life.revoked

    def moved(self) -> None:
        """
        Bytes came from the backend.

        The health check then knows that it works, even when it has no thread left for /health.
        """
        if self._keeper is not None:
            self._keeper.moved += 1
            self._answered = True

    def release(self) -> None:
        """The request is over. More than once is the same as once."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            if self._answered:
                self._life.answered = True
            keeper.manager.finished(keeper, self._used)


class Ticket:
    """Somebody who waits, or does not want to (see ``load``)."""

    __slots__ = ("deferred", "keeper", "load", "timer")

    def __init__(self, keeper: Keeper, deferred: Deferred[Lease], load: bool) -> None:
        self.keeper = keeper
        self.deferred = deferred
        self.load = load
        self.timer: IDelayedCall | None = None

    def answered(self) -> Deferred[Lease]:
        """It waits no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return self.deferred
