"""
Runtime state of one instance: a local process or one remote server that serves a model.

An `Instance` connects its lifecycle, its launcher and its health checks, and reports what happens
as events. When it is started or stopped is the scheduler's decision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from llamagw.config import Config, ModelConfig
from llamagw.errors import GatewayError
from llamagw.fleet.shrink import Shrink
from llamagw.launch import (
    Asks,
    Exit,
    Health,
    Launcher,
    Lifecycle,
    Need,
    Run,
    Watch,
    make_lifecycle,
)
from llamagw.net import Address

_log = Logger(namespace="llamagw.fleet")


class Loaded(NamedTuple):
    """The instance accepts requests."""

    key: str


class LoadFailed(NamedTuple):
    """The load was given up; the run has not ended yet."""

    key: str
    error: GatewayError


class Exited(NamedTuple):
    """
    The run has ended.

    :ivar failure: why, if that was not asked for; unless its ``retry_after`` is 0, the instance
        must not be started before `Recovered`
    :ivar hold: whether requests wait until `Recovered`, instead of being rejected
    :ivar out_of_memory: whether it ended for want of memory
    """

    key: str
    failure: GatewayError | None
    hold: bool
    out_of_memory: bool = False


class Recovered(NamedTuple):
    """The instance may be started again."""

    key: str


class Hung(NamedTuple):
    """The instance no longer answers health checks; its run is being killed."""

    key: str
    address: Address


class IdleTimeout(NamedTuple):
    """The idle timer has fired: it may have been unused for ``idle_unload_sec``."""

    key: str


Event = Loaded | LoadFailed | Exited | Recovered | Hung | IdleTimeout


class Life:
    """
    One run of an instance, and its state that ends with it.

    :param run: from the launcher
    :param since: when it was launched, in seconds of the clock
    :ivar revoked: whether it was killed by a forced unload
    :ivar answered: whether a request that received bytes of an answer has ended
    :ivar moved: number of reads that brought bytes of an answer
    :ivar description: how it describes its model; None if it was not asked, or did not answer
    :ivar description_waiters: Deferreds that fire when the request for the description has ended
    """

    __slots__ = (
        "answered",
        "description",
        "description_waiters",
        "moved",
        "revoked",
        "run",
        "since",
    )

    def __init__(self, run: Run, since: float) -> None:
        self.run = run
        self.since = since
        self.revoked = False
        self.answered = False
        self.moved = 0
        self.description: dict[str, Any] | None = None
        self.description_waiters: list[Deferred[None]] = []

    def __repr__(self) -> str:
        return f"<Life {self.run} since {self.since}{', revoked' if self.revoked else ''}>"


class Settings(NamedTuple):
    """
    The part of the configuration that applies to every instance.

    :ivar load_timeout: seconds without progress after which a load is given up
    :ivar health_check: seconds between health checks
    """

    load_timeout: float
    health_check: float

    @classmethod
    def of(cls, config: Config) -> Settings:
        """The settings that a configuration gives to every instance."""
        return cls(config.load_timeout_sec, config.health_check_sec)


class Instance:
    """
    Runtime state of one instance.

    :param key: its handle in the scheduler
    :param model: the configuration of its model
    :param launcher: starts its runs
    :param probe: sends the health checks, and has an idle engine forget
    :param clock: the reactor, or a Clock
    :param settings: timeout and interval
    :param idle_since: tells since when it has no requests in flight, in seconds of the clock; None
        while it has
    :param tell: called with each event
    :ivar life: its current run, from launch to exit; None without one
    :ivar exit_code: exit status of its last run; None if that was killed
    """

    def __init__(
        self,
        key: str,
        model: ModelConfig,
        launcher: Launcher,
        probe: Asks,
        clock: IReactorTime,
        settings: Settings,
        idle_since: Callable[[], float | None],
        tell: Callable[[Event], object],
    ) -> None:
        self.key = key
        self.model = model
        self.launcher = launcher
        self.life: Life | None = None
        self.exit_code: int | None = None
        self._probe = probe
        self._clock = clock
        self._settings = settings
        self._idle_since = idle_since
        self._tell = tell
        self._idle_timer: IDelayedCall | None = None
        self._shrink: Shrink | None = None
        self._health: Health | None = None
        self._last_progress: object = None
        #: Errors logged since it was last ready; None if it never was ready.
        self._logged: set[str] | None = None

    def __repr__(self) -> str:
        return f"<Instance {self.key} {self.life.run if self.life else 'not running'}>"

    @cached_property
    def _lifecycle(self) -> Lifecycle:
        """Made on first use: of thousands of configured models, few are ever loaded."""
        return make_lifecycle(self.model.name, self, self._clock, self._settings.load_timeout)

    # For the dispatcher

    def start(self, need: Need | None = None) -> None:
        """
        Launch a run.

        :param need: of what it may take in memory, that which there is room for
        """
        self._lifecycle.start(need)

    def stop(self) -> None:
        """Stop its run."""
        self._lifecycle.stop()

    def kill(self) -> None:
        """Kill its run, if it has not ended; the leases on it are revoked."""
        if self.life is not None:
            self.life.revoked = True
            self._lifecycle.kill()

    def check_every(self, interval: float) -> None:
        """
        Change the interval of the health checks.

        :param interval: seconds
        """
        self._settings = self._settings._replace(health_check=interval)
        if self._health is not None:
            self._health.every(interval)

    def start_idle_timer(self, seconds: float) -> None:
        """Have `IdleTimeout` follow after this time."""
        self._idle_timer = self._clock.callLater(seconds, self._idle)

    def _idle(self) -> None:
        self._idle_timer = None
        self._tell(IdleTimeout(self.key))

    # The lifecycle calls (`llamagw.launch.lifecycle.Effects`)

    def launched(self, run: Run) -> None:
        self.exit_code = None
        self.life = Life(run, self._clock.seconds())

    def answered(self) -> bool:
        return self.life is not None and self.life.answered

    def watch_health(self, run: Run, hung: Callable[[], None]) -> Watch:
        def no_answer() -> None:
            hung()
            self._complain(f"{self.model.name}: {self.launcher.name} does not answer any more")
            self._tell(Hung(self.key, run.address))

        self._health = Health(
            self._clock,
            self._probe,
            address=run.address,
            interval=self._settings.health_check,
            progress=self._progress,
            hung=no_answer,
        )
        return self._health

    def _progress(self) -> object:
        """
        Opaque token that differs from the last while the instance progresses with its requests.

        While it is idle the token stays the same: its activity may be due to the health check.
        """
        if self.life is not None and self._idle_since() is None:
            self._last_progress = self.life.moved, self.life.run.progress()
        return self._last_progress

    def loaded(self) -> None:
        assert self.life is not None, "an instance that is ready has a run"
        took = self._clock.seconds() - self.life.since
        self.launcher.took(took)
        if self.launcher.takes_room or self._logged != set():
            line = self.launcher.ready_line(took)
            _log.info("{name} {line}", name=self.model.name, line=line)
        self._logged = set()
        if self.model.idle_unload_sec:
            # One timer per ready instance, which checks when it fires: requests do not reset it.
            self.start_idle_timer(self.model.idle_unload_sec)
        if self.model.idle_shrink_sec:
            self._shrink = Shrink(
                self._clock, self.model.idle_shrink_sec, self._idle_since, self._forget
            )
        self._tell(Loaded(self.key))

    def _forget(self) -> None:
        """Have the engine forget earlier prompts."""
        if self.life is None:
            return

        def forgot(tokens: int) -> None:
            if tokens:
                _log.info(
                    "{name} was idle for {seconds:g} s: {tokens} tokens of prompts are erased",
                    name=self.model.name,
                    seconds=self.model.idle_shrink_sec,
                    tokens=tokens,
                )

        self._probe.erase(self.life.run.address).addCallback(forgot)

    def load_failed(self, error: GatewayError) -> None:
        _log.error("{error}", error=error.message)
        self._tell(LoadFailed(self.key, error))

    def exited(self, exit: Exit, failure: GatewayError | None, hold: bool) -> None:
        self.life = None
        self.exit_code = exit.code
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._shrink is not None:
            self._shrink.stop()
            self._shrink = None
        if failure is not None and failure.retry_after:
            self._complain(failure.message)
        self._tell(Exited(self.key, failure, hold, exit.out_of_memory))

    def recovered(self) -> None:
        self._tell(Recovered(self.key))

    def _complain(self, what: str) -> None:
        """
        Log an error.

        For a remote instance, which is retried without end, each error is logged once until it is
        ready again.
        """
        logged = self._logged or set()
        if self.launcher.takes_room or what not in logged:
            _log.error("{what}", what=what)
        self._logged = {*logged, what}
