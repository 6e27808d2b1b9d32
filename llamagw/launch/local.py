"""
Processes: how a llama-server is started, listened to and ended.

The only file that touches an engine's process. It builds the command line and the environment,
finds a free port (and another when the engine cannot bind that one), keeps the last lines of
output, and ends a process by SIGTERM, then SIGKILL. When to do any of it is decided elsewhere.

An engine is trusted when it is seen to be what listens on its port (sockets.py), not for an answer.

It knows nothing of how far a load has got: an engine prints that only for llama.cpp's own router,
as whose child it would no longer end at a SIGTERM while its stdin is open.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import (
    IDelayedCall,
    IProcessTransport,
    IReactorProcess,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger

from llamagw.apart import Asking
from llamagw.config import Config, LocalModel
from llamagw.launch.base import ENGINE, Exit, Watch
from llamagw.launch.command import (
    KEY_VARIABLE,
    become,
    command_line,
    has_own_key,
    known_flags,
    library_path,
    masked,
)
from llamagw.launch.effort import Effort
from llamagw.launch.leftovers import Leftovers
from llamagw.launch.output import Log, Output
from llamagw.launch.pipes import EngineProtocol
from llamagw.launch.ports import LOOPBACK, Ports
from llamagw.launch.probes import Probe, Readiness
from llamagw.launch.sockets import Listener, who_listens
from llamagw.net import Address

_log = Logger(namespace="llamagw.process")

#: What the engine says when somebody else has its port (tools/server/server-http.cpp).
_CANNOT_BIND = "couldn't bind HTTP server socket"

#: How many ports are tried for one start when each is taken between the look and the bind.
_BIND_ATTEMPTS = 20

#: Seconds within which a run that broke off a request is seen to have ended, if it has.
AFTERMATH_SEC = 0.5

#: Seconds until it is looked again who has a port that another process answered at.
LOOK_AGAIN_SEC = 1.0


class LocalRun:
    """
    A llama-server that was started, as `llamagw.launch.Run`.

    When the engine finds its port taken, or another process shares it, it is started once more on
    the next one, unseen by its instance.

    Each start has a key of its own that the engine wants to be told with each request, so that
    nobody but the gateway has anything from it: neither other users of the machine nor web pages.
    Not where the model's settings say which keys it takes. An engine from before the variable
    answers everybody.
    """

    def __init__(
        self, processes: Processes, model: LocalModel, log: Log, ended: Callable[[Exit], None]
    ) -> None:
        self.output = Output(log)
        self.address = Address(LOOPBACK, 0)
        self.pid: int | None = None
        self._log = log
        self._processes = processes
        self._model = model
        self._tell_ended = ended
        #: Who waits for word of its end; None when it has ended.
        self._mourners: list[Deferred[bool]] | None = []
        self._kill_later: IDelayedCall | None = None
        self._stopping = False
        #: One for each attempt; all are kept to the end, so that each is made on another.
        self._ports: list[int] = []
        #: How many lines there were before this attempt.
        self._lines_before = 0
        #: It was seen to listen on its port: from here on its words may be a client's.
        self._seen = False
        #: It is being killed to be started on another port.
        self._moving = False
        #: Why it was killed; "" if it was not, or for no reason of its own.
        self._verdict = ""
        #: When it may be looked who has the port, after another process was seen to have it.
        self._look_at = 0.0
        self._spawn()

    def __repr__(self) -> str:
        return f"<LocalRun {self._model.name} pid={self.pid} port={self.port}>"

    @property
    def port(self) -> int:
        """The port that it listens on, or will; 0 before its first attempt."""
        return self.address.port

    def stop(self) -> None:
        self._stopping = True
        self._signal(signal.SIGTERM)
        self._kill_later = self._processes.reactor.callLater(
            self._processes.config.stop_timeout_sec, self.kill, "did not stop in time"
        )

    def kill(self, why: str) -> None:
        self._stopping = True
        self._cancel_kill()
        self._kill()

    def _kill(self) -> None:
        if self.pid is not None:
            try:
                # It leads a session of its own: the group takes its children along.
                self._processes.kill_group(self.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                # No group of its own yet, or (macOS) only the dead are left in it.
                self._signal(signal.SIGKILL)

    def progress(self) -> object:
        """Something that changes as long as it gets on: its output, CPU time or reads grow."""
        return self.output.count, self._processes.effort(self.pid)

    def await_ready(self, ready: Callable[[], None], give_up: Callable[[], None]) -> Watch:
        return Readiness(
            self._processes.reactor,
            self._processes.probe,
            # It gets its key when it is known to be ours.
            address=lambda: self.address._replace(api_key=None),
            progress=self.progress,
            confirm=self.has_its_port,
            timeout=self._processes.config.load_timeout_sec,
            healthy=ready,
            give_up=give_up,
        )

    def broke_off(self) -> Deferred[bool]:
        # A connection can be lost before the process's end is noticed. When it does not end, it
        # was no crash, and nothing more is to be waited for.
        waiting: Deferred[bool] = Deferred()
        if self._mourners is None:
            return succeed(True)
        self._mourners.append(waiting)
        waiting.addTimeout(AFTERMATH_SEC, self._processes.reactor)
        return waiting.addErrback(lambda _: False)

    def has_its_port(self) -> bool:
        """
        Whether this engine, and no other process, gets the connections to its address.

        To be asked when something has answered there that it is well. If another process shares
        the port, the engine is moved to the next one; if it cannot be seen, the engine is ended.
        """
        now, port = self._processes.reactor.seconds(), self.address.port
        if self.pid is None or self._stopping or self._moving or now < self._look_at:
            return False
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
            # Ours will fail to bind it, and be started on another.
            _log.warn("port {port} is another process's, not {name}'s", name=name, port=port)
            self._look_at = now + LOOK_AGAIN_SEC
        return listener is Listener.OURS

    def _spawn(self) -> None:
        processes, model = self._processes, self._model
        self._seen = self._moving = False
        self._verdict, self._look_at = "", 0.0
        if not os.path.isfile(model.model_path):
            return self._not_started(f"there is no file {model.model_path}")
        try:
            port = processes.ports.take()
        except OSError as error:
            return self._not_started(str(error))
        key = None if has_own_key(model, os.environ) else secrets.token_urlsafe(32)
        self.address = Address(LOOPBACK, port, api_key=key)
        self._ports.append(port)
        self._lines_before = self.output.count
        binary = processes.config.llama_server_path
        engine = command_line(binary, model, port, processes.flags)
        _log.info(
            "starting {name} on port {port}: {command}",
            name=model.name,
            port=port,
            command=masked(engine),
        )
        protocol = EngineProtocol(self.output, processes.reactor.callLater, self._ended)
        env = model.env if key is None else {**model.env, KEY_VARIABLE: key}
        try:
            transport = processes.spawn(protocol, engine, env)
        except OSError as error:
            return self._not_started(str(error))
        self._transport = transport
        self.pid = transport.pid
        processes.leftovers.started(transport.pid)

    def _not_started(self, why: str) -> None:
        self._log.add(f"llama-server was not started: {why}")
        # Not within the call that launches it.
        self._processes.reactor.callLater(0, self._over, Exit("was not started", why))

    def _ended(self, how: str, code: int | None) -> None:
        self._cancel_kill()
        _log.info("{name} (pid {pid}) {how}", name=self._model.name, pid=self.pid, how=how)
        again = (
            not self._stopping
            and len(self._ports) < _BIND_ATTEMPTS
            and (self._moving or (not self._seen and self._found_its_port_taken()))
        )
        if self.pid is not None:
            self._processes.forget(self.pid)
        self.pid = None
        if again:
            return self._spawn()
        self._over(Exit(how, self._verdict or self.output.last_words(), code))

    def _found_its_port_taken(self) -> bool:
        """
        Whether this attempt ended because another process has its port.

        Seen, or else read: whoever took it may have gone again, and not all systems tell who
        listens. What it prints is its own, since no client has reached it.
        """
        assert self.pid is not None, "it was started"
        with contextlib.suppress(OSError):
            if self._processes.who_listens(self.address.port, self.pid) is Listener.OTHER:
                return True
        fresh = min(5, self.output.count - self._lines_before)
        said = list(self.output.recent)[-fresh:] if fresh else []
        return any(_CANNOT_BIND in line for line in said)

    def _over(self, exit: Exit) -> None:
        for port in self._ports:
            self._processes.ports.give_back(port)
        self._tell_ended(exit)
        mourners, self._mourners = self._mourners or [], None
        for waiting in mourners:
            if not waiting.called:
                waiting.callback(True)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            # It may be gone and only its pipes still open.
            with contextlib.suppress(ProcessExitedAlready):
                self._transport.signalProcess(number)

    def _cancel_kill(self) -> None:
        if self._kill_later is not None and self._kill_later.active():
            self._kill_later.cancel()
        self._kill_later = None


class Reactor(IReactorProcess, IReactorTime):
    """What is needed of a reactor here."""


class LocalLauncher:
    """
    Starts llama-servers for one model, as `llamagw.launch.Launcher`.

    :param processes: what all local models share
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

    def launch(self, ended: Callable[[Exit], None]) -> LocalRun:
        return LocalRun(self._processes, self._model, self._log, ended)

    def ready_line(self, seconds: float) -> str:
        return f"is loaded ({seconds:.1f} s)"


