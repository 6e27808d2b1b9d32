"""
Servers elsewhere, as backends: reached instead of started, left instead of stopped.

A `Server` stands where a process stands for a model of our own (process.py), so that the rest of
the fleet need not know which it has. It has no output, takes no memory here, and ends at once.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from llamagw.config import ModelConfig, Replica, origin
from llamagw.fleet.backend import Address, Backend, Exit
from llamagw.fleet.health import Diagnosis


def address_of(model: ModelConfig, replica: Replica) -> Address:
    """Where a replica answers, and what it wants to be told there."""
    where = origin(replica.url)
    return Address(
        where.host,
        where.port,
        tls=where.tls,
        ca_file=replica.ca_file,
        prefix=where.prefix,
        api_key=replica.api_key,
        model=replica.upstream_model or model.name,
    )


class Server:
    """A server elsewhere, as `llamagw.fleet.backend.Running`."""

    pid = None

    def __init__(self, address: Address, url: str, clock: IReactorTime, backend: Backend) -> None:
        self.address = address
        self.url = url
        self._clock = clock
        self._backend = backend
        #: It is not used any more.
        self.over = False

    def stop(self) -> None:
        self.end("was left")

    def kill(self) -> None:
        self.end("was left")

    def progress(self) -> object:
        """What it does there cannot be seen."""
        return None

    def has_its_port(self) -> bool:
        """Whoever answers at its URL is what was configured."""
        return True

    def end(self, how: str) -> None:
        """
        Use it no more. What comes after the first time changes nothing.

        :param how: for a person, such as "cannot be reached: …"
        """
        if not self.over:
            self.over = True
            # Not within the call: who says "stop" is not ready to hear that it has.
            self._clock.callLater(0, self._backend.ended, Exit(how, "", who=self.url))


class Reach:
    """
    Finds out once whether a server can be used: leads to ``backend.healthy`` or its end.

    The `llamagw.fleet.backend.Watch` of a server that is being reached.
    """

    def __init__(
        self, server: Server, diagnose: Diagnosis, clock: IReactorTime, backend: Backend
    ) -> None:
        self._server = server
        self._clock = clock
        self._backend = backend
        self._over = False
        self._asking: Deferred[None] = Deferred.fromCoroutine(self._ask(diagnose))
        self._asking.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def stop(self) -> None:
        self._over = True
        self._asking.cancel()

    async def _ask(self, diagnose: Diagnosis) -> None:
        # Not within the call: the backend is not in the state yet that this leads out of.
        await deferLater(self._clock, 0)
        wrong = await diagnose(self._server.address)
        if self._over:  # a diagnosis that is cancelled ends like one that found something
            return
        if wrong is None:
            self._backend.healthy()
        else:
            self._server.end(f"cannot be reached: {wrong}")
