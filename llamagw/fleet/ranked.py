"""
A priority queue of things whose ranks change often and are asked for rarely.

What is ranked, and by what, is said in room.py.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic, Protocol, TypeVar


class Numbered(Protocol):
    """
    What can be ranked.

    :ivar number: unique; of those with equal rank, the lowest number comes first
    """

    @property
    def number(self) -> int: ...


T = TypeVar("T", bound=Numbered)


class Ranked(Generic[T]):
    """
    A lazy priority queue: finds the one with the lowest rank of those that belong to it.

    Each request raises the rank of its model, and may change whether it belongs. To keep that cost
    off the requests, entries are not updated then: `first` corrects or drops the entries at the top
    that are out of date. One that begins to belong, or whose rank has become lower, must be
    offered.

    :param belongs: tells whether one belongs
    :param rank: gives its current rank
    """

    __slots__ = ("_belongs", "_heap", "_held", "_rank")

    def __init__(self, belongs: Callable[[T], bool], rank: Callable[[T], float]) -> None:
        self._belongs = belongs
        self._rank = rank
        self._heap: list[tuple[float, int, T]] = []
        #: The rank that counts of each; an entry with another is a leftover.
        self._held: dict[T, float] = {}

    def offer(self, one: T) -> None:
        """Add one if it belongs, or correct its entry if its rank has become lower."""
        if self._belongs(one):
            rank, held = self._rank(one), self._held.get(one)
            if held is None or rank < held:
                self._held[one] = rank
                heappush(self._heap, (rank, one.number, one))

    def first(self) -> T | None:
        """The one with the lowest rank, which is not removed; None if none belongs."""
        while self._heap:
            rank, number, one = self._heap[0]
            if rank != self._held.get(one):
                heappop(self._heap)
            elif not self._belongs(one):
                heappop(self._heap)
                del self._held[one]
            elif rank < (current := self._rank(one)):
                self._held[one] = current
                heapreplace(self._heap, (current, number, one))
            else:
                return one
        return None

    def renew(self) -> None:
        """Rank all anew, and drop those that do not belong, so that they can be collected."""
        self._held = {one: self._rank(one) for one in self._held if self._belongs(one)}
        self._heap = [(rank, one.number, one) for one, rank in self._held.items()]
        heapify(self._heap)
