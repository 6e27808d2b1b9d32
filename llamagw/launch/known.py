"""
What is known of the engine's binary and of the models' files, read once and before it is needed.

What follows from it for a configuration is in advice.py, for a command line in command.py.
"""

from __future__ import annotations

import os
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from twisted.logger import Logger

from llamagw.apart import Commands, look_apart
from llamagw.config import Config, Fault, LocalModel
from llamagw.launch.advice import (
    Note,
    device_faults,
    flag_faults,
    key_notes,
    notes,
    socket_faults,
)
from llamagw.launch.base import Need
from llamagw.launch.charge import Machine, Place
from llamagw.launch.command import Flags, command_line, known_flags, library_path
from llamagw.launch.devices import aliases, engine_environment, totals
from llamagw.launch.flags import Asked, asked, need
from llamagw.launch.leftovers import default_folder
from llamagw.launch.listing import Listed, list_devices
from llamagw.launch.placement import Placement, elsewhere, visible
from llamagw.launch.together import Together, problems, together
from llamagw.models import HOST, Estimate, Facts, Figure, absent, stamp
from llamagw.system import machine_memory

_log = Logger(namespace="llamagw")

#: Seconds after which no further file is read, so that no start waits for thousands.
LOOK_SEC = 3.0


class Known:
    """
    Flags by binary, and facts by file, of the configuration in use and of the one to come.

    :param learned: what earlier runs took, by key
    :param sockets: the folder of the engines' UNIX sockets; None for the usual one
    :ivar version: another one when something else is known than before
    """

    def __init__(
        self,
        learned: Callable[[str], Figure | None] = lambda _: None,
        sockets: str | None = None,
    ) -> None:
        self.learned = learned
        self._sockets = sockets or default_folder()
        self.version = 0
        self._flags: dict[str, Flags] = {}
        self._builds: dict[str, str] = {}
        self._devices: dict[str, list[Listed]] = {}
        self._facts: dict[str, Facts] = {}

    def __repr__(self) -> str:
        return f"<Known: {len(self._flags)} binaries, {len(self._facts)} files>"

    def read(self, config: Config, commands: Commands, seconds: float = LOOK_SEC) -> None:
        """
        Read what is not known yet, or has changed. Blocks, and may be called in a thread.

        :param config: names the binary and the files
        :param commands: runs the binary's ``--help``, and the process that reads the files
        :param seconds: after which no further file is read; a warning in the log says so
        :raises Cancelled: when `commands` is cancelled
        """
        binary = config.llama_server_path
        if binary and binary not in self._flags:  # none if all models are remote
            env = dict([*os.environ.items(), library_path(binary, os.environ, sys.platform)])
            self._flags[binary] = known_flags(binary, env, commands)
            self._builds[binary] = _build(binary, self._flags[binary])
        counts = config.memory is not None and "--list-devices" in self.flags(binary)
        if counts and binary not in self._devices:
            environment = engine_environment(binary)
            listed = list_devices(binary, environment, commands)
            if listed is not None:
                self._devices[binary] = listed
        paths = dict.fromkeys(self._paths(config))
        new = [path for path in paths if not self._is_read(path)]
        found = look_apart(new, seconds, commands)
        self._facts |= found
        self.version += 1
        if found and len(found) < len(new):
            _log.warn(
                "{count} of {all} model files were not looked at within {sec:g} s",
                count=len(new) - len(found),
                all=len(new),
                sec=seconds,
            )

    def for_look(self, config: Config) -> Known:
        """
        A copy to `read` a configuration with that may be anybody's.

        What is read into it is not kept here, and a binary that is not known is not run.
        """
        copy = Known(self.learned, self._sockets)
        copy._facts = dict(self._facts)
        copy._flags = {config.llama_server_path: self.flags(config.llama_server_path)}
        copy._builds = dict(self._builds)
        copy._devices = dict(self._devices)
        return copy

    def _is_read(self, path: str) -> bool:
        facts = self._facts.get(path)
        return facts is not None and facts.stamp is not None and facts.stamp == stamp(path)

    def faults(self, config: Config) -> list[Fault]:
        """
        Faults for which a configuration is refused.

        :param config: one that was `read`
        """
        flags = self.flags(config.llama_server_path)
        faults = flag_faults(config, flags) + socket_faults(config, flags, self._sockets)
        faults += device_faults(config, self._devices.get(config.llama_server_path))
        notes = [note for note in self._never(config) if note.grade == "fault"]
        return faults + [Fault(config.path, None, note.place, note.message) for note in notes]

    def notes(self, config: Config) -> list[Note]:
        """
        What is to be said of its models and their engine, although they are served.

        :param config: one that was `read`
        """
        found = key_notes(config, self.flags(config.llama_server_path))
        found += notes(config, self._facts, machine_memory(), partial(self._need, config))
        return found + [note for note in self._never(config) if note.grade != "fault"]

    def together(self, config: Config) -> Together | None:
        """
        Which models fit into memory together.

        :param config: one that was `read`
        :return: None if nothing is counted
        """
        return together(config, partial(self.places_of, config), self.totals(config))

    def _never(self, config: Config) -> list[Note]:
        """What is to be said of models that never fit into memory."""
        if config.memory is None:
            return []
        return [*problems(config, partial(self.places_of, config), self.totals(config))]

    def needs(self, config: Config) -> dict[str, Estimate | None]:
        """
        How much memory the engine of each local model takes; where it is counted, in the first of
        the places where it can be.

        :param config: one that was `read`
        :return: by name; None for a model of whose file too little is known
        """
        models = [model for model in config.models if not model.remote]
        if config.memory is None:
            return {model.name: self._need(config, model) for model in models}
        found = {model.name: self._placed(config, model) for model in models}
        return {name: elsewhere(places) for name, places in found.items()}

    def places(self, config: Config) -> dict[str, list[Need]]:
        """
        What the engine of each local model takes, in each of the places where it can be.

        :param config: one that was `read`
        :return: by name; empty for a model of whose file too little is known
        """
        models = [model for model in config.models if not model.remote]
        return {model.name: self.places_of(config, model) for model in models}

    def places_of(self, config: Config, model: LocalModel) -> list[Need]:
        """
        What a model's engine takes, in each of the places where it can be, the best first.

        :param config: one that was `read`
        :param model: one of its local models
        :return: empty if too little is known of its file
        """
        return [place.need for place in self._placed(config, model)]

    def placement(self, config: Config, model: LocalModel) -> Placement:
        """
        The places where a model's engine can be.

        :param config: one that was `read`
        :param model: one of its local models
        """
        machine, flags = self._machine(config), self.flags(config.llama_server_path)
        return Placement(self._asked(config, model), self._facts, machine, model, flags)

    def _placed(self, config: Config, model: LocalModel) -> list[Place]:
        placement = self.placement(config, model)
        return placement.places([self.learned(key) for key in placement.keys])

    def _machine(self, config: Config) -> Machine:
        binary = config.llama_server_path
        devices = self._devices.get(binary) if config.memory is not None else None
        gpus = None if devices is None else {device.name: device.total for device in devices}
        return Machine(self._builds.get(binary, ""), gpus, aliases(devices or ()))

    def _need(self, config: Config, model: LocalModel) -> Estimate | None:
        return need(self._asked(config, model), self._facts)

    def _asked(self, config: Config, model: LocalModel) -> Asked:
        binary = config.llama_server_path
        flags = self.flags(binary)
        # An engine has the gateway's own variables too.
        env = ChainMap(model.env, dict(os.environ))
        counted = config.memory is not None
        gpus = visible(self._machine(config), model.env).used
        return asked(command_line(binary, model, 0, flags, counted=counted), env, flags, gpus)

    def _paths(self, config: Config) -> Iterator[str]:
        """The files that models are loaded from, projectors and the like among them."""
        for model in config.models:
            if not model.remote:
                yield model.model_path
                yield from self._asked(config, model).files.all

    def apply(self, config: Config) -> None:
        """
        Forget what only another configuration needed.

        :param config: the one in use
        """
        binary = config.llama_server_path
        self.version += 1
        self._flags = {binary: self.flags(binary)}
        self._builds = {binary: self._builds.get(binary, "")}
        self._devices = {name: found for name, found in self._devices.items() if name == binary}
        paths = {*self._paths(config)}
        self._facts = {path: facts for path, facts in self._facts.items() if path in paths}

    def flags(self, binary: str) -> Flags:
        """
        The flags of a binary.

        :param binary: its path
        :return: empty if unknown
        """
        return self._flags.get(binary, Flags())

    def devices(self, binary: str) -> list[Listed]:
        """
        The devices that a binary finds on this machine, beside the machine's own memory.

        :param binary: its path
        :return: empty if they are not known, or bytes are not counted
        """
        return self._devices.get(binary, [])

    def facts(self, path: str) -> Facts | None:
        """
        What is known of a model's files.

        :param path: of the first one
        :return: None if they were not read
        """
        return self._facts.get(path)

    def problem(self, path: str) -> str:
        """
        Why a model cannot be loaded; reads no file.

        :param path: of the model's file
        :return: "" if nothing is known against it, or it has changed since it was read
        """
        return absent(path) or (self._facts[path].problem if self._is_read(path) else "")

    def totals(self, config: Config) -> dict[str, int]:
        """
        How much memory there is, in bytes by name of the device.

        :param config: one that was `read`
        """
        return {HOST: machine_memory(), **totals(self.devices(config.llama_server_path))}


def _build(binary: str, flags: Mapping[str, bool]) -> str:
    """What changes with a binary, as far as that can be seen without running it again."""
    try:
        found = os.stat(os.path.realpath(binary))
        told = f"{found.st_size}:{found.st_mtime_ns}"
    except OSError:
        told = ""
    return f"{binary}:{told}:{' '.join(sorted(flags))}"
