"""
What all local models share: spawning, the binary's flags, the ports, the work of each process.

The run of one engine, from its start to its end, is in local.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from twisted.internet.interfaces import IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol

from llamagw.apart import Commands
from llamagw.config import Config
from llamagw.launch.base import Memory
from llamagw.launch.command import become, known_flags, library_path
from llamagw.launch.effort import Effort
from llamagw.launch.leftovers import Leftovers
from llamagw.launch.memory import MemoryInUse
from llamagw.launch.ports import Ports
from llamagw.launch.probes import Probe
from llamagw.launch.sockets import who_listens


class Reactor(IReactorProcess, IReactorTime):
    """The part of a reactor that is used here."""


class Processes:
    """
    Spawns engines, and holds what all of them share: the binary's flags, the ports, their work.

    :param reactor: spawns processes and runs timers
    :param config: for the binary, the ports and the timeouts
    :param leftovers: records each process
    :param probe: probes engines while they load
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
        #: Flags, by path of the binary.
        self._known: dict[str, frozenset[str]] = {}
        self._effort = Effort(reactor)
        self._memory = MemoryInUse(reactor)

    def __repr__(self) -> str:
        return f"<Processes {self.config.llama_server_path}>"

    def apply(self, config: Config) -> None:
        """
        Use another configuration for all further starts.

        :param config: one for which `prepare` was called
        """
        path = config.llama_server_path
        self._known = {path: self._known.get(path, frozenset())}
        self.config = config
        self.ports.first = config.port_range_start

    def prepare(self, config: Config, commands: Commands) -> None:
        """
        Read the flags of a configuration's binary, if they are not known; to be called before the
        first launch, and before `apply`. Blocks, and may be called in a thread.

        :param config: that will be applied
        :param commands: runs the binary
        :raises Cancelled: when `commands` is cancelled
        """
        path = config.llama_server_path
        if path and path not in self._known:  # none if all models are remote
            env = dict([*os.environ.items(), library_path(path, os.environ, sys.platform)])
            self._known[path] = known_flags(path, env, commands)

    @property
    def flags(self) -> frozenset[str]:
        """The flags that the binary has; empty if unknown."""
        return self._known.get(self.config.llama_server_path, frozenset())

    def spawn(
        self, protocol: ProcessProtocol, engine: Sequence[str], extra: Mapping[str, str]
    ) -> IProcessTransport:
        """
        Start an engine, in a session of its own, that does not outlive the gateway.

        :param protocol: receives its output and its end
        :param engine: the command line
        :param extra: variables for it, beside those of the gateway
        :raises OSError: when no process can be started
        """
        argv, env = become(engine, extra)
        return self.reactor.spawnProcess(protocol, argv[0], argv, env=env)

    def forget(self, pid: int) -> None:
        """
        Drop what is kept of a process that has ended.

        :param pid: of the process
        """
        self._effort.forget(pid)
        self.leftovers.ended(pid)

    def effort(self, pid: int | None) -> object:
        """
        What a process has done so far, see `Effort`.

        :param pid: None for a process that does not run
        """
        return None if pid is None else self._effort.of(pid)

    def memory(self, pid: int | None) -> Memory | None:
        """
        What a process has in use, see `MemoryInUse`.

        :param pid: of a process that leads a session; None for one that does not run
        """
        return None if pid is None else self._memory.of(pid)
