"""
The memory of this machine and of its GPUs: which devices there are, and how much of each is in use.

What that leaves for our runs is worked out in llamagw.fleet.ledger.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from twisted.internet.interfaces import IReactorTime

from llamagw.launch.base import Reading
from llamagw.launch.command import library_path
from llamagw.launch.gpus import ORDER, read_all, used_by_device
from llamagw.launch.listing import Listed
from llamagw.models import HOST
from llamagw.system import memory_in_use

#: Seconds for which a reading is kept, however many ask.
AGE_SEC = 1.0


class Devices:
    """
    Reads how much of each device is in use.

    :param clock: the reactor, or a Clock
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._listed: Sequence[Listed] = ()
        self._readers = used_by_device((), {})
        self._read_at = float("-inf")
        self._readings: Mapping[str, Reading] = {}
        #: The devices of which it was not logged that they cannot be read.
        self._quiet: set[str] = set()

    def __repr__(self) -> str:
        return f"<Devices {[device.name for device in self._listed]}>"

    def apply(self, devices: Sequence[Listed]) -> None:
        """
        Read these GPUs from now on.

        :param devices: as the engine lists them
        """
        if devices == self._listed:
            return
        self._listed = devices
        own = [device for device in devices if not device.unified]
        self._readers = used_by_device(own, os.environ)
        self._quiet = set(self._readers)
        self._read_at = float("-inf")

    def read(self) -> Mapping[str, Reading]:
        """
        The memory of each device, by name; `AGE_SEC` old at most.

        A GPU that shares the machine's memory is not in it: that is ``host``.
        """
        now = self._clock.seconds()
        if now - self._read_at >= AGE_SEC:
            self._read_at = now
            used = read_all(self._readers, self._quiet)
            self._quiet &= set(used)
            readings = {HOST: Reading(*memory_in_use())}
            for device in self._listed:
                if not device.unified:
                    readings[device.name] = Reading(device.total, used.get(device.name))
            self._readings = MappingProxyType(readings)
        return self._readings


def totals(devices: Sequence[Listed]) -> dict[str, int]:
    """The size of each device that has memory of its own, in bytes by name."""
    return {device.name: device.total for device in devices if not device.unified}


def aliases(devices: Sequence[Listed]) -> dict[str, str]:
    """The devices that share the machine's memory, and what that is called."""
    return {device.name: HOST for device in devices if device.unified}


def engine_environment(binary: str) -> dict[str, str]:
    """
    The environment that an engine is asked in which devices there are, as it is run.

    :param binary: the path of llama-server
    """
    path = dict([library_path(binary, os.environ, sys.platform)])
    return {**missing_order(os.environ), **os.environ, **path}


def missing_order(env: Mapping[str, str]) -> dict[str, str]:
    """What has GPUs numbered as they are on the bus, unless the environment says otherwise."""
    return {name: value for name, value in ORDER.items() if name not in env}
