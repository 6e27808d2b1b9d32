"""
The processes of local models: how a llama-server is started and stopped.

With processes.py, the only file that starts and signals engines. It runs them on a free port (and
on another one when the engine cannot bind that) or on a UNIX socket, keeps their output, and ends
them by SIGTERM, then SIGKILL. When to do so is decided by lifecycle.py and, above it, by the
scheduler. What all engines share is held by processes.py; what a process prints and how it ends
comes from pipes.py.

An engine counts as ready only once it is known to be the process that listens on its port
(sockets.py); a healthy answer alone is no proof. On a socket it is, since nobody else can make one
there (socketfiles.py).

The progress of a load in percent is not known: an engine prints it only as a child of llama.cpp's
own router, and then it would not end at a SIGTERM while its stdin is open.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import (
    IDelayedCall,
)
from twisted.logger import Logger

from llamagw.config import LocalModel
from llamagw.launch.base import ENGINE, Exit, Memory, Need, Watch
from llamagw.launch.command import (
    KEY_VARIABLE,
    command_line,
    has_own_key,
    masked,
    random_key,
)
from llamagw.launch.flags import slots_of
from llamagw.launch.lesson import Lesson
from llamagw.launch.output import LINE_BYTES, Log, Output
from llamagw.launch.pipes import EngineProtocol
from llamagw.launch.placement import Placement
from llamagw.launch.ports import LOOPBACK
from llamagw.launch.probes import Readiness
from llamagw.launch.processes import Processes
from llamagw.launch.quiet import Quiet, is_wanted
from llamagw.launch.slots import make_folder
from llamagw.launch.sockets import Listener
from llamagw.launch.wants import Wants
from llamagw.models import Figure
from llamagw.net import Address
from llamagw.text import harmless

_log = Logger(namespace="llamagw.process")

#: What the engine prints when its port is in use (tools/server/server-http.cpp).
_CANNOT_BIND = "couldn't bind HTTP server socket"

#: How many ports are tried for one start, if each is taken between our check and the engine's bind.
_BIND_ATTEMPTS = 20

#: Seconds within which the end of a run is seen, after it has closed a request's connection.
AFTERMATH_SEC = 0.5

#: Seconds until the owner of a port is looked up again, after another process answered on it.
LOOK_AGAIN_SEC = 1.0


class LocalRun:
    """
    A llama-server process, as `llamagw.launch.Run`.

    If the engine's port is in use or shared by another process, the engine is started again on the
    next one; the instance does not notice.

    Each start has its own random API key, so that only the gateway can use the engine: neither
    other users of the machine nor web pages. There is none if the model's settings give the engine
    keys. An engine too old to know the variable accepts every request.

    :param processes: what all local models share
    :param model: what to run
    :param log: gets what the engine prints
    :param ended: called once, when it has ended or could not be started
    :param need: what it may take in memory, and where; None if its memory is not counted
    """

    def __init__(
        self,
        processes: Processes,
        model: LocalModel,
        log: Log,
        ended: Callable[[Exit], None],
        need: Need | None = None,
    ) -> None:
        self.output = Output(log, lambda: processes.config.engine_log)
        self.address = Address(LOOPBACK, 0)
        self.pid: int | None = None
        self._log = log
        self._processes = processes
        self._model = model
        self._need = need
        self._report_end = ended
        key = need.key if need else ""
        self._lesson = Lesson(processes.learned, key) if key else None
        #: Waiting for its end (`broke_off`); None when it has ended.
        self._end_waiters: list[Deferred[bool]] | None = []
        self._kill_later: IDelayedCall | None = None
        self._stopping = False
        #: One for each attempt; all are kept to the end, so that no port is tried twice.
        self._places: list[int | str] = []
        #: Lines of output before this attempt.
        self._lines_before = 0
        #: It was seen to listen on its port: from here on its output may have text of clients.
        self._seen = False
        #: It is being killed, to be started on another port.
        self._moving = False
        #: Why it was killed, for `Exit.last_words`; "" if its own output says why it ended.
        self._verdict = ""
        #: Earliest time (s) to look up the port's owner, after another process was seen to have it.
        self._look_at = 0.0
        self._spawn()

    def __repr__(self) -> str:
        return f"<LocalRun {self._model.name} pid={self.pid} at {self.address.shown}>"

    @property
    def port(self) -> int | None:
        """The port that it listens on, or will; 0 before the first attempt, None for a socket."""
        return self.address.port if self.address.socket is None else None

    def stop(self) -> None:
        """See `Run.stop`."""
        self._stopping = True
        self._signal(signal.SIGTERM)
        self._kill_later = self._processes.reactor.callLater(
            self._processes.config.stop_timeout_sec, self.kill, "did not stop in time"
        )

    def kill(self, why: str) -> None:
        """See `Run.kill`."""
        self._stopping = True
        self._cancel_kill()
        self._kill()

    def _kill(self) -> None:
        if self.pid is not None:
            try:
                # It leads a session of its own: the signal reaches its children too.
                self._processes.kill_group(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                # No group of its own yet, or (macOS) only zombies are left in it.
                self._signal(signal.SIGKILL)

    def progress(self) -> object:
        """See `Run.progress`: lines of output, CPU time, bytes read."""
        return self.output.heard, self._processes.effort(self.pid)

    def memory(self) -> Memory | None:
        """See `Run.memory`: that of the engine's session."""
        memory = self._processes.memory(self.pid)
        if memory is not None and self._lesson is not None:
            self._lesson.seen(memory)
        return memory

    def await_ready(self, ready: Callable[[], None], give_up: Callable[[], None]) -> Watch:
        """See `Run.await_ready`."""
        return Readiness(
            self._processes.reactor,
            self._processes.probe,
            # Without the key: what answers may be another process.
            address=lambda: self.address._replace(api_key=None),
            progress=self.progress,
            confirm=self.has_its_port,
            timeout=self._processes.config.load_timeout_sec,
            healthy=partial(self._ready, ready),
            give_up=give_up,
        )

    def _ready(self, tell: Callable[[], None]) -> None:
        # From here on its lines may have text of clients.
        self.output.told = None
        if self._lesson is not None:
            self._lesson.ready(self._processes.memory(self.pid, fresh=True))
        tell()

    def broke_off(self) -> Deferred[bool]:
        """See `Run.broke_off`."""
        # A connection can be lost before the process's end is seen. If it does not end in time, it
        # was no crash.
        waiting: Deferred[bool] = Deferred()
        if self._end_waiters is None:
            return succeed(True)
        self._end_waiters.append(waiting)
        waiting.addTimeout(AFTERMATH_SEC, self._processes.reactor)
        return waiting.addErrback(lambda _: False)

    def has_its_port(self) -> bool:
        """
        Whether this engine, and no other process, accepts the connections to its address.

        To be called when a probe of the address has succeeded. If another process shares the port,
        the engine is moved to the next one; if the owner cannot be determined, it is killed.
        """
        now, port = self._processes.reactor.seconds(), self.address.port
        if self.pid is None or self._stopping or self._moving or now < self._look_at:
            return False
        if self.address.socket is not None:
            self._seen = True
            return True
        name = self._model.name
        try:
            listener = self._processes.who_listens(port, self.pid)
        except OSError as error:
            self._verdict = f"whether it is what listens on port {port} cannot be seen: {error}"
            self.kill(self._verdict)
            return False
        if listener is Listener.OURS:
            self._seen = True
        elif listener is Listener.SHARED:
            _log.warn("{name} shares port {port} with another process", name=name, port=port)
            self._moving = True
            self._verdict = f"another process shares port {port}"
            self._kill()
        elif listener is Listener.OTHER:
            # The engine will fail to bind it, and be started on another one.
            _log.warn("port {port} is another process's, not {name}'s", name=name, port=port)
            self._look_at = now + LOOK_AGAIN_SEC
        return listener is Listener.OURS

    def _spawn(self) -> None:
        processes, model = self._processes, self._model
        self._seen = self._moving = False
        self._verdict, self._look_at = "", 0.0
        problem = processes.known.problem(model.model_path)
        if problem:
            return self._not_started(problem)
        try:
            if model.idle_shrink_sec:
                make_folder()
            place = processes.take_place()
        except OSError as error:
            return self._not_started(str(error))
        key = None if has_own_key(model, os.environ) else random_key()
        if isinstance(place, str):
            self.address = Address.of_socket(place, key)
        else:
            self.address = Address(LOOPBACK, place, api_key=key)
        self._places.append(place)
        self._lines_before = self.output.count
        binary = processes.config.llama_server_path
        engine = command_line(
            binary,
            model,
            place,
            processes.flags,
            counted=processes.config.memory is not None,
            need=self._need,
        )
        self.output.quiet = Quiet() if is_wanted(engine, model.extra_args) else None
        self.output.told = None if self._lesson is None else self._lesson.begin()
        command = masked(engine)
        _log.info(
            "starting {name} on {where}{flags}",
            name=model.name,
            where=place if isinstance(place, str) else f"port {place}",
            flags=f" ({' '.join(self._need.flags)})" if self._need and self._need.flags else "",
        )
        _log.debug("{name} is run by: {command}", name=model.name, command=command)
        self._wants = Wants(self._need)
        protocol = EngineProtocol(self.output, processes.reactor.callLater, self._ended)
        env = model.env if key is None else {**model.env, KEY_VARIABLE: key}
        try:
            transport = processes.spawn(protocol, engine, env)
        except OSError as error:
            return self._not_started(str(error))
        self._transport = transport
        self.pid = transport.pid
        self._log.begin(transport.pid, harmless(command, LINE_BYTES))
        processes.leftovers.started(transport.pid)

    def _not_started(self, why: str) -> None:
        self._log.add(f"llama-server was not started: {why}")
        # Never within `launch`.
        self._processes.reactor.callLater(0, self._over, Exit("was not started", why))

    def _ended(self, how: str, code: int | None) -> None:
        self._cancel_kill()
        wanting = None
        if not (self._stopping or self._moving):
            wanting = self._wants.why(how, self.output.recent, not self._seen)
        how += wanting or ""
        _log.info("{name} (pid {pid}) {how}", name=self._model.name, pid=self.pid, how=how)
        again = (
            not self._stopping
            and len(self._places) < _BIND_ATTEMPTS
            and (self._moving or (not self._seen and self._found_its_port_taken()))
        )
        if self.pid is not None:
            self._processes.forget(self.pid)
        self.pid = None
        if again:
            return self._spawn()
        # What was said in passing explains nothing where the kernel's count does.
        cause = self._verdict or ("" if wanting else self.output.last_words())
        self._over(Exit(how, cause, code, out_of_memory=wanting is not None))

    def _found_its_port_taken(self) -> bool:
        """
        Whether this attempt ended because another process has its port.

        From the system, or else from the output: the other process may have ended meanwhile, and
        not all systems show who listens. The output is the engine's own: no client has reached it.
        """
        assert self.pid is not None, "it was started"
        if self.address.socket is not None:
            return False
        with contextlib.suppress(OSError):
            if self._processes.who_listens(self.address.port, self.pid) is Listener.OTHER:
                return True
        fresh = min(5, self.output.count - self._lines_before)
        lines = list(self.output.recent)[-fresh:] if fresh else []
        return any(_CANNOT_BIND in line for line in lines)

    def _over(self, exit: Exit) -> None:
        for place in self._places:
            self._processes.give_back(place)
        if self._lesson is not None:
            self._lesson.over()
        self._report_end(exit)
        waiters, self._end_waiters = self._end_waiters or [], None
        for waiting in waiters:
            if not waiting.called:
                waiting.callback(True)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            # It may have ended, with only its pipes still open.
            with contextlib.suppress(ProcessExitedAlready):
                self._transport.signalProcess(number)

    def _cancel_kill(self) -> None:
        if self._kill_later is not None and self._kill_later.active():
            self._kill_later.cancel()
        self._kill_later = None


