"""
What one run of an engine teaches about the memory that the next one will take.

When it is ready, from what it said (told.py) and from what the system says of it; when it is over,
from the most that it had in use. The figures are kept by models/learned.py.
"""

from __future__ import annotations

from msgspec.structs import replace

from llamagw.launch.base import Memory
from llamagw.launch.told import Told
from llamagw.models import HOST, Held, Learned


class Lesson:
    """
    Learns from one run.

    :param learned: keeps what is learned
    :param key: what the run was started with, as `Need.key`
    :ivar told: gets the lines of an engine that loads; None when it is ready
    """

    def __init__(self, learned: Learned, key: str) -> None:
        self.told: Told | None = None
        self._learned = learned
        self._key = key
        #: The most bytes of its own that were seen on the host; None until it is ready.
        self._most: int | None = None

    def __repr__(self) -> str:
        return f"<Lesson {self._key}: {self._most}>"

    def begin(self) -> Told:
        """
        Listen to a process that starts; what an earlier one has said does not count.

        :return: gets its lines
        """
        self.told = Told()
        return self.told

    def ready(self, memory: Memory | None) -> None:
        """
        Learn from a run that takes its first request.

        :param memory: what it has in use now
        """
        if self.told is None:
            return
        told, self.told = self.told.devices(), None
        if not told or any(name.endswith("_Split") for name in told):
            # Nothing was said, or not of which GPU (rows of one matrix may be on several).
            return
        # What it computes with has not been touched yet.
        host = told.get(HOST, Held())
        if memory is not None and memory.anon is not None:
            host = replace(host, base=max(0, memory.anon - host.model - host.kv))
        self._learned.add(self._key, {**told, HOST: host})
        self._most = 0

    def seen(self, memory: Memory) -> None:
        """
        Look at what it has in use; before it is ready, that says nothing.

        :param memory: by the system
        """
        if self._most is not None:
            self._most = max(self._most, memory.anon or 0)

    def over(self) -> None:
        """Learn from a run that has ended: the most that it had in use."""
        if self._most:
            self._learned.raise_to(self._key, {HOST: self._most})
