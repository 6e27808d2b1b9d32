"""
The configured models by name, each with its instances; and the comparison of two configurations.

What follows from a difference is done by reload.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from llamagw.config import Config, ModelConfig, Names
from llamagw.errors import ModelNotFound
from llamagw.fleet.instance import Instance
from llamagw.launch import Log


class Entry:
    """
    A configured model.

    :param model: its configuration
    :param log: the output of its instances; passed on to a successor of the same name
    :ivar instances: in the order of the configuration; at least one
    """

    __slots__ = ("instances", "log", "model")

    def __init__(self, model: ModelConfig, log: Log) -> None:
        self.model = model
        self.log = log
        self.instances: Sequence[Instance] = ()

    def __repr__(self) -> str:
        return f"<Entry {self.model.name}, {len(self.instances)} instances>"

    @property
    def tries(self) -> int:
        """To how many runs a request is sent at most while they break off before an answer."""
        return len(self.instances) + self.instances[0].launcher.relaunches


class Plan(NamedTuple):
    """
    The difference between two configurations.

    :ivar kept: names of models that are the same in both
    :ivar retired: names of models that are gone or changed
    :ivar added: models that are new or changed
    """

    kept: list[str]
    retired: list[str]
    added: list[ModelConfig]


def diff(old: Config, new: Config, depends_on: Callable[[ModelConfig, Config], object]) -> Plan:
    """
    Compare two configurations, model by model.

    :param old: the configuration in effect
    :param new: the configuration that replaces it
    :param depends_on: gives the part of a configuration that a model's instances depend on, beside
        the model; compared for equality
    """
    before = {model.name: model for model in old.models}
    after = {model.name: model for model in new.models}
    kept = [
        name
        for name, model in before.items()
        if after.get(name) == model and depends_on(model, old) == depends_on(model, new)
    ]
    same = set(kept)
    return Plan(
        kept,
        [name for name in before if name not in same],
        [model for name, model in after.items() if name not in same],
    )


class Catalogue:
    """
    The models by name.

    :param config: gives the names; the catalogue is empty until models are `put`
    :ivar names: names, aliases and patterns
    """

    def __init__(self, config: Config) -> None:
        self._entries: dict[str, Entry] = {}
        self.names = _names(config)

    def __repr__(self) -> str:
        return f"<Catalogue {list(self._entries)}>"

    def __iter__(self) -> Iterator[Entry]:
        """The models, in the order of the configuration."""
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def holds(self, entry: Entry) -> bool:
        """Whether the entry is the one under its name: not retired, nor replaced by a successor."""
        return self._entries.get(entry.model.name) is entry

    def find(self, name: str) -> Entry:
        """
        The model with this name, this alias, or a pattern that matches.

        :raises ModelNotFound: if there is none
        """
        entry = self._entries.get(name)
        if entry is not None:
            return entry
        return self._entries[self.own_name(name)]

    def own_name(self, name: str) -> str:
        """
        The configured name of the model with this name, this alias, or a pattern that matches.

        :raises ModelNotFound: if there is none
        """
        own = self.names.find(name)
        if own is None:
            raise ModelNotFound(name, self.names.exact)
        return own

    def aliases(self, own: str) -> Sequence[str]:
        """
        The aliases of a model; none if it is not configured.

        :param own: its configured name
        """
        entry = self._entries.get(own)
        return () if entry is None else entry.model.aliases

    def put(self, entry: Entry) -> None:
        """Add a model."""
        self._entries[entry.model.name] = entry

    def take(self, name: str) -> Entry:
        """Remove a model."""
        return self._entries.pop(name)

    def apply(self, config: Config) -> None:
        """Use the names and the order of this configuration, whose models have all been `put`."""
        self.names = _names(config)
        self._entries = {model.name: self._entries[model.name] for model in config.models}


def _names(config: Config) -> Names:
    return Names((model.name, model.aliases) for model in config.models)
