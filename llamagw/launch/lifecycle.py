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

How long Backoff lasts is for `Restarts` to say. An instance that crashes after it has answered a
request may be started again at once, however often. Each failed load, and each crash with nothing
answered, doubles the wait, from 1 s to the launcher's ``longest_backoff``; the first crash of all
costs none. While a crash costs no more than `HOLD_SEC`, requests wait for the next start; otherwise
they are rejected. A remote server that had been reached is always looked at again at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from automat import TypeMachineBuilder, pep614
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from llamagw.errors import GatewayError, LoadTimeout, ModelUnavailable
from llamagw.launch.base import ENGINE, Exit, Launcher, Run, Watch
from llamagw.launch.restarts import STABLE_SEC, Pause, Restarts


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

    def answered(self) -> bool:
        """Whether a request was answered by its run."""

    def exited(self, exit: Exit, failure: GatewayError | None, hold: bool) -> None:
        """
        Its run has ended.

        :param failure: why it must not be started until `recovered`; None if it may be at once
        :param hold: whether requests wait for it meanwhile, instead of being rejected
        """

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
    restarts: Restarts
    run: Run | None = None
    #: When it became ready; None if it has not, since it was launched.
    ready_since: float | None = None

    def pause(self) -> Pause:
        """Its run has ended unasked: how soon it may be started again."""
        if self.ready_since is None:
            return self.restarts.load_failed()
        # Where no fresh run follows a crash, only another look can tell how it is.
        answered = not self.effects.launcher.relaunches or self.effects.answered()
        stable = self.clock.seconds() - self.ready_since >= STABLE_SEC
        return self.restarts.crashed(answered, stable)

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
        pause = core.pause()
        said = f": {exit.last_words}" if exit.last_words else ""
        lacks = "cannot be loaded" if exit.who == ENGINE else "is not available"
        failure = ModelUnavailable(
            f"The model `{core.name}` {lacks}: {exit.who} {exit.how}{said}",
            param="model",
            retry_after=pause.seconds,
        )
        core.effects.exited(exit, failure if pause.seconds else None, pause.hold)
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
        core.effects.exited(exit, None, hold=False)

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
    restarts = Restarts(effects.launcher.longest_backoff)
    return _build(_Core(name, effects, clock, load_timeout, restarts))
