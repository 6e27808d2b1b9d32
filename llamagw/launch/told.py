"""
What an engine says of its memory while it loads: its lines about buffers at ``-lv 4``.

Written from the output of build 10068 (src/llama-model.cpp, llama-kv-cache.cpp, llama-context.cpp
of llama.cpp). Its lines are read only until it is ready: from there on clients can make it print
any text. Which lines people see is for quiet.py.
"""

from __future__ import annotations

import re

from llamagw.models import HOST, MOST, Held

#: Bytes of a line that are looked at, and devices that are told apart.
_LOOKED_AT, _MOST_DEVICES = 512, 32

#: ``load_tensors:   CPU_Mapped model buffer size =    92.10 MiB``: who says it, the kind of buffer
#: (ggml's name), what it is for, and MiB.
_BUFFER = re.compile(
    rb"(\w{1,40}): +(\w{1,40}(?:\[[\w.:-]{1,80}\])?) +(\w{1,20}) buffer size = +"
    rb"(\d{1,9}\.\d{1,4}) MiB"
)

#: ``using device RPC1 (127.0.0.1:22016)``: what a buffer of another machine is called by its place.
_DEVICE = re.compile(rb"using device (\w{1,40}) \(([\w.\[\]:-]{1,100})\)")

#: What ggml calls memory of the host: plain, arranged anew, pinned for a GPU; Apple's GPUs' too.
_OF_HOST = re.compile(rb"(?:CPU|AMX|BLAS|MTL|Metal)\w*|\w+_Host")

#: Memory that is mapped from files, or the view of it that a GPU in the same memory has: not the
#: run's own.
_MAPPED = b"_Mapped"

#: How the engine's dry run ends (``--fit``): its buffers, which it says at ``-lv 5``, are none.
_DRY_RUN_ENDS = b"memory breakdown [MiB]"

#: A context with buffers of its own begins; a draft model has one too. What is said again within
#: it was made anew.
_CONTEXT = b"constructing llama_context"

#: The bytes by which a line is worth a closer look.
_WORTH = re.compile(
    rb" buffer size = |using device |constructing llama_context|memory breakdown \[MiB\]"
)


class Told:
    """The memory that one engine has said it takes, while it loads."""

    def __init__(self) -> None:
        self._devices: dict[str, Held] = {}
        #: Bytes to compute with, of the context that was begun last, by who says it and the buffer.
        self._compute: dict[tuple[bytes, bytes], int] = {}
        #: Names of devices by their place.
        self._places: dict[bytes, str] = {}

    def __repr__(self) -> str:
        return f"<Told: {self._devices}>"

    def line(self, raw: bytes) -> None:
        """
        Hear a line.

        :param raw: as the engine printed it, without the line break
        """
        found = _WORTH.search(raw)
        if found is None:
            return
        start = raw[:_LOOKED_AT]
        if found[0] == _CONTEXT:
            self._end_context()
        elif found[0] == _DRY_RUN_ENDS:
            self._devices.clear()
            self._compute.clear()
        elif found[0] == b"using device ":
            device = _DEVICE.search(start)
            if device and len(self._places) < _MOST_DEVICES:
                self._places[device[2]] = device[1].decode()
        else:
            buffer = _BUFFER.search(start)
            if buffer:
                self._buffer(buffer[1], buffer[2], buffer[3], float(buffer[4]))

    def devices(self) -> dict[str, Held]:
        """
        What it has said so far, by name of the device, without what is mapped.

        :return: without `base`; empty if it has said nothing, as it does at ``-lv 3``
        """
        self._end_context()
        return dict(self._devices)

    def _buffer(self, who: bytes, name: bytes, what: bytes, mib: float) -> None:
        size = min(round(mib * 2**20), MOST)
        if what == b"compute":
            if len(self._compute) < _MOST_DEVICES:
                self._compute[who, name] = size
        elif what in (b"model", b"LoRA"):
            self._add(name, Held(model=size))
        else:
            self._add(name, Held(kv=size))

    def _end_context(self) -> None:
        for (_, name), size in self._compute.items():
            self._add(name, Held(compute=size))
        self._compute.clear()

    def _add(self, name: bytes, more: Held) -> None:
        device = self._device(name)
        if name.endswith(_MAPPED):
            more = Held()
        if device in self._devices or len(self._devices) < _MOST_DEVICES:
            had = self._devices.get(device, Held())
            self._devices[device] = Held(
                had.model + more.model, had.kv + more.kv, had.compute + more.compute
            )

    def _device(self, name: bytes) -> str:
        if _OF_HOST.fullmatch(name):
            return HOST
        name, bracket, place = name.partition(b"[")
        known = self._places.get(place.rstrip(b"]")) if bracket else None
        return known or name.removesuffix(_MAPPED).removesuffix(b"_Private").decode()