class LocalLauncher:
    """
    Starts llama-servers for one model, as `llamagw.launch.Launcher`.

    :param processes: what all local models share
    :param model: what to run
    :param log: gets what the engines print
    """

    name = ENGINE
    takes_room = True
    relaunches = True
    longest_backoff = 60.0

    def __init__(self, processes: Processes, model: LocalModel, log: Log) -> None:
        self._processes = processes
        self._model = model
        self._log = log
        self.slots = slots_of(model)
        #: Where it can be, by what is known in that version.
        self._placement: Placement | None = None
        self._version = -1
        #: What was learned of those places, and what follows.
        self._learned: Sequence[Figure | None] = ()
        self._needs: Sequence[Need] = ()
        self._told_unknown = False
        #: What the last run that ended was started with.
        self._ended: Need | None = None

    def __repr__(self) -> str:
        return f"<LocalLauncher {self._model.name}>"

    def needs(self) -> Sequence[Need]:
        """See `Launcher.needs`: made anew only when something else is known."""
        known, config = self._processes.known, self._processes.config
        if config.memory is None:
            return ()
        placement, fresh = self._placement, self._version != known.version
        if placement is None or fresh:
            placement = self._placement = known.placement(config, self._model)
            self._version = known.version
        learned = [known.learned(key) for key in placement.keys]
        if fresh or learned != self._learned:
            self._learned = learned
            self._needs = [place.need for place in placement.places(learned)]
        if not self._needs and not self._told_unknown:
            self._told_unknown = True
            if not known.problem(self._model.model_path):
                _log.warn(
                    "the memory of {name} is not counted: its file does not tell what it takes",
                    name=self._model.name,
                )
        return self._needs

    def launch(self, ended: Callable[[Exit], None], need: Need | None = None) -> LocalRun:
        """See `Launcher.launch`."""
        return LocalRun(
            self._processes, self._model, self._log, partial(self._over, ended, need), need
        )

    def _over(self, ended: Callable[[Exit], None], need: Need | None, exit: Exit) -> None:
        # Before anybody hears of it, who may start the next run elsewhere.
        self._ended = need
        ended(exit)

    def ready_line(self, seconds: float) -> str:
        """See `Launcher.ready_line`."""
        return f"is loaded ({seconds:.1f} s)"

    def took(self, seconds: float) -> None:
        """See `Launcher.took`."""
        self._processes.durations.add(self._model, seconds)

    def fell_short(self, devices: Mapping[str, int]) -> None:
        """See `Launcher.fell_short`."""
        need = self._ended
        if need is not None and need.key:
            known = {name: size for name, size in devices.items() if name in need.devices}
            self._processes.learned.raise_to(need.key, known)

    def usual(self) -> float | None:
        """See `Launcher.usual`: from earlier loads, those before a restart too."""
        return self._processes.durations.usual(self._model)
