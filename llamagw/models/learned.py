"""
What engines were seen to take in memory, by what they were started with; kept across restarts.

One small file for all gateways of a user, in the user's state folder. Each load adds to what the
file has by then; if two gateways write at the same moment, one load is forgotten. What a run is
looked at for is launch/lesson.py's, what follows from a figure is launch/placement.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct
from msgspec.structs import replace

from llamagw.models.estimate import HOST
from llamagw.state import StateFile

#: How many figures are kept; the ones that were not used for the longest are dropped.
KEPT = 256

#: By which part of the difference a peak falls, with each load, to what was seen at it.
DECAY = 0.05

#: More bytes than any machine has: what an engine says is not believed beyond.
MOST = 2**50

_Bytes = Annotated[int, Meta(ge=0, le=MOST)]
_Name = Annotated[str, Meta(min_length=1, max_length=64)]


class Held(Struct, frozen=True, omit_defaults=True):
    """
    Bytes of one device that a run held as its own when it was ready; mapped files are not among
    them, nor is the cache of earlier prompts, which is empty then.

    :ivar model: of weights
    :ivar kv: of the KV cache, and of all else that the context keeps
    :ivar compute: to compute with
    :ivar base: of the process and of the device's driver for it; None if not known
    :ivar peak: the most that was seen later, the cache of earlier prompts among it; 0 for none
    """

    model: _Bytes = 0
    kv: _Bytes = 0
    compute: _Bytes = 0
    base: _Bytes | None = None
    peak: _Bytes = 0

    @property
    def total(self) -> int:
        """All of it, without the peak."""
        return self.model + self.kv + self.compute + (self.base or 0)


class Figure(NamedTuple):
    """
    What is known from earlier loads.

    :ivar devices: bytes that a run has as its own when it is ready, by name of the device, without
        mapped files and without the cache of earlier prompts; empty if no load has told
    :ivar partial: those devices of which what the process, or the driver for it, takes is not in it
    :ivar peak: the most that is to be expected in use, all in all, by name of the device
    :ivar when: the last load, in seconds since the epoch
    :ivar loads: how many have told
    """

    devices: Mapping[str, int]
    partial: frozenset[str]
    peak: Mapping[str, int]
    when: float
    loads: int

    def need(self, cache: int) -> dict[str, int]:
        """
        What the next run is to be counted with.

        :param cache: bytes that its cache of earlier prompts may grow to, in the host's memory
        :return: bytes by name of the device
        """
        own = dict(self.devices)
        if HOST in own:
            own[HOST] += cache
        return {
            name: max(own.get(name, 0), self.peak.get(name, 0)) for name in {**own, **self.peak}
        }


class _Entry(Struct, frozen=True):
    """
    One figure of the file.

    :ivar key: what it is for
    :ivar version: of what is kept, and how
    """

    key: Annotated[str, Meta(min_length=1, max_length=200)]
    version: Literal[1]
    devices: Annotated[dict[_Name, Held], Meta(max_length=32)]
    when: Annotated[float, Meta(ge=0, le=1e12)]
    loads: Annotated[int, Meta(ge=0, le=2**53)]


class Learned:
    """
    The figures, by key: all that they depend on, as one text (``Need.key``).

    :param folder: of the file; None, or one that is not safe, for no file: then they are kept in
        memory only
    :param now: the wall clock, in seconds since the epoch
    """

    def __init__(self, folder: str | None = None, now: Callable[[], float] = time.time) -> None:
        self._file = StateFile(
            folder, "memory.json", _Entry, "some of what earlier loads took in memory is"
        )
        self._now = now
        #: The least recently used first; None before they are asked for.
        self._known: dict[str, _Entry] | None = None
        #: Those that were asked for since the last change.
        self._figures: dict[str, Figure] = {}

    def __repr__(self) -> str:
        return f"<Learned, {self._file}: {len(self._known or ())} figures>"

    def of(self, key: str) -> Figure | None:
        """
        What is known; reads the file the first time only, and is the same until something changes.

        :param key: what a run is started with; "" for what is not to be learned
        """
        found = self._figures.get(key)
        if found is None:
            if self._known is None:
                self._known = self._read() or {}
            if key in self._known:
                found = self._figures[key] = _figure(self._known[key])
        return found

    def add(self, key: str, devices: Mapping[str, Held]) -> None:
        """
        Learn what a run has, as it becomes ready.

        An earlier peak is kept, but comes `DECAY` nearer to that with each load.

        :param key: what it was started with
        :param devices: by name; their `peak` is not used
        """
        before, loads = self._before(key)
        now = {}
        for name, held in devices.items():
            held = _bounded(held)
            peak = before[name].peak if name in before else 0
            above = max(0, peak - held.total)
            now[name] = replace(held, peak=held.total + round(above * (1 - DECAY)) if above else 0)
        self._keep(key, now, loads + 1)

    def raise_to(self, key: str, devices: Mapping[str, int]) -> None:
        """
        Learn that a run took more, or that it was too little: the next one is to be counted with
        at least so much.

        :param key: what it was started with
        :param devices: bytes by name, all in all
        """
        before, loads = self._before(key)
        raised = {
            name: replace(before.get(name, Held()), peak=min(size, MOST))
            for name, size in devices.items()
            if size > max((before[name].total, before[name].peak) if name in before else (0,))
        }
        if raised:
            self._keep(key, {**before, **raised}, loads)

    def _before(self, key: str) -> tuple[Mapping[str, Held], int]:
        """What is known by now, other gateways' figures among it, and from how many loads."""
        self._known = self._read() or self._known or {}
        self._figures.clear()
        entry = self._known.get(key)
        return (entry.devices, entry.loads) if entry else ({}, 0)

    def _keep(self, key: str, devices: Mapping[str, Held], loads: int) -> None:
        known = self._known or {}
        known.pop(key, None)
        known[key] = _Entry(key, 1, dict(devices), round(self._now(), 1), loads)
        self._known = {key: known[key] for key in list(known)[-KEPT:]}
        self._file.write(list(self._known.values()))

    def _read(self) -> dict[str, _Entry] | None:
        entries = self._file.read()
        return None if entries is None else {entry.key: entry for entry in entries}


def _figure(entry: _Entry) -> Figure:
    told = {name: held for name, held in entry.devices.items() if held.total}
    return Figure(
        devices={name: held.total for name, held in told.items()},
        partial=frozenset(name for name, held in told.items() if held.base is None),
        peak={name: held.peak for name, held in entry.devices.items() if held.peak},
        when=entry.when,
        loads=entry.loads,
    )


def _bounded(held: Held) -> Held:
    """The same, with nothing beyond `MOST`."""
    base = None if held.base is None else min(held.base, MOST)
    return Held(min(held.model, MOST), min(held.kv, MOST), min(held.compute, MOST), base)
