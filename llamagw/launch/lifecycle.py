"""
The lifecycle of one instance, as a state machine.

No I/O: it acts through a launcher and its runs (base.py) and through `Effects`, the instance, to
which it also reports. It decides when a start has failed, how long to back off, and what a run's
end means in each state; when to start and when to stop is the scheduler's decision.

::

    Stopped --start--> Starting --healthy--> Ready --stop, kill--> Stopping --ended--> Stopped
       ^                |    |               |   |
       |              ended  +--give_up--+ hung  | ended
       |                |                |   |   |
       |                v                v   v   |
       +--wait_over-- Backoff <-ended-- Failing  |
                        ^                        |
                        +------------------------+

`Restarts` decides how long Backoff lasts. An instance that crashes after it has answered a request
may be started again at once, however often. Each failed load, and each crash with nothing answered,
doubles the backoff, from 1 s to the launcher's ``longest_backoff``; the first crash costs none.
While the backoff after a crash is at most `HOLD_SEC`, requests stay queued; otherwise they are
rejected. A remote server that had been reached is always probed again at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from automat import TypeMachineBuilder, pep614
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from llamagw.errors import GatewayError, LoadTimeout, ModelUnavailable
from llamagw.launch.base import ENGINE, Exit, Launcher, Need, Run, Watch
from llamagw.launch.restarts import STABLE_SEC, Pause, Restarts


class Effects(Protocol):
    """What a lifecycle acts through and reports to: an instance."""

    launcher: Launcher

    def launched(self, run: Run) -> None:
        """
        A run was launched.

        :param run: `Lifecycle.ended` is called when it ends, or could not be started
        """

    def watch_health(self, run: Run, hung: Callable[[], None]) -> Watch:
        """
        Probe a ready run.

        :param run: the run
        :param hung: called once, if it stops answering
        :return: stops the probes
        """

    def loaded(self) -> None:
        """Its run is ready for requests."""

    def load_failed(self, error: GatewayError) -> None:
        """
        The load has failed; its run has not ended yet.

        :param error: for the requests that wait for it
        """

    def answered(self) -> bool:
        """Whether its run has answered a request."""

    def exited(self, exit: Exit, failure: GatewayError | None, hold: bool) -> None:
        """
        Its run has ended.

        :param exit: how
        :param failure: why, if that was not asked for; unless its ``retry_after`` is 0, it must not
            be started until `recovered`
        :param hold: whether requests stay queued meanwhile, instead of being rejected
        """

    def recovered(self) -> None:
        """The backoff is over: it may be started again."""


class Lifecycle(Protocol):
    """The inputs of the state machine; see the diagram above for where each is accepted."""

    def start(self, need: Need | None = None) -> None:
        """
        The scheduler has decided to load it.

        :param need: of what it may take in memory, that which there is room for
        """

    def stop(self) -> None:
        """The scheduler has decided to stop it."""

    def kill(self) -> None:
        """The scheduler has decided to kill it."""

    def healthy(self) -> None:
        """Its run has become ready."""

    def give_up(self) -> None:
        """Its load has made no progress for ``load_timeout_sec``."""

    def hung(self) -> None:
        """Its run has not ended but no longer answers."""

    def ended(self, exit: Exit) -> None:
        """
        Its run has ended, or could not be started.

        :param exit: how
        """

    def wait_over(self) -> None:
        """The backoff is over."""


@dataclass(repr=False)
class _Core:
    """The data that all states share."""

    name: str
    effects: Effects
    clock: IReactorTime
    load_timeout: float
    restarts: Restarts
    run: Run | None = None
    #: When the run became ready (s, of the clock); None if it has not.
    ready_since: float | None = None
    #: Why the run was killed though nobody asked for it, as a predicate; "" if it was not.
    verdict: str = ""

    def __repr__(self) -> str:
        return f"<lifecycle of {self.name}: {self.run!r}, {self.restarts!r}>"

    def pause(self) -> Pause:
        """How soon it may be started again, after its run has ended unasked."""
        if self.ready_since is None:
            return self.restarts.load_failed()
        # If no fresh run follows a crash, only another probe can find out how it is.
        answered = not self.effects.launcher.relaunches or self.effects.answered()
        stable = self.clock.seconds() - self.ready_since >= STABLE_SEC
        return self.restarts.crashed(answered, stable)

    def condemn(self, why: str) -> None:
        """
        Kill the run, which has failed.

        :param why: as a predicate for messages
        """
        self.verdict = why
        self.its_run().kill(why)

    def its_run(self) -> Run:
        assert self.run is not None, "an instance in this state has a run"
        return self.run


def _machine() -> Callable[[_Core], Lifecycle]:
    machine = TypeMachineBuilder(Lifecycle, _Core)

    # The data of a state is what must be stopped when the state is left: its probes, its timer.

    def launch(lifecycle: Lifecycle, core: _Core, need: Need | None = None) -> Watch:
        core.ready_since = None
        core.verdict = ""
        core.run = core.effects.launcher.launch(lifecycle.ended, need)
        core.effects.launched(core.run)
        return core.run.await_ready(lifecycle.healthy, lifecycle.give_up)

    def watch(lifecycle: Lifecycle, core: _Core) -> Watch:
        core.ready_since = core.clock.seconds()
        return core.effects.watch_health(core.its_run(), lifecycle.hung)

    def back_off(lifecycle: Lifecycle, core: _Core, exit: Exit) -> IDelayedCall:
        pause = core.pause()
        cause = f": {exit.last_words}" if exit.last_words else ""
        never_ready = exit.who == ENGINE and core.ready_since is None
        lacks = "cannot be loaded" if never_ready else "is not available"
        failure = ModelUnavailable(
            f"The model `{core.name}` {lacks}: {exit.who} {core.verdict or exit.how}{cause}",
            param="model",
            retry_after=pause.seconds,
        )
        core.effects.exited(exit, failure, pause.hold)
        return core.clock.callLater(pause.seconds, lifecycle.wait_over)

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
        core.condemn(f"made no progress for {core.load_timeout:g} s")

    @pep614(Ready.upon(Lifecycle.hung).to(Failing))
    def hung(lifecycle: Lifecycle, core: _Core, probes: Watch) -> None:
        probes.stop()
        core.condemn("does not answer any more")

    @pep614(Starting.upon(Lifecycle.ended).to(Backoff))
    @pep614(Ready.upon(Lifecycle.ended).to(Backoff))
    def ended(lifecycle: Lifecycle, core: _Core, probes: Watch, exit: Exit) -> None:
        probes.stop()

    @pep614(Stopping.upon(Lifecycle.ended).to(Stopped))
    def stopped(lifecycle: Lifecycle, core: _Core, exit: Exit) -> None:
        core.effects.exited(exit, None, hold=False)

    @pep614(Backoff.upon(Lifecycle.wait_over).to(Stopped))
    def wait_over(lifecycle: Lifecycle, core: _Core, timer: IDelayedCall) -> None:
        core.effects.recovered()

    @pep614(Backoff.upon(Lifecycle.start).to(Starting))
    def start_early(
        lifecycle: Lifecycle, core: _Core, timer: IDelayedCall, need: Need | None = None
    ) -> None:
        timer.cancel()

    return machine.build()


_build = _machine()


def make_lifecycle(
    name: str, effects: Effects, clock: IReactorTime, load_timeout: float
) -> Lifecycle:
    """
    Make the lifecycle of an instance, in the state Stopped.

    :param name: the model's, for messages
    :param effects: the instance
    :param clock: times the backoff
    :param load_timeout: seconds, for the error's message only; the probes measure it
    """
    restarts = Restarts(effects.launcher.longest_backoff)
    return _build(_Core(name, effects, clock, load_timeout, restarts))
