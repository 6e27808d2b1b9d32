"""
Remote servers as instances: probed instead of started, no longer used instead of stopped.

A `RemoteRun` is the counterpart of a local model's process (local.py). It has no output, takes no
memory here, and ends at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from llamagw.config import RemoteModel, Replica, origin
from llamagw.launch.base import Exit, Memory, Need, Watch
from llamagw.launch.probes import Diagnosis
from llamagw.net import Address


def address_of(model: RemoteModel, replica: Replica) -> Address:
    """
    The address of a remote server, with the key and the model's name that it expects.

    :param model: the model that it serves
    :param replica: the server
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
        # With the gateway's own key, only the configured paths are allowed.
        paths=None if replica.api_key is None else tuple(model.paths),
    )


class RemoteLauncher:
    """
    Connects one server to one model, as `llamagw.launch.Launcher`.

    :param model: the model that the server serves
    :param replica: the server
    :param diagnose: probes it
    :param clock: to call back in a later turn
    """

    takes_room = False
    #: Whether the server restarts after a crash is not known here.
    relaunches = False
    #: A probe is cheap, and the server may be back at any time.
    longest_backoff = 5.0

    def __init__(
        self, model: RemoteModel, replica: Replica, diagnose: Diagnosis, clock: IReactorTime
    ) -> None:
        self.name = replica.url
        self.slots = model.max_in_flight or None
        self._address = address_of(model, replica)
        self._diagnose = diagnose
        self._clock = clock

    def __repr__(self) -> str:
        return f"<RemoteLauncher {self.name}>"

    def needs(self) -> Sequence[Need]:
        """See `Launcher.needs`: it takes no memory here."""
        return ()

    def launch(self, ended: Callable[[Exit], None], need: Need | None = None) -> RemoteRun:
        """See `Launcher.launch`."""
        return RemoteRun(self._address, self.name, self._diagnose, self._clock, ended)

    def ready_line(self, seconds: float) -> str:
        """See `Launcher.ready_line`."""
        return f"is reached at {self.name}"

    def took(self, seconds: float) -> None:
        """See `Launcher.took`: nothing is loaded here."""

    def fell_short(self, devices: Mapping[str, int]) -> None:
        """See `Launcher.fell_short`: it takes no memory here."""

    def usual(self) -> float | None:
        """See `Launcher.usual`: nothing is loaded here."""
        return None


class RemoteRun:
    """
    A remote server that is being probed or used, as `llamagw.launch.Run`.

    :param address: where it answers
    :param url: as configured, for messages
    :param diagnose: probes it
    :param clock: to call back in a later turn
    :param ended: called once, when it is not used any more
    """

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
        """See `Run.stop`; the server itself runs on."""
        self._end("was left")

    def kill(self, why: str) -> None:
        """See `Run.kill`."""
        self._end(why)

    def progress(self) -> object:
        """Always the same token: the work of a remote server cannot be measured."""
        return None

    def memory(self) -> Memory | None:
        """See `Run.memory`: none here."""
        return None

    def await_ready(self, ready: Callable[[], None], give_up: Callable[[], None]) -> Watch:
        """See `Run.await_ready`."""
        return _Reach(self, ready)

    def broke_off(self) -> Deferred[bool]:
        """See `Run.broke_off`."""
        # The next probe finds out whether it is healthy; its other streams continue meanwhile.
        self._end("broke off a request")
        return succeed(True)

    def diagnosis(self) -> Deferred[str | None]:
        """
        Probe it.

        :return: fires with what is wrong with it, None if nothing is
        """
        return self._diagnose(self.address)

    def cannot_be_reached(self, why: str) -> None:
        """
        End the run after a failed probe.

        :param why: what is wrong with the server
        """
        self._end(f"cannot be reached: {why}")

    def settle(self) -> Deferred[None]:
        """
        Wait for the next turn of the reactor.

        :return: fires then
        """
        return deferLater(self._clock, 0)

    def _end(self, how: str) -> None:
        if not self._over:
            self._over = True
            # Never within the call: the caller of `stop` is still changing its state.
            self._clock.callLater(0, self._ended, Exit(how, "", who=self._url))


class _Reach:
    """Probes a server once: calls ``ready``, or ends the run."""

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
        # Never within the call: the instance has not entered the state Starting yet.
        await self._run.settle()
        wrong = await self._run.diagnosis()
        if self._over:  # a cancelled diagnosis returns a text too
            return
        if wrong is None:
            self._ready()
        else:
            self._run.cannot_be_reached(wrong)
