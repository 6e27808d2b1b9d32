"""
The launchers of a model: one for its local process, or one for each of its remote servers.

The only place that distinguishes local from remote models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.interfaces import IReactorTime

from llamagw.apart import Commands
from llamagw.config import Config, ModelConfig
from llamagw.launch.advice import Note
from llamagw.launch.base import Launcher, Reading
from llamagw.launch.local import LocalLauncher
from llamagw.launch.output import Log
from llamagw.launch.probes import Asks
from llamagw.launch.processes import Processes
from llamagw.launch.remote import RemoteLauncher


class Launchers:
    """
    Makes launchers.

    :param processes: for local models
    :param probe: probes remote servers
    :param clock: for the runs of remote servers
    """

    def __init__(self, processes: Processes, probe: Asks, clock: IReactorTime) -> None:
        self._processes = processes
        self._probe = probe
        self._clock = clock

    def of(self, model: ModelConfig, log: Log) -> Sequence[Launcher]:
        """
        Make the launchers of a model's instances.

        :param model: as configured
        :param log: gets the output of local ones
        :return: one for each instance, at least one
        """
        if not model.remote:
            return [LocalLauncher(self._processes, model, log)]
        return [
            RemoteLauncher(model, replica, self._probe.diagnose, self._clock)
            for replica in model.replicas
        ]

    def depends_on(self, model: ModelConfig, config: Config) -> object:
        """
        What else its launchers depend on.

        :param model: as configured
        :param config: the configuration that has the model
        :return: to be compared at a reload; if it differs, the model needs new launchers
        """
        if model.remote:
            return None
        # Where memory is counted, engines are started with other flags.
        return config.llama_server_path, config.memory is not None, config.backend_socket

    def devices(self) -> Mapping[str, Reading]:
        """
        The memory of this machine and of its GPUs, by name of the device.

        Cheap enough to be asked every second.
        """
        return self._processes.devices()

    def prepare(self, config: Config, commands: Commands) -> list[Note]:
        """
        Do the slow part of applying a configuration; to be called before `apply`. Blocks, and may
        be called in a thread.

        :param config: that will be applied
        :param commands: runs the engine's ``--help``, and the process that reads the models' files
        :return: what is to be said of its models
        :raises ConfigError: when the engine cannot be called as configured
        :raises Cancelled: when `commands` is cancelled
        """
        return self._processes.prepare(config, commands)

    def examine(self, config: Config, commands: Commands) -> list[Note]:
        """
        As `prepare`, for a configuration that is not to be applied and may be anybody's.

        :param config: the configuration
        :param commands: runs the process that reads the models' files
        :return: what is to be said of its models
        :raises ConfigError: when the engine in use cannot be called as configured
        :raises Cancelled: when `commands` is cancelled
        """
        return self._processes.examine(config, commands)

    def apply(self, config: Config) -> None:
        """
        Use a configuration for all launches from now on.

        :param config: one for which `prepare` was called
        """
        self._processes.apply(config)
