"""All instances together, in numbers: for charts, and for what is free on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from llamagw.fleet.instance import Instance
from llamagw.fleet.model import Model, Status


class Totals(NamedTuple):
    """
    What is so at this moment, of all models.

    :ivar in_flight: number of requests
    :ivar waiting: number of requests
    :ivar loaded: how many are in memory on this machine
    :ivar memory: what the engines on this machine have in use, in bytes, without GPUs
    :ivar mapped: the part of it that is mapped from files, such as weights
    """

    in_flight: int
    waiting: int
    loaded: int
    memory: int
    mapped: int


def totals(instances: Iterable[Instance], models: Mapping[str, Model]) -> Totals:
    """
    Count; an instance takes some 0.5 µs, one that runs here what reading its memory takes.

    :param models: the scheduler's, by key
    """
    in_flight = waiting = loaded = memory = mapped = 0
    for instance in instances:
        model = models.get(instance.key)
        if model is None:
            continue  # it is being dropped
        in_flight += model.in_flight
        waiting += len(model.waiting)
        if instance.life is not None and instance.launcher.takes_room:
            loaded += model.status is Status.READY
            used = instance.life.run.memory()
            if used is not None:
                memory += used.rss
                mapped += used.file or 0
    return Totals(in_flight, waiting, loaded, memory, mapped)
