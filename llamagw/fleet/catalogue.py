"""
The configured models: their names, and which instances each has.

Holds, finds and compares; decides nothing and starts nothing.
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

    :ivar instances: in the order of the configuration; at least one
    :ivar log: what its instances print; its successor of the same name goes on with it
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
        """How many runs are worth asking when they break off before they answer."""
        return len(self.instances) + self.instances[0].launcher.relaunches


class Plan(NamedTuple):
    """
    What a reload changes.

    :ivar kept: names of models that are the same in both configurations
    :ivar retired: names of models that are gone, or are others now
    :ivar added: models that are new, or take the place of a retired one
    """

    kept: list[str]
    retired: list[str]
    added: list[ModelConfig]


def diff(old: Config, new: Config, depends_on: Callable[[ModelConfig, Config], object]) -> Plan:
    """
    Compare two configurations, model by model.

    :param depends_on: what else of a configuration a model's instances depend on
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

    :param config: the configuration that it begins with; it has no models before `put`
    """

    def __init__(self, config: Config) -> None:
        self._entries: dict[str, Entry] = {}
        self.names = _names(config)

    def __iter__(self) -> Iterator[Entry]:
        """The models, in the order of the configuration."""
        return iter(self._entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def holds(self, entry: Entry) -> bool:
        """Whether its name stands for this entry, rather than for a successor or for nothing."""
        return self._entries.get(entry.model.name) is entry

    def find(self, name: str) -> Entry:
        """
        The model that a name, an alias or a pattern means.

        :raises ModelNotFound: when it means none
        """
        entry = self._entries.get(name)
        if entry is not None:
            return entry
        return self._entries[self.own_name(name)]

    def own_name(self, name: str) -> str:
        """
        The own name of the model that a name, an alias or a pattern means.

        :raises ModelNotFound: when it means none
        """
        own = self.names.find(name)
        if own is None:
            raise ModelNotFound(name, self.names.exact)
        return own

    def put(self, entry: Entry) -> None:
        """A model is new."""
        self._entries[entry.model.name] = entry

    def take(self, name: str) -> Entry:
        """A model is configured no more."""
        return self._entries.pop(name)

    def apply(self, config: Config) -> None:
        """Find models by this configuration's names, in its order; all of them have been `put`."""
        self.names = _names(config)
        self._entries = {model.name: self._entries[model.name] for model in config.models}


def _names(config: Config) -> Names:
    return Names((model.name, model.aliases) for model in config.models)
