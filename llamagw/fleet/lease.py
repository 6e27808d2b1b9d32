"""
What a request gets that asks for a model: a place in the queue, and then a lease.

Both hold callables of whoever made them, and know nothing of it. Who gets which, and when, is the
scheduler's decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from llamagw.config import ModelConfig
from llamagw.net import Address

if TYPE_CHECKING:
    from llamagw.fleet.instance import Life


class Lease:
    """
    The right to send one request to an instance, which is not stopped for room meanwhile.

    :param key: the instance's handle in the scheduler
    :param model: the model as it was configured when it was asked for
    :param life: the instance's run, and what is known of it
    :param tries: how many runs are worth asking when they break off before they answer
    :param others: whether the model has other instances
    :param relaunches: whether a run that ends is followed by a fresh one
    :param release: called once, when the lease ends
    :ivar address: where the instance answers
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
        return f"<Lease {self.key} {self.address.url}{'' if self._release else ' released'}>"

    @property
    def revoked(self) -> bool:
        """Whether the model was unloaded by force: the request is not to be sent to another run."""
        return self._life.revoked

    def moved(self) -> None:
        """
        Bytes of an answer came from the instance.

        The health check then knows that it works, even when it has no thread left for /health.
        """
        if self._release is not None:
            self._life.moved += 1
            self._answered = True

    def broke_off(self) -> Deferred[bool]:
        """
        The instance broke off the request.

        :return: fires when it is known what became of its run: with True when it has ended, or is
            used no more
        """
        return self._life.run.broke_off()

    def release(self) -> None:
        """The request is over. More than once is the same as once."""
        release, self._release = self._release, None
        if release is not None:
            if self._answered:
                self._life.answered = True
            release()


class Waiter:
    """
    A queued request.

    :param deferred: fires with its Lease
    :param load: whether the model may be loaded for it; if not, it is rejected unless the model is
        ready
    :ivar key: the handle of the instance at which it waits
    :ivar timer: rejects it when it has waited for too long
    """

    __slots__ = ("deferred", "key", "load", "timer")

    def __init__(self, key: str, deferred: Deferred[Lease], load: bool) -> None:
        self.key = key
        self.deferred = deferred
        self.load = load
        self.timer: IDelayedCall | None = None

    def __repr__(self) -> str:
        return f"<Waiter at {self.key}{'' if self.load else ', loads nothing'}>"

    def answered(self) -> Deferred[Lease]:
        """It waits no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return self.deferred
