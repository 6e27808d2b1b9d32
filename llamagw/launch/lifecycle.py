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

Backoff lasts 1 s after a failed start and doubles with each further failure, to 60 s. A backend
that had come up and then crashes costs nobody a wait the first time: its backoff is 0 s.
`STABLE_SEC` of being ready make earlier failures forgotten. A server elsewhere that had been
reached is always looked at again at once, and then at least every 5 s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from automat import TypeMachineBuilder, pep614
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from llamagw.errors import GatewayError, LoadTimeout, ModelUnavailable
from llamagw.net import Address

#: Seconds of backoff after the first failure; each further one doubles them, up to the last.
BACKOFF_FIRST, BACKOFF_LAST = 1.0, 60.0

#: A server elsewhere costs nothing to ask, and may be back at any time.
BACKOFF_LAST_ELSEWHERE = 5.0

#: Seconds that a backend must have been ready for its earlier failures to be forgotten.
STABLE_SEC = 10.0


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

    def exited(self, exit: Exit, failure: GatewayError | None) -> None:
        """Told: its process is gone. With a failure, it must not be started until `recovered`."""

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


@dataclass
class _Core:
    """What outlasts a single state."""

    name: str
    world: World
    clock: IReactorTime
    load_timeout: float
    elsewhere: bool
    running: Running | None = None
    #: When it became ready; None if it has not, since it was launched.
    ready_since: float | None = None
    failures: int = 0

    def backoff(self) -> float:
        """Count a failure; how many seconds to keep quiet after it."""
        if self.elsewhere and self.ready_since is not None:
            # Whether it is still well, only another look can tell.
            self.failures = 0
            return 0.0
        if self.ready_since is not None:
            if self.clock.seconds() - self.ready_since >= STABLE_SEC:
                self.failures = 0
            if self.failures == 0:
                self.failures = 1
                return 0.0
        # Bounded before it is a power: after days of failures that would overflow.
        last = BACKOFF_LAST_ELSEWHERE if self.elsewhere else BACKOFF_LAST
        delay = min(BACKOFF_FIRST * 2.0 ** min(self.failures, 30), last)
        self.failures += 1
        return delay

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
        delay = core.backoff()
        said = f": {exit.last_words}" if exit.last_words else ""
        lacks = "cannot be loaded" if exit.who == ENGINE else "is not available"
        failure = ModelUnavailable(
            f"The model `{core.name}` {lacks}: {exit.who} {exit.how}{said}",
            param="model",
            retry_after=delay,
        )
        core.world.exited(exit, failure if delay else None)
        return core.clock.callLater(delay, backend.wait_over)

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
        core.world.exited(exit, None)

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
    return _build(_Core(name, world, clock, load_timeout, elsewhere))
