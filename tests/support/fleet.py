"""Stand-ins for what the fleet needs of the world: launchers and their runs, a probe."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from llamagw.config import Config, LocalModel, ModelConfig
from llamagw.launch import Exit, Launcher, Log, Memory, Need, Reading, Run, Watch
from llamagw.launch.probes import Readiness
from llamagw.launch.remote import RemoteLauncher
from llamagw.net import Address
from tests.support.configs import configuration, local_model


def make_config(*names: str, **more: Any) -> Config:
    """A configuration that names files which need not be there."""
    return configuration(*(local_model(name) for name in names), **more)


class FakeRun:
    """
    A run in the mind only.

    :ivar asked: what was asked of it: "stop", "kill"
    :ivar work: what it has done, as its progress
    :ivar in_use: its memory
    """

    def __init__(self, launchers: FakeLaunchers, model: LocalModel, log: Log, port: int) -> None:
        self.model = model
        self.log = log
        self.address = Address("127.0.0.1", port)
        self.asked: list[str] = []
        self.work = 0
        self.in_use: Memory | None = None
        self.is_over = False
        self.need: Need | None = None
        self.ended: Callable[[Exit], None]
        self._launchers = launchers

    @property
    def port(self) -> int:
        return self.address.port

    def stop(self) -> None:
        self.asked.append("stop")

    def kill(self, why: str) -> None:
        self.asked.append("kill")

    def progress(self) -> object:
        return self.work

    def memory(self) -> Memory | None:
        return self.in_use

    def await_ready(self, ready: Callable[[], None], give_up: Callable[[], None]) -> Watch:
        return Readiness(
            self._launchers.clock,
            self._launchers.probe,
            address=lambda: self.address,
            progress=self.progress,
            confirm=lambda: True,
            timeout=self._launchers.load_timeout,
            healthy=ready,
            give_up=give_up,
        )

    def broke_off(self) -> Deferred[bool]:
        return succeed(self.is_over)

    def end(
        self,
        how: str = "exited with status 1",
        last_words: str = "",
        code: int | None = None,
        out_of_memory: bool = False,
    ) -> None:
        """Its process has ended."""
        self.is_over = True
        self.ended(Exit(how, last_words, code, out_of_memory=out_of_memory))


class FakeLauncher:
    """Launches `FakeRun`\\ s of one model."""

    name = "llama-server"
    takes_room = True
    slots: int | None = None
    relaunches = True
    longest_backoff = 60.0

    def __init__(self, launchers: FakeLaunchers, model: LocalModel, log: Log) -> None:
        self._launchers = launchers
        self._model = model
        self._log = log

    def needs(self) -> Sequence[Need]:
        return self._launchers.needs.get(self._model.name, ())

    def launch(self, ended: Callable[[Exit], None], need: Need | None = None) -> Run:
        launchers = self._launchers
        run = launchers.make_run(self._model, self._log)
        run.ended = ended
        run.need = need
        launchers.runs.append(run)
        if self._model.name in launchers.refuses:
            launchers.clock.callLater(0, run.end, "was not started", "there is no file")
        return run

    def ready_line(self, seconds: float) -> str:
        return f"is loaded ({seconds:.1f} s)"

    def took(self, seconds: float) -> None:
        self._launchers.took.setdefault(self._model.name, []).append(seconds)

    def fell_short(self, devices: Mapping[str, int]) -> None:
        self._launchers.short.setdefault(self._model.name, []).append(devices)

    def usual(self) -> float | None:
        return self._launchers.usual.get(self._model.name)


class FakeLaunchers:
    """
    Makes launchers: of `FakeRun`\\ s for local models, the real ones for remote servers.

    :ivar runs: all that were launched here, the latest last
    :ivar refuses: the models whose launch fails at once
    :ivar took: what loads have taken, by model
    :ivar usual: what a load usually takes, by model
    :ivar needs: what a run takes in memory, by model
    :ivar short: what was told of runs that ended for want of memory, by model
    :ivar readings: the memory of the machine
    """

    def __init__(self, probe: FakeProbe, clock: IReactorTime, load_timeout: float = 600) -> None:
        self.probe = probe
        self.clock = clock
        self.load_timeout = load_timeout
        self.runs: list[FakeRun] = []
        self.refuses: set[str] = set()
        self.took: dict[str, list[float]] = {}
        self.usual: dict[str, float] = {}
        self.needs: dict[str, Sequence[Need]] = {}
        self.short: dict[str, list[Mapping[str, int]]] = {}
        self.readings: dict[str, Reading] = {}

    def of(self, model: ModelConfig, log: Log) -> Sequence[Launcher]:
        if not model.remote:
            return [FakeLauncher(self, model, log)]
        return [
            RemoteLauncher(model, replica, self.probe.diagnose, self.clock)
            for replica in model.replicas
        ]

    def make_run(self, model: LocalModel, log: Log) -> FakeRun:
        """The next run, at an address of its own."""
        return FakeRun(self, model, log, 8081 + len(self.runs))

    def devices(self) -> Mapping[str, Reading]:
        return self.readings

    def depends_on(self, model: ModelConfig, config: Config) -> object:
        return None if model.remote else config.llama_server_path

    def last(self, name: str) -> FakeRun:
        """The latest run of a model."""
        return next(run for run in reversed(self.runs) if run.model.name == name)

    def launched(self) -> list[str]:
        return [run.model.name for run in self.runs]


class FakeProbe:
    """
    Answers probes.

    :ivar asked: the addresses asked
    :ivar well: the answer, when ``later`` is not set
    :ivar later: whether answers wait in ``waiting`` until somebody fires them
    """

    def __init__(self, well: bool = False) -> None:
        self.asked: list[Address] = []
        self.well = well
        self.later = False
        self.waiting: deque[Deferred[bool]] = deque()
        self.cancelled = 0
        #: What is wrong with servers elsewhere, by host, and who was asked.
        self.wrong: dict[str, str] = {}
        self.diagnosed: list[str] = []
        self.diagnoses: dict[str, Deferred[str | None]] = {}
        #: What engines tell Prometheus.
        self.series: bytes | None = None
        self.series_asked = 0
        self.series_later: Deferred[None] | None = None
        #: How backends describe their models.
        #: The ports of engines that were to forget.
        self.erased: list[int] = []
        self.said: dict[str, Any] = {"meta": {"n_ctx": 512}}

    def metrics(self, address: Address) -> Deferred[bytes | None]:
        self.series_asked += 1
        if self.series_later is None:
            return succeed(self.series)
        answer: Deferred[bytes | None] = Deferred()

        def fire(_: None) -> None:
            if not answer.called:  # else nobody waits any more
                answer.callback(self.series)

        self.series_later.addCallback(fire)
        return answer

    def erase(self, address: Address) -> Deferred[int]:
        self.erased.append(address.port)
        return succeed(602)

    def diagnose(self, address: Address) -> Deferred[str | None]:
        self.diagnosed.append(address.host)
        if self.later:
            self.diagnoses[address.host] = Deferred()
            return self.diagnoses[address.host]
        return succeed(self.wrong.get(address.host))

    def describe(self, address: Address) -> Deferred[dict[str, Any]]:
        return succeed(self.said)

    def __call__(self, address: Address) -> Deferred[bool]:
        self.asked.append(address)
        if not self.later:
            return succeed(self.well)
        answer: Deferred[bool] = Deferred(self._cancel)
        self.waiting.append(answer)
        return answer

    def _cancel(self, answer: Deferred[bool]) -> None:
        self.cancelled += 1
        self.waiting.remove(answer)
