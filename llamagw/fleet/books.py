"""
Accounts of memory: what is taken on each device, and what else fits.

What a run takes is a `Need` of its launcher; how much of a device is ours comes from ledger.py. Who
gets the room is decided in plan.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from llamagw.launch import Need
from llamagw.models import HOST


class Capacity(NamedTuple):
    """
    How much of a device can be used.

    :ivar budget: bytes that are ours
    :ivar others: bytes of them that others hold all the same
    """

    budget: int
    others: int = 0

    @property
    def room(self) -> int:
        """Bytes that our runs may take together; less than 0 if others hold more than is theirs."""
        return self.budget - self.others


class Books:
    """
    What some runs take together.

    :param needs: of each run; None for one whose bytes are not counted
    :ivar count: how many runs they are
    :ivar taken: bytes by device
    """

    __slots__ = ("_files", "count", "taken")

    def __init__(self, needs: Iterable[Need | None] = ()) -> None:
        self.count = 0
        self.taken: dict[str, int] = {}
        #: Of each file that is mapped: how many bytes, by each of the runs that map it.
        self._files: dict[str, tuple[int, ...]] = {}
        for need in needs:
            self.add(need)

    def __repr__(self) -> str:
        return f"<Books: {self.count} runs, {self.taken}>"

    def copy(self) -> Books:
        """The same in an account of its own."""
        copy = Books()
        copy.count, copy.taken, copy._files = self.count, dict(self.taken), dict(self._files)
        return copy

    def add(self, need: Need | None) -> None:
        """Count one more run."""
        self._change(need, 1)

    def remove(self, need: Need | None) -> None:
        """Count a run no more that was added."""
        self._change(need, -1)

    def _change(self, need: Need | None, sign: int) -> None:
        self.count += sign
        if need is None:
            return
        taken = self.taken
        for device, size in need.devices.items():
            taken[device] = taken.get(device, 0) + sign * size
        for file, size in need.files.items():
            # Runs that map the same file have the same pages of it: as many as the one with most.
            sizes = self._files.get(file, ())
            if sign > 0:
                changed = (*sizes, size)
            else:
                at = sizes.index(size)
                changed = sizes[:at] + sizes[at + 1 :]
            more = max(changed, default=0) - max(sizes, default=0)
            taken[HOST] = taken.get(HOST, 0) + more
            if changed:
                self._files[file] = changed
            else:
                del self._files[file]

    def wants(self, need: Need) -> dict[str, int]:
        """What one more run would take, in bytes by device."""
        wants = dict(need.devices)
        if need.files:
            fresh = sum(
                max(size - max(self._files.get(file, ()), default=0), 0)
                for file, size in need.files.items()
            )
            wants[HOST] = wants.get(HOST, 0) + fresh
        return wants

    def fits(self, need: Need | None, capacity: Mapping[str, Capacity], limit: int) -> bool:
        """
        Whether one more run fits.

        :param capacity: of the devices; one that is not in it has no limit
        :param limit: how many runs there may be
        """
        return self.count < limit and (need is None or not self.lacks(need, capacity))

    def lacks(self, need: Need, capacity: Mapping[str, Capacity]) -> dict[str, int]:
        """How many bytes are lacking for one more run, by device; empty if it fits."""
        lacks = {}
        for device, size in self.wants(need).items():
            # One that maps a file is on the host, though others have paid for it.
            if device in capacity and (size or (device == HOST and need.files)):
                lack = self.taken.get(device, 0) + size - capacity[device].room
                if lack > 0:
                    lacks[device] = lack
        return lacks

    def over(self, capacity: Mapping[str, Capacity]) -> set[str]:
        """The devices on which more is taken than there is room for."""
        return {
            device
            for device, size in self.taken.items()
            if size and device in capacity and size > capacity[device].room
        }


def total(need: Need) -> dict[str, int]:
    """What a run takes in bytes by device, with the files that it maps."""
    return Books().wants(need)
