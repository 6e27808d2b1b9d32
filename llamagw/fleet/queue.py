"""
The queue of one model: which requests wait for it, since when, and in which order they are served.

When a queue is served is scheduler.py's decision; which models there is room for, room.py's.

The order
---------
Requests of a higher class first; within a class fair by flow, which is who sends them; within a
flow first come. Fair is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): on a clock
that counts what is served, a request begins when the one before it of its flow ends, but not in the
past, and lasts for its cost divided by the flow's weight; who begins first is served first. So who
has asked for little comes before who has asked for much, and nobody saves up time in which nothing
was asked.

A request that has waited for `AGE_SEC` is of the highest class from then on: no class starves, and
a long queue of one flow delays the others no more for it.

Where all have the same flow and class, this is first come, first served.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

#: Seconds after which a request is of the highest class.
AGE_SEC = 60.0

#: The classes.
LOWEST, HIGHEST = -100, 100

#: How many places of tickets that have left are kept, beside twice as many as there are others.
_KEPT = 64


class Share(NamedTuple):
    """
    Whose turn a request is.

    :ivar flow: who sends it
    :ivar priority: its class, from `LOWEST` to `HIGHEST`
    :ivar weight: the flow's share, more than 0
    :ivar cost: what it is estimated to take, more than 0; in the same unit for all
    """

    flow: str = ""
    priority: int = 0
    weight: float = 1.0
    cost: float = 1.0


#: The share of a request of which nothing is known.
ALIKE = Share()


class _Place(NamedTuple):
    """Of one class, the ticket with the lowest is served first; `number` grows with each."""

    start: float
    number: int
    ticket: Hashable


class _Entry(NamedTuple):
    """A ticket: when it joined; its share and place, None if it takes no slot."""

    since: float
    share: Share | None
    place: _Place | None


class Line:
    """The tickets of the requests that wait for one model."""

    __slots__ = (
        "_aging",
        "_ends",
        "_entries",
        "_free",
        "_heaps",
        "_kept",
        "_now",
        "_number",
        "_of",
    )

    def __init__(self) -> None:
        # Not a dict: finding its first key takes time linear in the keys deleted before it.
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        #: Those of them that take no slot, in the order of their arrival.
        self._free: dict[Hashable, None] = {}
        #: How many of each flow wait for a slot.
        self._of: dict[str, int] = {}
        self._begin()

    def _begin(self) -> None:
        """Forget what was served."""
        #: The places in each class, as a heap; and in the order of arrival, for those that age.
        #: Tickets that have left are dropped when they are met, or when they are too many (`_kept`
        #: counts all).
        self._heaps: dict[int, list[_Place]] = {}
        self._aging: dict[int, deque[_Place]] = {}
        self._kept = 0
        #: The time on the clock of what is served; and when each flow's last request ends there.
        self._now = 0.0
        self._ends: dict[str, float] = {}
        self._number = 0

    def __repr__(self) -> str:
        return f"<Line {list(self._entries)}>"

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Hashable]:
        """The tickets in the order in which they would be served now, if nobody came or left."""
        yield from self._free
        waiting = (entry for entry in self._entries.values() if entry.place is not None)
        for entry in sorted(waiting, key=_order):
            assert entry.place is not None, "it waits for a slot"
            yield entry.place.ticket

    def __contains__(self, ticket: object) -> bool:
        return ticket in self._entries

    @property
    def since(self) -> float:
        """When the first ticket joined, in seconds on the scheduler's clock; must not be empty."""
        return next(iter(self._entries.values())).since

    def place(self, ticket: Hashable) -> int:
        """
        The place of a ticket in the line, from 1; sorts the others.

        :raises ValueError: if the ticket is not in the queue
        """
        return list(self).index(ticket) + 1

    def of(self, share: Share | None) -> int:
        """How many tickets of a share's flow wait for a slot; of None, how many want none."""
        return len(self._free) if share is None else self._of.get(share.flow, 0)

    def join(self, ticket: Hashable, now: float, share: Share | None = ALIKE) -> None:
        """
        Add a ticket.

        :param now: seconds on the scheduler's clock
        :param share: None if it takes no slot
        """
        if share is None:
            self._free[ticket] = None
            self._entries[ticket] = _Entry(now, None, None)
            return
        start = max(self._now, self._ends.get(share.flow, 0.0))
        self._ends[share.flow] = start + share.cost / share.weight
        self._of[share.flow] = self._of.get(share.flow, 0) + 1
        self._number += 1
        place = _Place(start, self._number, ticket)
        self._entries[ticket] = _Entry(now, share, place)
        self._keep(share.priority, place)

    def leave(self, ticket: Hashable) -> None:
        """
        Remove one ticket.

        :raises KeyError: if the ticket is not in the queue
        """
        entry = self._remove(ticket)
        if entry.share is not None and entry.place is not None:
            flow = entry.share.flow
            if flow not in self._of:
                # It has not had what it has left.
                self._ends[flow] = entry.place.start
        self._tidy()

    def serve(self, slots: int | None, now: float) -> tuple[list[Hashable], int]:
        """
        Remove tickets, to be admitted: all that take no slot, and of the others as many as fit.

        :param slots: how many; None for all
        :param now: seconds on the scheduler's clock
        :return: the tickets, in the order in which they are to be served; and how many take a slot
        """
        if slots is None:
            taken = len(self._entries) - len(self._free)
            return self.clear(), taken
        served: list[Hashable] = list(self._free)
        for ticket in served:
            self._remove(ticket)
        taken = 0
        while taken < slots and (place := self._next(now)) is not None:
            self._now = max(self._now, place.start)
            self._remove(place.ticket)
            served.append(place.ticket)
            taken += 1
        self._tidy()
        return served, taken

    def clear(self) -> list[Hashable]:
        """
        Remove all tickets, to be rejected, moved, or admitted all at once.

        :return: the tickets, in the order of their arrival
        """
        tickets = list(self._entries)
        self._entries.clear()
        self._free.clear()
        self._of.clear()
        self._begin()
        return tickets

    def _next(self, now: float) -> _Place | None:
        """The place of the ticket that is served next, of those that want a slot."""
        self._promote(now)
        for priority in sorted(self._heaps, reverse=True):
            heap = self._heaps[priority]
            while heap:
                if self._holds(heap[0]):
                    return heap[0]
                heappop(heap)
                self._kept -= 1
            del self._heaps[priority]
        return None

    def _promote(self, now: float) -> None:
        """Put those that have waited for long in the highest class too."""
        for priority, aging in list(self._aging.items()):
            while aging and not (self._holds(aging[0]) and self._is_young(aging[0], now)):
                place = aging.popleft()
                self._kept -= 1
                if self._holds(place):
                    self._keep(HIGHEST, place)
            if not aging:
                del self._aging[priority]

    def _is_young(self, place: _Place, now: float) -> bool:
        return now - self._entries[place.ticket].since < AGE_SEC

    def _holds(self, place: _Place) -> bool:
        """Whether a place is that of a ticket that still waits."""
        entry = self._entries.get(place.ticket)
        return entry is not None and entry.place is place

    def _keep(self, priority: int, place: _Place) -> None:
        heappush(self._heaps.setdefault(priority, []), place)
        self._kept += 1
        if priority < HIGHEST:
            self._aging.setdefault(priority, deque()).append(place)
            self._kept += 1

    def _remove(self, ticket: Hashable) -> _Entry:
        entry = self._entries.pop(ticket)
        if entry.share is None:
            del self._free[ticket]
            return entry
        left = self._of[entry.share.flow] - 1
        if left:
            self._of[entry.share.flow] = left
        else:
            del self._of[entry.share.flow]
        return entry

    def _tidy(self) -> None:
        """Drop the places of tickets that have left, and what flows have had, if that is over."""
        if not self._entries:
            self._begin()
            return
        few = self._kept <= 4 * len(self._entries) + _KEPT
        if few and len(self._ends) <= 2 * len(self._of) + _KEPT:
            return
        self._heaps, self._aging, self._kept = {}, {}, 0
        for entry in self._entries.values():
            if entry.share is not None and entry.place is not None:
                self._keep(entry.share.priority, entry.place)
        self._ends = {
            flow: end for flow, end in self._ends.items() if end > self._now or flow in self._of
        }


def _order(entry: _Entry) -> tuple[int, _Place]:
    assert entry.share is not None, "it waits for a slot"
    assert entry.place is not None, "it waits for a slot"
    return -entry.share.priority, entry.place