class Processes:
    """
    Spawns engines, and knows what all of them share: the binary, the ports, what they have done.

    :param reactor: spawns and keeps time
    :param config: for the binary, the ports and the timeouts
    :param leftovers: told of each process
    :param probe: asks whether an engine is well
    """

    kill_group = staticmethod(os.killpg)
    who_listens = staticmethod(who_listens)

    def __init__(
        self, reactor: Reactor, config: Config, leftovers: Leftovers, probe: Probe
    ) -> None:
        self.reactor = reactor
        self.leftovers = leftovers
        self.probe = probe
        self.config = config
        self.ports = Ports(config.port_range_start)
        #: By binary.
        self._known: dict[str, frozenset[str]] = {}
        self._effort = Effort(reactor)

    def apply(self, config: Config) -> None:
        """Start what is started from now on by another configuration, for which it is prepared."""
        path = config.llama_server_path
        self._known = {path: self._known.get(path, frozenset())}
        self.config = config
        self.ports.first = config.port_range_start

    def prepare(self, config: Config, asking: Asking) -> None:
        """
        Ask the configuration's binary for its flags, if it is another one; to be done before the
        first launch, and before `apply`. Takes its time, and may be called in a thread.

        :raises TakenBack: when nobody wants to know any more
        """
        path = config.llama_server_path
        if path and path not in self._known:  # none: all models live elsewhere
            env = dict([*os.environ.items(), library_path(path, os.environ, sys.platform)])
            self._known[path] = known_flags(path, env, asking)

    @property
    def flags(self) -> frozenset[str]:
        """What the binary knows; empty if nobody knows."""
        return self._known.get(self.config.llama_server_path, frozenset())

    def spawn(
        self, protocol: ProcessProtocol, engine: Sequence[str], extra: Mapping[str, str]
    ) -> IProcessTransport:
        """
        Run a command in a session of its own that does not outlive the gateway.

        :param extra: variables for it, beside those of the gateway
        """
        argv, env = become(engine, extra)
        return self.reactor.spawnProcess(protocol, argv[0], argv, env=env)

    def forget(self, pid: int) -> None:
        """The process is gone."""
        self._effort.forget(pid)
        self.leftovers.ended(pid)

    def effort(self, pid: int | None) -> object:
        """
        What a process has done so far, see `Effort`.

        :param pid: None for a process that does not run
        """
        return None if pid is None else self._effort.of(pid)
