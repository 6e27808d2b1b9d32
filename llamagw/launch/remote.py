"""
Remote servers as instances: reached instead of started, left instead of stopped.

A `RemoteRun` stands where a process stands for a local model (local.py). It has no output, takes no
memory here, and ends at once.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from llamagw.config import RemoteModel, Replica, origin
from llamagw.launch.base import Exit, Watch
from llamagw.launch.probes import Diagnosis
from llamagw.net import Address


def address_of(model: RemoteModel, replica: Replica) -> Address:
    """
    Where a remote server answers, and what it wants to be told there.

    :param model: the model that it answers for
    """
    where = origin(replica.url)
    return Address(
        where.host,
        where.port,
        tls=where.tls,
        ca_file=replica.ca_file,
        prefix=where.prefix,
        api_key=replica.api_key,
        model=replica.upstream_model or model.name,
        # With a key of the gateway's own, only what a model is for is asked there.
        paths=None if replica.api_key is None else tuple(model.paths),
    )


class RemoteLauncher:
    """
    Reaches one server for one model, as `llamagw.launch.Launcher`.

    :param diagnose: asks it what is wrong with it
    :param clock: keeps time
    """

    takes_room = False
    #: A crash there is followed by no fresh process that we know of.
    relaunches = False
    #: It costs nothing to ask, and it may be back at any time.
    longest_backoff = 5.0

    def __init__(
        self, model: RemoteModel, replica: Replica, diagnose: Diagnosis, clock: IReactorTime
    ) -> None:
        self.name = replica.url
        self._address = address_of(model, replica)
        self._diagnose = diagnose
        self._clock = clock

    def launch(self, ended: Callable[[Exit], None]) -> RemoteRun:
        return RemoteRun(self._address, self.name, self._diagnose, self._clock, ended)

    def ready_line(self, seconds: float) -> str:
        return f"is reached at {self.name}"


class RemoteRun:
    """A remote server that is being reached or used, as `llamagw.launch.Run`."""

    port = None

    def __init__(
        self,
        address: Address,
        url: str,
        diagnose: Diagnosis,
        clock: IReactorTime,
        ended: Callable[[Exit], None],
    ) -> None:
        self.address = address
        self._url = url
        self._diagnose = diagnose
        self._clock = clock
        self._ended = ended
        self._over = False

    def __repr__(self) -> str:
        return f"<RemoteRun {self._url}{' over' if self._over else ''}>"

    def stop(self) -> None:
        self._end("was left")

    def kill(self, why: str) -> None:
        self._end(why)

    def progress(self) -> object:
        """What it does there cannot be seen."""
        return None

    def await_ready(self, ready: Callable[[], None], give_up: Callable[[], None]) -> Watch:
        return _Reach(self, ready)

    def broke_off(self) -> Deferred[bool]:
        # Whether it is well, the next look tells; what else it answers goes on meanwhile.
        self._end("broke off a request")
        return succeed(True)

    def diagnosis(self) -> Deferred[str | None]:
        """What is wrong with it; None if nothing is."""
        return self._diagnose(self.address)

    def cannot_be_reached(self, why: str) -> None:
        """It was asked, and is not well."""
        self._end(f"cannot be reached: {why}")

    def settle(self) -> Deferred[None]:
        """Fires in another turn."""
        return deferLater(self._clock, 0)

    def _end(self, how: str) -> None:
        if not self._over:
            self._over = True
            # Not within the call: who says "stop" is not ready to hear that it has.
            self._clock.callLater(0, self._ended, Exit(how, "", who=self._url))


class _Reach:
    """Finds out once whether a server can be used: leads to ``ready``, or to its end."""

    def __init__(self, run: RemoteRun, ready: Callable[[], None]) -> None:
        self._run = run
        self._ready = ready
        self._over = False
        self._asking: Deferred[None] = Deferred.fromCoroutine(self._ask())
        self._asking.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def stop(self) -> None:
        self._over = True
        self._asking.cancel()

    async def _ask(self) -> None:
        # Not within the call: the instance is not in the state yet that this leads out of.
        await self._run.settle()
        wrong = await self._run.diagnosis()
        if self._over:  # a diagnosis that is cancelled ends like one that found something
            return
        if wrong is None:
            self._ready()
        else:
            self._run.cannot_be_reached(wrong)
