"""
The last requests for models, for whoever looks: a ring of their records.

What was asked and answered is not in it: capture.py has that. A record is kept as MessagePack, in
memory that is used again and again: a thousand records kept as objects, whose parts lie anywhere,
made every request 4 % slower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from llamagw.observe.capture import Capture
from llamagw.observe.record import Record
from llamagw.text import harmless

#: Characters of a path, and of a reason, that are kept.
PATH, REASON = 200, 500

#: The trace of a record is not kept: it is of no type that MessagePack has.
_pack = msgspec.msgpack.Encoder(enc_hook=lambda _: None).encode_into
_unpack = msgspec.msgpack.Decoder(Record).decode


class Activity:
    """
    The last records.

    :param size: how many are kept
    :ivar capture: keeps the content of some of their requests
    """

    def __init__(self, size: int, capture: Capture) -> None:
        self.capture = capture
        #: The packed records; the one at `_next` is the oldest, once there are `_size`.
        self._ring: list[bytearray] = []
        self._next = 0
        self._size = size

    def __repr__(self) -> str:
        return f"<Activity: {len(self._ring)} of {self._size}>"

    def resize(self, size: int) -> None:
        """Keep so many from now on; of more the oldest are dropped."""
        if size != self._size:
            newest = [packed for packed, _ in zip(self._newest(), range(size), strict=False)]
            self._ring, self._next, self._size = newest[::-1], 0, size

    def add(self, record: Record) -> None:
        """Keep a record, if its request asked for a model."""
        if record.asked is None:
            return
        if len(record.path) > PATH or len(record.reason) > REASON:
            record.path, record.reason = record.path[:PATH], record.reason[:REASON]
        if not self._size:
            return
        is_full = len(self._ring) == self._size
        packed = self._ring[self._next] if is_full else bytearray()
        try:
            _pack(record, packed)
        except UnicodeEncodeError:
            # Half of a character, such as Python has for bytes that are no UTF-8.
            record.asked = harmless(record.asked, PATH)
            record.reason = harmless(record.reason, REASON)
            _pack(record, packed)
        if not is_full:
            self._ring.append(packed)
            self._next = len(self._ring) - 1
        self._next = (self._next + 1) % self._size

    def _newest(self) -> Iterator[bytearray]:
        for number in range(1, len(self._ring) + 1):
            yield self._ring[self._next - number]

    def entries(
        self,
        since_epoch: float,
        *,
        model: str | None = None,
        status: int | None = None,
        outcome: str | None = None,
        since: float = 0.0,
        count: int,
        told: Callable[[Record], bool] | None = None,
    ) -> list[dict[str, Any]]:
        """
        What is told of them, newest first.

        :param since_epoch: seconds since the epoch at which the reactor's clock was 0
        :param model: only those for this model, by the name asked or the configured one
        :param status: only those with this status
        :param outcome: only those with this value of `Outcome`
        :param since: only those that ended after this time, in seconds since the epoch
        :param count: so many at most
        :param told: says which may be told; None for all
        """
        found: list[dict[str, Any]] = []
        for packed in self._newest():
            record = _unpack(packed)
            if len(found) >= count or record.last + since_epoch <= since:
                break
            if (
                model in (None, record.model, record.asked)
                and status in (None, record.status)
                and outcome in (None, record.outcome.value)
                and (told is None or told(record))
            ):
                found.append(self.entry(record, since_epoch))
        return found

    def entry(self, record: Record, since_epoch: float) -> dict[str, Any]:
        """What is told of a record: as by the function `entry`, and whether it has content."""
        return {**entry(record, since_epoch), "captured": record.captured in self.capture}

    def find(self, request_id: str) -> Record | None:
        """The last record with this id; None without one."""
        text = request_id.encode()
        found = (_unpack(packed) for packed in self._newest() if text in packed)
        return next((record for record in found if record.id == request_id), None)


def entry(record: Record, since_epoch: float) -> dict[str, Any]:
    """
    A record as JSON has it: times in seconds since the epoch, durations in seconds.

    :param since_epoch: seconds since the epoch at which the reactor's clock was 0
    """
    arrived = record.last if record.arrived is None else record.arrived
    told = {
        **beginning(record, since_epoch),
        "status": record.status or None,
        "outcome": record.outcome.value,
        "error": record.error or None,
        "reason": harmless(record.reason, REASON) or None,
        "tries": record.tries,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "waited_sec": round(record.waited, 6),
        "load_sec": round(record.load_sec, 6),
        "first_byte_sec": None if record.first is None else round(record.first - arrived, 6),
        "total_sec": round(record.last - arrived, 6),
    }
    usage = record.usage
    if usage is not None:
        told["tokens"] = {
            "prompt": usage.prompt,
            "cached": usage.cached,
            "completion": usage.completion,
        }
        told["prompt_sec"] = usage.prompt_sec
        told["completion_sec"] = usage.completion_sec
    return told


def beginning(record: Record, since_epoch: float) -> dict[str, Any]:
    """
    What is told of a request as soon as it has arrived; see `entry`.

    :param since_epoch: seconds since the epoch at which the reactor's clock was 0
    """
    arrived = record.last if record.arrived is None else record.arrived
    return {
        "id": record.id,
        "time": round(arrived + since_epoch, 3),
        "client": record.client,
        "key": record.key or None,
        "method": harmless(record.method.decode(errors="replace"), 20),
        "path": harmless(record.path.decode(errors="replace"), PATH),
        "asked": harmless(record.asked or "", PATH),
        "model": record.model or None,
        "stream": record.stream,
    }
