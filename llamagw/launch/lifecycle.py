"""
The lifecycle of one instance, as a state machine.

No I/O: what it has done goes through a launcher and its runs (base.py) and through `Effects`, the
instance, which is also told how it goes. It knows when a start has failed, how long to keep quiet
after that, and what a run's end means in each state; when to start and when to stop is the
scheduler's decision.

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
`STABLE_SEC` of being ready make earlier failures forgotten. A remote server that had been
reached is always looked at again at once, and then at least every 5 s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from automat import TypeMachineBuilder, pep614
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from llamagw.errors import GatewayError, LoadTimeout, ModelUnavailable
from llamagw.launch.base import ENGINE, Exit, Launcher, Run, Watch

#: Seconds of backoff after the first failure; each further one doubles them, up to the launcher's
#: ``longest_backoff``.
BACKOFF_FIRST = 1.0

#: Seconds that a backend must have been ready for its earlier failures to be forgotten.
STABLE_SEC = 10.0


class Effects(Protocol):
    """What a lifecycle has done outside of itself, and who is told how it goes: an instance."""

    launcher: Launcher

    def launched(self, run: Run) -> None:
        """A run was started; `Lifecycle.ended` follows, some time, whatever happens."""

    def watch_health(self, run: Run, hung: Callable[[], None]) -> Watch:
        """
        Probe a ready run.

        :param hung: called once, if it stops answering
        """

    def loaded(self) -> None:
        """It takes requests now."""

    def load_failed(self, error: GatewayError) -> None:
        """It will not come up, though its run has not ended yet."""

    def exited(self, exit: Exit, failure: GatewayError | None) -> None:
        """Its run has ended. With a failure, it must not be started until `recovered`."""

    def recovered(self) -> None:
        """It may be started again."""


class Lifecycle(Protocol):
    """What can happen to an instance."""

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
    effects: Effects
    clock: IReactorTime
    load_timeout: float
    run: Run | None = None
    #: When it became ready; None if it has not, since it was launched.
    ready_since: float | None = None
    failures: int = 0

    def backoff(self) -> float:
        """Count a failure; how many seconds to keep quiet after it."""
        if self.ready_since is not None and not self.effects.launcher.relaunches:
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
        last = self.effects.launcher.longest_backoff
        delay = min(BACKOFF_FIRST * 2.0 ** min(self.failures, 30), last)
        self.failures += 1
        return delay

    def its_run(self) -> Run:
        assert self.run is not None, "an instance in this state has a run"
        return self.run


def _machine() -> Callable[[_Core], Lifecycle]:
    machine = TypeMachineBuilder(Lifecycle, _Core)

    # The data of a state is what must stop when the state is left: its probes, its timer.

    def launch(lifecycle: Lifecycle, core: _Core) -> Watch:
        core.ready_since = None
        core.run = core.effects.launcher.launch(lifecycle.ended)
        core.effects.launched(core.run)
        return core.run.await_ready(lifecycle.healthy, lifecycle.give_up)

    def watch(lifecycle: Lifecycle, core: _Core) -> Watch:
        core.ready_since = core.clock.seconds()
        return core.effects.watch_health(core.its_run(), lifecycle.hung)

    def back_off(lifecycle: Lifecycle, core: _Core, exit: Exit) -> IDelayedCall:
        delay = core.backoff()
        said = f": {exit.last_words}" if exit.last_words else ""
        lacks = "cannot be loaded" if exit.who == ENGINE else "is not available"
        failure = ModelUnavailable(
            f"The model `{core.name}` {lacks}: {exit.who} {exit.how}{said}",
            param="model",
            retry_after=delay,
        )
        core.effects.exited(exit, failure if delay else None)
        return core.clock.callLater(delay, lifecycle.wait_over)

    Stopped = machine.state("Stopped")
    Starting = machine.state("Starting", launch)
    Ready = machine.state("Ready", watch)
    Stopping = machine.state("Stopping")
    Failing = machine.state("Failing")
    Backoff = machine.state("Backoff", back_off)

    Stopped.upon(Lifecycle.start).to(Starting).returns(None)
    Failing.upon(Lifecycle.stop).loop().returns(None)
    Failing.upon(Lifecycle.kill).loop().returns(None)
    Failing.upon(Lifecycle.ended).to(Backoff).returns(None)

    @pep614(Starting.upon(Lifecycle.healthy).to(Ready))
    def healthy(lifecycle: Lifecycle, core: _Core, probes: Watch) -> None:
        probes.stop()
        core.effects.loaded()

    @pep614(Starting.upon(Lifecycle.stop).to(Stopping))
    @pep614(Ready.upon(Lifecycle.stop).to(Stopping))
    def stop(lifecycle: Lifecycle, core: _Core, probes: Watch) -> None:
        probes.stop()
        core.its_run().stop()

    @pep614(Starting.upon(Lifecycle.kill).to(Stopping))
    @pep614(Ready.upon(Lifecycle.kill).to(Stopping))
    def kill(lifecycle: Lifecycle, core: _Core, probes: Watch) -> None:
        probes.stop()
        core.its_run().kill("was left")

    @pep614(Stopping.upon(Lifecycle.kill).loop())
    def kill_sooner(lifecycle: Lifecycle, core: _Core) -> None:
        core.its_run().kill("was left")

    @pep614(Starting.upon(Lifecycle.give_up).to(Failing))
    def give_up(lifecycle: Lifecycle, core: _Core, probes: Watch) -> None:
        probes.stop()
        error = LoadTimeout(
            f"The model `{core.name}` was loading for {core.load_timeout:g} s without getting on.",
            param="model",
        )
        core.effects.load_failed(error)
        core.its_run().kill("made no progress")

    @pep614(Ready.upon(Lifecycle.hung).to(Failing))
    def hung(lifecycle: Lifecycle, core: _Core, probes: Watch) -> None:
        probes.stop()
        core.its_run().kill("does not answer any more")

    @pep614(Starting.upon(Lifecycle.ended).to(Backoff))
    @pep614(Ready.upon(Lifecycle.ended).to(Backoff))
    def ended(lifecycle: Lifecycle, core: _Core, probes: Watch, exit: Exit) -> None:
        probes.stop()

    @pep614(Stopping.upon(Lifecycle.ended).to(Stopped))
    def stopped(lifecycle: Lifecycle, core: _Core, exit: Exit) -> None:
        core.effects.exited(exit, None)

    @pep614(Backoff.upon(Lifecycle.wait_over).to(Stopped))
    def wait_over(lifecycle: Lifecycle, core: _Core, timer: IDelayedCall) -> None:
        core.effects.recovered()

    @pep614(Backoff.upon(Lifecycle.start).to(Starting))
    def start_early(lifecycle: Lifecycle, core: _Core, timer: IDelayedCall) -> None:
        timer.cancel()

    return machine.build()


_build = _machine()


def make_lifecycle(
    name: str, effects: Effects, clock: IReactorTime, load_timeout: float
) -> Lifecycle:
    """
    The lifecycle of an instance that is stopped.

    :param name: the model's, for messages
    :param effects: the instance
    :param load_timeout: seconds; only for the words of the error, the probes do the waiting
    """
    return _build(_Core(name, effects, clock, load_timeout))
