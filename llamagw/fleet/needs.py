"""
What a model is counted with when it is started, and whether that ever fits.

From what its launcher says that it takes, and from what was found out by trying. Who gets room is
decided in plan.py. The numbers are those of the contract in scheduler.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from llamagw.fleet.books import Books, Capacity
from llamagw.fleet.model import Model
from llamagw.fleet.room import Room
from llamagw.launch import Need
from llamagw.models import HOST


class Lack(NamedTuple):
    """
    Why a model never fits on a device (15).

    :ivar device: its name
    :ivar need: bytes that the model takes there
    :ivar budget: bytes that are ours
    :ivar others: bytes of them that others hold
    :ivar pinned: the pinned models that are there, and the bytes of each
    """

    device: str
    need: int
    budget: int
    others: int
    pinned: tuple[tuple[str, int], ...] = ()


def needs_of(model: Model, room: Room, pinned: Books | None = None) -> Sequence[Need | None]:
    """
    What a model is counted with when it is started, in each of the places where it can be.

    :param pinned: of the other models that are pinned; None to look for them
    :return: at least one; None in it if its bytes are not counted
    """
    needs: Sequence[Need] = model.needs()
    if not needs:
        return (None,)
    if model.raised or model.anyway:
        pinned = pinned_beside(model, room) if pinned is None else pinned
        capacity = room.capacity or {}
        if model.raised:
            needs = [raised(need, model.raised, pinned, capacity) for need in needs]
        if model.anyway:
            needs = [capped(need, pinned, capacity) for need in needs]
    return needs


def pinned_beside(model: Model, room: Room) -> Books:
    """What the other models take that are in memory and pinned."""
    return Books(one.charge for one in room.in_memory if one.pinned and one is not model)


def more_than(charge: Need) -> dict[str, int]:
    """A quarter more on each device than was too little (16)."""
    return {device: size * 5 // 4 for device, size in charge.devices.items()}


def capped(need: Need, pinned: Books, capacity: Mapping[str, Capacity]) -> Need:
    """
    A need that is no more than a model can have alone, beside those that are pinned (15).

    :param pinned: of the other models
    """
    over = pinned.lacks(need, capacity)
    if not over:
        return need
    devices, files = dict(need.devices), need.files
    for device, size in over.items():
        own = devices.get(device, 0)
        devices[device] = max(own - size, 0)
        if device == HOST and size > own:
            files = {}
    return replace(need, devices=devices, files=files)


def lacks_forever(model: Model, room: Room) -> Sequence[Lack]:
    """
    What a model lacks even if all went that can go (15).

    :return: of the place where it lacks the least; empty if it fits somewhere
    """
    if room.capacity is None:
        return ()
    pinned = pinned_beside(model, room)
    least: tuple[int, Need, dict[str, int]] | None = None
    for need in needs_of(model, room, pinned):
        if need is None:
            return ()
        lacks = pinned.lacks(need, room.capacity)
        if not lacks:
            return ()
        much = sum(lacks.values())
        if least is None or much < least[0]:
            least = much, need, lacks
    assert least is not None, "there is a need at least"
    _, need, lacks = least
    holders = [one for one in room.in_memory if one.pinned and one is not model and one.charge]
    wants = Books().wants(need)
    return [
        Lack(
            device,
            wants[device],
            *room.capacity[device],
            tuple(
                (one.name, held)
                for one in sorted(holders, key=lambda one: one.number)
                if one.charge and (held := Books().wants(one.charge).get(device, 0))
            ),
        )
        for device in lacks
    ]


def raised(
    need: Need, to: Mapping[str, int], pinned: Books, capacity: Mapping[str, Capacity]
) -> Need:
    """
    A need that is at least this much, but no more than a model can have alone (16).

    Else what fits would be refused.

    :param to: bytes by device
    :param pinned: of the other models
    """
    more = {device: max(size, to.get(device, 0)) for device, size in need.devices.items()}
    alone = capped(replace(need, devices=more), pinned, capacity).devices
    return replace(need, devices={d: max(size, alone[d]) for d, size in need.devices.items()})
