"""
What all local models share: spawning, the ports and sockets, the work of each process, what is
known before.

The run of one engine, from its start to its end, is in local.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from twisted.internet.interfaces import IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol

from llamagw.apart import Commands
from llamagw.config import Config, ConfigError
from llamagw.launch.advice import Note
from llamagw.launch.base import Memory, Reading
from llamagw.launch.command import become
from llamagw.launch.devices import Devices, missing_order
from llamagw.launch.durations import Durations
from llamagw.launch.effort import Effort
from llamagw.launch.known import Known
from llamagw.launch.leftovers import Leftovers
from llamagw.launch.memory import MemoryInUse
from llamagw.launch.ports import Ports
from llamagw.launch.probes import Probe
from llamagw.launch.socketfiles import SocketFiles
from llamagw.launch.sockets import who_listens
from llamagw.models import Learned


class Reactor(IReactorProcess, IReactorTime):
    """The part of a reactor that is used here."""


class Processes:
    """
    Spawns engines, and holds what all of them share: the ports and sockets, their work, what is
    known of the binary and of the models' files.

    :param reactor: spawns processes and runs timers
    :param config: for the binary, the ports and the timeouts
    :param leftovers: records each process
    :param probe: probes engines while they load
    :param durations: learns how long loads take
    :param learned: learns how much memory they take
    :ivar known: the flags of the binary, and the models' files
    """

    kill_group = staticmethod(os.killpg)
    who_listens = staticmethod(who_listens)

    def __init__(
        self,
        reactor: Reactor,
        config: Config,
        leftovers: Leftovers,
        probe: Probe,
        durations: Durations,
        learned: Learned,
    ) -> None:
        self.reactor = reactor
        self.durations = durations
        self.learned = learned
        self.leftovers = leftovers
        self.probe = probe
        self.config = config
        self.ports = Ports(config.port_range_start)
        self.known = Known(learned.of, leftovers.folder)
        self._sockets = SocketFiles(leftovers.folder)
        self._effort = Effort(reactor)
        self._memory = MemoryInUse(reactor)
        self._devices = Devices(reactor)

    def __repr__(self) -> str:
        return f"<Processes {self.config.llama_server_path}>"

    def apply(self, config: Config) -> None:
        """
        Use another configuration for all further starts.

        :param config: one for which `prepare` was called
        """
        self.known.apply(config)
        self.config = config
        self.ports.first = config.port_range_start

    def prepare(self, config: Config, commands: Commands) -> list[Note]:
        """
        Read what a configuration's launches need to know; to be called before the first launch,
        and before `apply`. Blocks, and may be called in a thread.

        :param config: that will be applied
        :param commands: runs the binary, and the process that reads the models' files
        :return: what is to be said of its models
        :raises ConfigError: when the binary cannot be called as configured
        :raises Cancelled: when `commands` is cancelled
        """
        return _judged(self.known, config, commands)

    def examine(self, config: Config, commands: Commands) -> list[Note]:
        """
        As `prepare`, for a configuration that is not to be applied and may be anybody's: nothing is
        kept, and a binary that is not in use is not run.
        """
        return _judged(self.known.for_look(config), config, commands)

    @property
    def flags(self) -> Mapping[str, bool]:
        """The flags that the binary has; empty if unknown."""
        return self.known.flags(self.config.llama_server_path)

    def take_place(self) -> int | str:
        """
        Reserve what an engine listens on.

        :return: a port, or the path of a UNIX socket
        :raises OSError: when there is none
        """
        if self.config.backend_socket == "unix":
            return self._sockets.take()
        return self.ports.take()

    def give_back(self, place: int | str) -> None:
        """
        Release what an engine has listened on.

        :param place: from `take_place`
        """
        if isinstance(place, str):
            self._sockets.give_back(place)
        else:
            self.ports.give_back(place)

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
        if self.config.memory is not None:
            # As it was asked which devices there are.
            extra = {**missing_order(os.environ), **extra}
        argv, env = become(engine, extra)
        return self.reactor.spawnProcess(protocol, argv[0], argv, env=env)

    def devices(self) -> Mapping[str, Reading]:
        """The memory of this machine and of its GPUs, see `Devices`."""
        self._devices.apply(self.known.devices(self.config.llama_server_path))
        return self._devices.read()

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

    def memory(self, pid: int | None, fresh: bool = False) -> Memory | None:
        """
        What a process has in use, see `MemoryInUse`.

        :param pid: of a process that leads a session; None for one that does not run
        :param fresh: whether it is to be read now
        """
        return None if pid is None else self._memory.of(pid, fresh)


def _judged(known: Known, config: Config, commands: Commands) -> list[Note]:
    known.read(config, commands)
    faults = known.faults(config)
    if faults:
        raise ConfigError(faults)
    return known.notes(config)
