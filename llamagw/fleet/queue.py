"""
The line of those who wait for one model.

It knows who waits, since when, and who is served next. For which models there is room, and when a
line is served, is for room.py and scheduler.py to say.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator


class Line:
    """Those who wait for one model, in the order of their arrival."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        # Not a dict: the first entry of one is looked for among all that were deleted before it.
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
        """When the first of them came, in seconds on the scheduler's clock. Somebody must wait."""
        return next(iter(self._since.values()))

    def join(self, ticket: Hashable, now: float) -> None:
        """
        Somebody comes.

        :param now: seconds on the scheduler's clock
        """
        self._since[ticket] = now

    def leave(self, ticket: Hashable) -> None:
        """
        Somebody goes, served or not.

        :raises KeyError: if the ticket does not wait here
        """
        del self._since[ticket]

    def serve(self) -> list[Hashable]:
        """
        Let all of them in; nobody waits afterwards.

        :return: their tickets, the first to be served first
        """
        return self.clear()

    def clear(self) -> list[Hashable]:
        """
        Send all of them away; nobody waits afterwards.

        :return: their tickets, in the order of their arrival
        """
        tickets = list(self._since)
        self._since.clear()
        return tickets
