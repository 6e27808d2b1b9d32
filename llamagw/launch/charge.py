"""
What an engine is counted with in one of the places where it can be: a need, and its parts.

An estimate gets a margin. What was learned of earlier runs replaces it, and what is configured
replaces both. Which places there are is for placement.py; how an estimate is made, for flags.py and
models/estimate.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from llamagw.launch.base import Need
from llamagw.launch.flags import CACHE_MB, Asked
from llamagw.models import HOST, Estimate, Facts, Figure, Parts

#: What is added to an estimate, on each device: a part of it, and at least so many bytes.
MARGIN, LEAST_MARGIN = 0.05, 128 * 2**20

#: What is added to a figure that was learned.
LEARNED_MARGIN = 0.02


class Machine(NamedTuple):
    """
    What engines run on.

    :ivar engine: what changes with the engine's binary
    :ivar gpus: the bytes of each, by name, in the engine's order; None if it is not known which
        there are
    :ivar aliases: devices whose memory is that of another one, by name
    """

    engine: str = ""
    gpus: Mapping[str, int] | None = None
    aliases: Mapping[str, str] = {}


class Place(NamedTuple):
    """
    A place where an engine can be started.

    :ivar need: what it takes there
    :ivar estimate: the same in its parts
    """

    need: Need
    estimate: Estimate


def charge(
    need: Need,
    found: Estimate,
    asks: Asked,
    real: Callable[[str], str],
    figure: Figure | None,
    memory: Mapping[str, int] | None,
    facts: Mapping[str, Facts],
    *,
    alone: bool = True,
) -> Place:
    """
    What an engine is counted with in a place.

    :param need: with all but the figures
    :param found: what is estimated, by the engine's own names of devices
    :param asks: what its command line says
    :param real: by an engine's name, that of the device whose memory it is
    :param figure: what was learned
    :param memory: the model's own ``memory``, by device
    :param facts: of files, by path
    :param alone: whether there is no other place
    """
    whole = _folded(found, real)
    whole.rough |= asks.cache < 0
    # Two models of the same file map it once.
    twice = whole.host.mapped - sum(found.files.values())
    whole.host.weights -= twice
    whole.host.mapped -= twice
    cache = asks.cache if asks.cache >= 0 else CACHE_MB * 2**20
    whole.host.cache = cache
    for parts in whole.devices.values():
        own = parts.own - parts.cache
        if own:
            parts.margin = max(round(own * MARGIN), LEAST_MARGIN)
    if figure is not None:
        whole.source, whole.when, whole.rough = "learned", figure.when, asks.cache < 0
        drivers = {
            name: found.devices[name].process for name in figure.partial if name in found.devices
        }
        seen = _summed((figure.need(cache), drivers), real)
        told = {real(name) for name in figure.devices}
        for device, size in seen.items():
            before = whole.devices.get(device, Parts())
            own = size + round(size * LEARNED_MARGIN)
            if device in told or own > before.own:
                # One that only was too little says nothing against a larger estimate.
                mapped = before.mapped
                whole.devices[device] = Parts(weights=mapped, mapped=mapped, given=own)
    if memory is not None:
        whole.source, whole.when, whole.rough = "config", None, False
        given = _given(memory, whole, real, alone)
        whole.devices |= {device: Parts(given=size) for device, size in given.items()}
    need = replace(
        need,
        devices={device: parts.own for device, parts in whole.devices.items() if parts.own},
        files=_files(found.files, facts) if whole.host.mapped else {},
        source=whole.source,
        rough=whole.rough,
    )
    return Place(need, whole)


def key(asks: Asked, facts: Mapping[str, Facts], machine: Machine) -> str:
    """
    All that decides how much memory an engine takes, as a short text.

    :param asks: what its command line says, in one of the places where it can be
    :param facts: of files, by path
    :param machine: that it runs on
    """
    stamps = [(path, facts[path].stamp if path in facts else None) for path in asks.files.all]
    parts = (
        machine.engine,
        machine.gpus,
        stamps,
        asks.files,
        asks.flags,
        asks.draft,
        asks.projector,
    )
    return hashlib.sha256(msgspec.json.encode((*parts, asks.cache, asks.others))).hexdigest()


def _folded(found: Estimate, real: Callable[[str], str]) -> Estimate:
    """The same by the devices whose memory it is."""
    whole = Estimate({HOST: Parts()}, found.rough)
    for name, parts in found.devices.items():
        whole += Estimate({real(name): parts})
    return whole


def _summed(sizes: Iterable[Mapping[str, int]], real: Callable[[str], str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, size in chain.from_iterable(each.items() for each in sizes):
        found[real(name)] = found.get(real(name), 0) + size
    return found


def _given(
    memory: Mapping[str, int], found: Estimate, real: Callable[[str], str], alone: bool
) -> dict[str, int]:
    """What is configured, for the devices of a place; "" is that which the model is on."""
    given = _summed([{name: size for name, size in memory.items() if name}], real)
    if "" in memory:
        gpus = [name for name in found.devices if name != HOST] or [HOST]
        parts = [found.devices[name].own or 1 for name in gpus]
        shares = [memory[""] * part // sum(parts) for part in parts]
        given |= dict(zip(gpus, shares, strict=True))
    return {device: size for device, size in given.items() if alone or device in found.devices}


def _files(mapped: Mapping[str, int], facts: Mapping[str, Facts]) -> dict[str, int]:
    """Bytes by file, each known by its device and inode; of a model in parts, by their sizes."""
    found: dict[str, int] = {}
    for path, size in mapped.items():
        stamp = facts[path].stamp or ()
        whole = sum(part_size for _, _, part_size, _ in stamp)
        for device, inode, part_size, _ in stamp:
            found[f"{device}:{inode}"] = min(size * part_size // max(whole, 1), part_size)
    return found
