"""
The queue of one model: which requests wait for it, since when, and in which order they are served.

When a queue is served is scheduler.py's decision; which models there is room for, room.py's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator


class Line:
    """The tickets of the requests that wait for one model, in the order of their arrival."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        # Not a dict: finding its first key takes time linear in the keys deleted before it.
        self._since: OrderedDict[Hashable, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Line {list(self._since)}>"

    def __len__(self) -> int:
        return len(self._since)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._since)

    def __contains__(self, ticket: object) -> bool:
        return ticket in self._since

    @property
    def since(self) -> float:
        """When the first ticket joined, in seconds on the scheduler's clock; must not be empty."""
        return next(iter(self._since.values()))

    def place(self, ticket: Hashable) -> int:
        """
        The place of a ticket in the line, from 1; walks past those before it.

        :raises ValueError: if the ticket is not in the queue
        """
        return list(self._since).index(ticket) + 1

    def join(self, ticket: Hashable, now: float) -> None:
        """
        Add a ticket at the end.

        :param now: seconds on the scheduler's clock
        """
        self._since[ticket] = now

    def leave(self, ticket: Hashable) -> None:
        """
        Remove one ticket.

        :raises KeyError: if the ticket is not in the queue
        """
        del self._since[ticket]

    def serve(self) -> list[Hashable]:
        """
        Remove all tickets, to be admitted.

        :return: the tickets, in the order in which they are to be served
        """
        return self.clear()

    def clear(self) -> list[Hashable]:
        """
        Remove all tickets, to be rejected or moved.

        :return: the tickets, in the order of their arrival
        """
        tickets = list(self._since)
        self._since.clear()
        return tickets
