"""
The life of one model's backend, as a state machine.

No I/O: what it does to the world goes through a `World` (processes and probes; see process.py and
health.py), which is also told how it fares (the manager). It knows when a start has
failed, how long to keep quiet after that, and what a process's end means in each state; when to
start and when to stop is the scheduler's decision.

::

    Stopped --start--> Starting --healthy--> Ready --stop, kill--> Stopping --ended--> Stopped
       ^                |    |               |   |
       |              ended  +--give_up--+ hung  | ended
       |                |                |   |   |
       |                v                v   v   |
       +--wait_over-- Backoff <-ended-- Failing  |
                        ^                        |
                        +------------------------+

How long Backoff lasts is for `Restarts` to say. A backend that crashes after it has answered a
request may be started again at once, however often. Each failed load, and each crash with nothing
answered, doubles the wait, from 1 s to 60 s; the first crash of all costs none. While a crash costs
no more than `HOLD_SEC`, requests wait for the next start; otherwise they are rejected. A server
elsewhere that had been reached is always looked at again at once, and then at least every 5 s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from automat import TypeMachineBuilder, pep614
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from llamagw.errors import GatewayError, LoadTimeout, ModelUnavailable

#: Seconds of backoff after the first failure; each further one doubles them, up to the last.
BACKOFF_FIRST, BACKOFF_LAST = 1.0, 60.0

#: A server elsewhere costs nothing to ask, and may be back at any time.
BACKOFF_LAST_ELSEWHERE = 5.0

#: Seconds that a backend must have been ready for its earlier failures to be forgotten.
STABLE_SEC = 10.0

#: The longest backoff, in seconds, for whose end requests wait after a crash.
HOLD_SEC = 5.0


class Address(NamedTuple):
    """
    Where a backend answers HTTP, and what it wants to be told there.

    :ivar tls: whether it speaks TLS
    :ivar ca_file: the certificates that its own is checked with; None for the system's
    :ivar prefix: what stands before each path
    :ivar api_key: sent as ``Authorization: Bearer …``
    :ivar model: what the model is called there; None where any name will do
    """

    host: str
    port: int
    tls: bool = False
    ca_file: str | None = None
    prefix: str = ""
    api_key: str | None = None
    model: str | None = None

    @property
    def authority(self) -> str:
        """For the ``Host`` header, and in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """What stands before each path's slash."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"


#: What a backend is, unless it lives elsewhere.
ENGINE = "llama-server"


class Exit(NamedTuple):
    """
    Word of a process's end.

    :ivar how: for a person, such as "exited with status 1" or "was killed by SIGKILL"
    :ivar last_words: what it said last about why; "" if it said nothing
    :ivar code: the status that it ended with; None if it was killed, or never started
    :ivar who: what ended
    """

    how: str
    last_words: str
    code: int | None = None
    who: str = ENGINE


class Running(Protocol):
    """A backend that was started, whoever started it."""

    @property
    def address(self) -> Address:
        """Where it answers, or will; may change until it is ready."""

    def stop(self) -> None:
        """Ask it to end, and make it end if it does not within ``stop_timeout_sec``."""

    def kill(self) -> None:
        """End it now."""


@runtime_checkable
class Watch(Protocol):
    """Probes under way."""

    def stop(self) -> None:
        """Probe no more, and say no more."""


class World(Protocol):
    """What a backend needs done outside of itself, and who wants to know how it fares."""

    def launch(self, backend: Backend) -> Running:
        """Start the process. ``backend.ended`` follows, some time, whatever happens."""

    def await_ready(self, running: Running, backend: Backend) -> Watch:
        """Probe a loading backend; leads to ``backend.healthy`` or ``backend.give_up``."""

    def watch_health(self, running: Running, backend: Backend) -> Watch:
        """Probe a ready backend; leads to ``backend.hung`` if it stops answering."""

    def loaded(self) -> None:
        """Told: it takes requests now."""

    def load_failed(self, error: GatewayError) -> None:
        """Told: it will not come up, though its process is still there."""

    def answered(self) -> bool:
        """Whether a request has been answered since the last launch."""

    def exited(self, exit: Exit, failure: GatewayError | None, hold: bool) -> None:
        """
        Told: its process is gone.

        :param failure: why it must not be started until `recovered`; None if it may be at once
        :param hold: whether who asks for it meanwhile is to wait, instead of being told the failure
        """

    def recovered(self) -> None:
        """Told: it may be started again."""


class Backend(Protocol):
    """What can happen to a backend."""

    def start(self) -> None:
        """The scheduler wants it loaded."""

    def stop(self) -> None:
        """The scheduler wants it gone."""

    def kill(self) -> None:
        """The scheduler wants it gone at once."""

    def healthy(self) -> None:
        """Its /health said ok for the first time."""

    def give_up(self) -> None:
        """It has been loading for ``load_timeout_sec`` without getting on."""

    def hung(self) -> None:
        """It is there but no longer answers."""

    def ended(self, exit: Exit) -> None:
        """Its process is gone."""

    def wait_over(self) -> None:
        """The backoff is over."""


class Pause(NamedTuple):
    """
    What follows from a process's end.

    :ivar seconds: for how long the backend must not be started
    :ivar hold: whether who asks for it meanwhile is to wait
    """

    seconds: float
    hold: bool


class Restarts:
    """
    Decides how soon a backend may be started again.

    :param longest: seconds that no backoff exceeds
    """

    __slots__ = ("_longest", "failures")

    def __init__(self, longest: float = BACKOFF_LAST) -> None:
        self._longest = longest
        #: Those that are not forgotten.
        self.failures = 0

    def __repr__(self) -> str:
        return f"<Restarts after {self.failures} failures>"

    def crashed(self, answered: bool, stable: bool = False) -> Pause:
        """
        A backend that was ready is gone, and was not to be.

        :param answered: whether it has answered a request since it was ready
        :param stable: whether it had been ready for `STABLE_SEC`
        """
        if answered or stable:
            self.failures = 0
        if answered:
            return Pause(0.0, hold=True)
        if self.failures == 0:
            self.failures = 1
            return Pause(0.0, hold=True)
        seconds = self._longer()
        return Pause(seconds, hold=seconds <= HOLD_SEC)

    def load_failed(self) -> Pause:
        """A backend is gone before it was ready, or did not become ready in time."""
        return Pause(self._longer(), hold=False)

    def _longer(self) -> float:
        # Bounded before it is a power: after days of failures that would overflow.
        seconds = min(BACKOFF_FIRST * 2.0 ** min(self.failures, 30), self._longest)
        self.failures += 1
        return seconds


@dataclass
class _Core:
    """What outlasts a single state."""

    name: str
    world: World
    clock: IReactorTime
    load_timeout: float
    elsewhere: bool
    restarts: Restarts
    running: Running | None = None
    #: When it became ready; None if it has not, since it was launched.
    ready_since: float | None = None

    def pause(self) -> Pause:
        """Its process is gone, and was not to be: how soon it may be started again."""
        if self.ready_since is None:
            return self.restarts.load_failed()
        # Whether a server elsewhere is still well, only another look can tell.
        answered = self.elsewhere or self.world.answered()
        stable = self.clock.seconds() - self.ready_since >= STABLE_SEC
        return self.restarts.crashed(answered, stable)

    def process(self) -> Running:
        assert self.running is not None, "a backend in this state has a process"
        return self.running


def _machine() -> Callable[[_Core], Backend]:
    machine = TypeMachineBuilder(Backend, _Core)

    # The data of a state is what must stop when the state is left: its probes, its timer.

    def launch(backend: Backend, core: _Core) -> Watch:
        core.ready_since = None
        core.running = core.world.launch(backend)
        return core.world.await_ready(core.running, backend)

    def watch(backend: Backend, core: _Core) -> Watch:
        core.ready_since = core.clock.seconds()
        return core.world.watch_health(core.process(), backend)

    def back_off(backend: Backend, core: _Core, exit: Exit) -> IDelayedCall:
        pause = core.pause()
        said = f": {exit.last_words}" if exit.last_words else ""
        lacks = "cannot be loaded" if exit.who == ENGINE else "is not available"
        failure = ModelUnavailable(
            f"The model `{core.name}` {lacks}: {exit.who} {exit.how}{said}",
            param="model",
            retry_after=pause.seconds,
        )
        core.world.exited(exit, failure if pause.seconds else None, pause.hold)
        return core.clock.callLater(pause.seconds, backend.wait_over)

    Stopped = machine.state("Stopped")
    Starting = machine.state("Starting", launch)
    Ready = machine.state("Ready", watch)
    Stopping = machine.state("Stopping")
    Failing = machine.state("Failing")
    Backoff = machine.state("Backoff", back_off)

    Stopped.upon(Backend.start).to(Starting).returns(None)
    Failing.upon(Backend.stop).loop().returns(None)
    Failing.upon(Backend.kill).loop().returns(None)
    Failing.upon(Backend.ended).to(Backoff).returns(None)

    @pep614(Starting.upon(Backend.healthy).to(Ready))
    def healthy(backend: Backend, core: _Core, probes: Watch) -> None:
        probes.stop()
        core.world.loaded()

    @pep614(Starting.upon(Backend.stop).to(Stopping))
    @pep614(Ready.upon(Backend.stop).to(Stopping))
    def stop(backend: Backend, core: _Core, probes: Watch) -> None:
        probes.stop()
        core.process().stop()

    @pep614(Starting.upon(Backend.kill).to(Stopping))
    @pep614(Ready.upon(Backend.kill).to(Stopping))
    def kill(backend: Backend, core: _Core, probes: Watch) -> None:
        probes.stop()
        core.process().kill()

    @pep614(Stopping.upon(Backend.kill).loop())
    def kill_sooner(backend: Backend, core: _Core) -> None:
        core.process().kill()

    @pep614(Starting.upon(Backend.give_up).to(Failing))
    def give_up(backend: Backend, core: _Core, probes: Watch) -> None:
        probes.stop()
        error = LoadTimeout(
            f"The model `{core.name}` was loading for {core.load_timeout:g} s without getting on.",
            param="model",
        )
        core.world.load_failed(error)
        core.process().kill()

    @pep614(Ready.upon(Backend.hung).to(Failing))
    def hung(backend: Backend, core: _Core, probes: Watch) -> None:
        probes.stop()
        core.process().kill()

    @pep614(Starting.upon(Backend.ended).to(Backoff))
    @pep614(Ready.upon(Backend.ended).to(Backoff))
    def ended(backend: Backend, core: _Core, probes: Watch, exit: Exit) -> None:
        probes.stop()

    @pep614(Stopping.upon(Backend.ended).to(Stopped))
    def stopped(backend: Backend, core: _Core, exit: Exit) -> None:
        core.world.exited(exit, None, hold=False)

    @pep614(Backoff.upon(Backend.wait_over).to(Stopped))
    def wait_over(backend: Backend, core: _Core, timer: IDelayedCall) -> None:
        core.world.recovered()

    @pep614(Backoff.upon(Backend.start).to(Starting))
    def start_early(backend: Backend, core: _Core, timer: IDelayedCall) -> None:
        timer.cancel()

    return machine.build()


_build = _machine()


def make_backend(
    name: str, world: World, clock: IReactorTime, load_timeout: float, elsewhere: bool = False
) -> Backend:
    """
    A backend that is stopped.

    :param load_timeout: seconds; only for the words of the error, the probes do the waiting
    :param elsewhere: whether it is no process of ours
    """
    restarts = Restarts(BACKOFF_LAST_ELSEWHERE if elsewhere else BACKOFF_LAST)
    return _build(_Core(name, world, clock, load_timeout, elsewhere, restarts))
