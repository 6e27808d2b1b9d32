"""
Whether a model fits beside what is loaded, and what would have to go for it; for `llamagw fit`.

Arithmetic only, of what a running gateway tells of its memory, or of this machine where none runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from llamagw.cli.entries import number

if TYPE_CHECKING:
    from llamagw.launch import Need

#: Up to so many models, those that go are as few as can be; of more, the largest go first.
_FEW = 10


class Loaded(NamedTuple):
    """
    A model in memory.

    :ivar charge: bytes that it is counted with, by device
    :ivar pinned: whether it never goes for another one
    """

    name: str
    charge: Mapping[str, int]
    pinned: bool


class Device(NamedTuple):
    """
    The memory of a device.

    :ivar budget: bytes that the gateway may use
    :ivar free: bytes that one more model could take; less than 0 if others hold more than is theirs
    """

    budget: int
    free: int


class Room(NamedTuple):
    """
    What there is room for.

    :ivar devices: by name; one that is not in it has no limit
    :ivar loaded: what is in memory
    """

    devices: Mapping[str, Device]
    loaded: Sequence[Loaded] = ()


class Verdict(NamedTuple):
    """
    How a model fits.

    :ivar need: what it takes, where it does so best
    :ivar unload: the models that have to go for it; empty if it fits beside them. None if it does
        not fit
    """

    need: Need
    unload: list[str] | None


def room(accounts: Any, models: Any, name: str) -> Room:
    """
    What a gateway has room for.

    :param accounts: ``memory`` of its ``GET /health``
    :param models: ``data`` of its ``GET /models``
    :param name: a model that is counted as if it were not loaded
    :raises ValueError: when they are not as they should be
    """
    devices, loaded, back = {}, [], dict[str, int]()
    if not isinstance(accounts, dict) or not accounts:
        raise ValueError("memory is not counted there")
    for model in models:
        charge = model.get("charge")
        if not isinstance(charge, dict):
            continue  # it is not in memory
        charge = {str(device): int(number(charge, device) or 0) for device in charge}
        if model["id"] == name:
            back = charge
        else:
            loaded.append(Loaded(model["id"], charge, model.get("pinned") is True))
    for device, account in accounts.items():
        keys = ("total", "budget", "ours", "others")
        figures = [number(account, key) for key in keys] if isinstance(account, dict) else [None]
        if None in figures:
            raise ValueError("memory is not counted there")
        total, budget, ours, others = (int(figure or 0) for figure in figures)
        taken = max(others - (total - budget), 0) + ours - back.get(device, 0)
        devices[str(device)] = Device(budget, budget - taken)
    return Room(devices, loaded)


def verdict(needs: Sequence[Need], room: Room) -> Verdict:
    """
    How a model fits, in the best of the places where it can be started.

    :param needs: what it takes in each of them; not empty
    """
    found = [Verdict(need, _unload(need, room)) for need in needs]
    fitting = [one for one in found if one.unload is not None]
    return min(fitting, key=lambda one: len(one.unload or ()), default=found[0])


def _unload(need: Need, room: Room) -> list[str] | None:
    """The models that have to go for it; None if they all are not enough."""
    from llamagw.launch import taken

    lacks = {
        device: size - room.devices[device].free
        for device, size in taken([need]).items()
        if device in room.devices and size > room.devices[device].free
    }
    those = [one for one in room.loaded if not one.pinned and any(one.charge.get(d) for d in lacks)]

    def enough(models: Sequence[Loaded]) -> bool:
        return all(
            sum(model.charge.get(device, 0) for model in models) >= lack
            for device, lack in lacks.items()
        )

    if not enough(those):
        return None
    those.sort(key=lambda model: sum(model.charge.get(device, 0) for device in lacks))
    if len(those) <= _FEW:
        for count in range(len(those) + 1):
            for models in combinations(those, count):
                if enough(models):
                    return [model.name for model in models]
    for model in [*those]:
        # The smallest stay, if it fits without them.
        rest = [one for one in those if one is not model]
        if enough(rest):
            those = rest
    return [model.name for model in those]
