"""
A request's place in the queue of a model (`Waiter`), and its right to be sent (`Lease`).

Both are values with callbacks; the dispatcher makes them. When a waiter is admitted or rejected is
the scheduler's decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from llamagw.config import ModelConfig
from llamagw.fleet.queue import Share
from llamagw.net import Address

if TYPE_CHECKING:
    from llamagw.fleet.instance import Life


class Lease:
    """
    The right to send one request to an instance, which is not evicted until the lease is released.

    :param key: the instance's handle in the scheduler
    :param model: the model's configuration when the request was admitted
    :param life: the instance's run
    :param tries: to how many runs a request is sent at most while they break off before an answer
    :param others: whether the model has other instances
    :param relaunches: whether a run that ends unasked is followed by a new one
    :param release: called once, when the lease is released
    :ivar address: the run's
    """

    __slots__ = (
        "_answered",
        "_life",
        "_release",
        "address",
        "key",
        "model",
        "others",
        "relaunches",
        "tries",
    )

    def __init__(
        self,
        key: str,
        model: ModelConfig,
        life: Life,
        tries: int,
        others: bool,
        relaunches: bool,
        release: Callable[[], object],
    ) -> None:
        self.key = key
        self.model = model
        self.address: Address = life.run.address
        self.tries = tries
        self.others = others
        self.relaunches = relaunches
        self._life = life
        self._answered = False
        self._release: Callable[[], object] | None = release

    def __repr__(self) -> str:
        return f"<Lease {self.key} {self.address.shown}{'' if self._release else ' released'}>"

    @property
    def since(self) -> float:
        """When the instance's run was launched, in seconds of the reactor's clock."""
        return self._life.since

    @property
    def revoked(self) -> bool:
        """Whether the run was killed by a forced unload: the request must not be retried."""
        return self._life.revoked

    def moved(self) -> None:
        """
        Bytes of an answer have come from the instance.

        Counts as progress in the health check, even if no thread is free to answer /health.
        """
        if self._release is not None:
            self._life.moved += 1
            self._answered = True

    def cut_off(self) -> None:
        """The instance broke off the answer, so it does not count as one (crash rules a and b)."""
        self._answered = False

    def broke_off(self) -> Deferred[bool]:
        """
        Find out whether the run has ended, after it broke off the request.

        :return: fires with True when the run has ended or is being ended, with False when it serves
            on
        """
        return self._life.run.broke_off()

    def release(self) -> None:
        """End the lease: the request is over. Further calls do nothing."""
        release, self._release = self._release, None
        if release is not None:
            if self._answered:
                self._life.answered = True
            release()


class Waiter:
    """
    A queued request.

    :param key: the scheduler's handle of the instance for which it waits
    :param deferred: fires with its Lease
    :param load: whether the model may be loaded for it; if not, it is rejected unless the model is
        ready
    :param share: whose turn it is; None if it takes no slot
    :ivar timer: rejects it after ``queue_timeout_sec``
    """

    __slots__ = ("deferred", "key", "load", "share", "timer")

    def __init__(
        self, key: str, deferred: Deferred[Lease], load: bool, share: Share | None
    ) -> None:
        self.key = key
        self.deferred = deferred
        self.load = load
        self.share = share
        self.timer: IDelayedCall | None = None

    def __repr__(self) -> str:
        return f"<Waiter at {self.key}{'' if self.load else ', loads nothing'}>"

    def answered(self) -> Deferred[Lease]:
        """Stop its timer; the caller fires the Deferred, with a lease or an error."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return self.deferred
