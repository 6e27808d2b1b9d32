"""
What happens to models, for those who count it: loads and unloads, with their reasons.

Told by the dispatcher. What clients see of a model's state is in report.py.
"""

from __future__ import annotations

from typing import NamedTuple

from llamagw.fleet.instance import Event, Exited, Hung, Loaded, LoadFailed
from llamagw.fleet.model import Model, Status, Why

#: The outcomes of loads, and the reasons of unloads.
LOADS = ("loaded", "failed")
UNLOADS = (*(why.value for why in Why), "crash", "hang")


class Turn(NamedTuple):
    """
    A model on this machine was loaded or unloaded, or could not be loaded.

    :ivar model: its name
    :ivar load: whether it is about a load
    :ivar how: of a load, one of `LOADS`; of an unload its reason, one of `UNLOADS`
    :ivar seconds: what the load took; 0 if it failed
    """

    model: str
    load: bool
    how: str
    seconds: float = 0.0


def turn_of(event: Event, name: str, before: Status, model: Model) -> Turn | None:
    """
    What an event of an instance means for its model; None if it is no news.

    :param before: the scheduler's status of the instance before the event
    :param model: the scheduler's, after the event
    """
    if isinstance(event, Loaded):
        return Turn(name, True, "loaded", model.loaded_at - model.started_at)
    if isinstance(event, LoadFailed) or (isinstance(event, Exited) and before is Status.LOADING):
        return Turn(name, True, "failed")
    if isinstance(event, Hung):
        return Turn(name, False, "hang")
    if isinstance(event, Exited) and before is Status.READY:
        return Turn(name, False, "crash")
    return None
