"""
Which launchers a model has: one for its processes, or one for each remote server.

The only place that asks where a model lives.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IReactorTime

from llamagw.apart import Asking
from llamagw.config import Config, ModelConfig
from llamagw.launch.base import Launcher
from llamagw.launch.local import LocalLauncher, Processes
from llamagw.launch.output import Log
from llamagw.launch.probes import Asks
from llamagw.launch.remote import RemoteLauncher


class Launchers:
    """
    Makes launchers.

    :param processes: for local models
    :param probe: asks remote servers how they are
    :param clock: keeps time
    """

    def __init__(self, processes: Processes, probe: Asks, clock: IReactorTime) -> None:
        self._processes = processes
        self._probe = probe
        self._clock = clock

    def of(self, model: ModelConfig, log: Log) -> Sequence[Launcher]:
        """
        The launchers of a model's instances, at least one.

        :param log: gets what local ones print
        """
        if not model.remote:
            return [LocalLauncher(self._processes, model, log)]
        return [
            RemoteLauncher(model, replica, self._probe.diagnose, self._clock)
            for replica in model.replicas
        ]

    def depends_on(self, model: ModelConfig, config: Config) -> object:
        """What of the rest of a configuration its launchers depend on; compared at a reload."""
        return None if model.remote else config.llama_server_path

    def prepare(self, config: Config, asking: Asking) -> None:
        """
        Find out what takes time; before anything is launched, and before `apply`. May be called
        in a thread.

        :raises TakenBack: when it is wanted no more
        """
        self._processes.prepare(config, asking)

    def apply(self, config: Config) -> None:
        """Launch what is launched from now on by this configuration."""
        self._processes.apply(config)
