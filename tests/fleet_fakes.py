"""Stand-ins for what the fleet needs of the world: engines, a launcher, a probe."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred, succeed

from llamagw.config import Config, LocalModel
from llamagw.fleet.backend import Address, Backend, Exit
from llamagw.fleet.output import Log
from tests.configs import configuration, local_model


def make_config(*names: str, **more: Any) -> Config:
    """A configuration that names files which need not be there."""
    return configuration(*(local_model(name) for name in names), **more)


class FakeEngine:
    """
    A backend that runs in the mind only.

    :ivar asked: what was asked of it: "stop", "kill"
    """

    def __init__(self, model: LocalModel, backend: Backend, port: int, log: Log) -> None:
        self.model = model
        self.log = log
        self.backend = backend
        self.address = Address("127.0.0.1", port)
        self.asked: list[str] = []
        self.work = 0

    def stop(self) -> None:
        self.asked.append("stop")

    def kill(self) -> None:
        self.asked.append("kill")

    def progress(self) -> object:
        return self.work

    def has_its_port(self) -> bool:
        return True

    def end(
        self, how: str = "exited with status 1", last_words: str = "", code: int | None = None
    ) -> None:
        self.backend.ended(Exit(how, last_words, code))


class FakeLauncher:
    """
    Launches `FakeEngine`\\ s.

    :ivar engines: all that were launched, the latest last
    :ivar refuses: the models whose launch fails at once
    """

    def __init__(self) -> None:
        self.engines: list[FakeEngine] = []
        self.refuses: set[str] = set()

    def launch(self, model: LocalModel, backend: Backend, log: Log) -> FakeEngine:
        engine = FakeEngine(model, backend, 8081 + len(self.engines), log)
        self.engines.append(engine)
        if model.name in self.refuses:
            engine.end("was not started", "there is no file")
        return engine

    def last(self, name: str) -> FakeEngine:
        """The latest engine of a model."""
        return next(e for e in reversed(self.engines) if e.model.name == name)

    def launched(self) -> list[str]:
        return [engine.model.name for engine in self.engines]


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
        #: How backends describe their models.
        self.said: dict[str, Any] = {"meta": {"n_ctx": 512}}

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
