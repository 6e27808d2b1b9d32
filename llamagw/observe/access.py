"""
The access log: one line for each request, when it has ended.

A listener of records; nothing is done for the parts of an answer.
"""

from __future__ import annotations

from twisted.logger import Logger

from llamagw.errors import SHOWN
from llamagw.observe.record import Outcome, Record
from llamagw.text import harmless

_access = Logger(namespace="llamagw.access")

#: Characters of a reason, and of a path, that are logged.
REASON, PATH = 200, 100

#: Seconds of waiting for the model from which on they are told.
WAITED = 0.01

#: The address of a client without one, which has connected to a unix socket.
HERE = "unix"

#: Clients that are not named: those of this machine.
_NOT_NAMED = (HERE, "127.0.0.1", "::1")


def log(record: Record) -> None:
    """Write the line of a request."""
    told = []
    if record.asked is not None:
        told.append(harmless(record.asked, SHOWN))
    if record.stream:
        told.append("stream")
    if record.arrived is None:
        told.append("refused")
    else:
        told.append(f"{record.last - record.arrived:.2f} s")
        if record.waited >= WAITED:
            told.append(f"waited {record.waited:.2f} s")
        if record.first is not None and record.stream:
            told.append(f"first byte {record.first - record.arrived:.2f} s")
    told += _tokens(record)
    if record.key:
        told.append(f"by {record.key}")
    if record.client not in _NOT_NAMED:
        told.append(f"from {record.client}")
    _access.info(
        "{method} {path} {outcome} {told} [{id}]{reason}",
        method=harmless(record.method.decode(errors="replace"), SHOWN) or "-",
        path=harmless(record.path.decode(errors="replace"), PATH) or "-",
        outcome=_outcome(record),
        told=", ".join(told),
        id=record.id,
        reason=f": {harmless(record.reason, REASON)}" if record.reason else "",
        record=record,
    )


def _outcome(record: Record) -> str:
    if record.outcome is Outcome.CLIENT_LEFT:
        return "left"
    if record.outcome is Outcome.BACKEND_LOST and record.status < 400:
        return "broke off"
    return str(record.status)


def _tokens(record: Record) -> list[str]:
    usage = record.usage
    if usage is None or (usage.prompt is None and usage.completion is None):
        return []
    told = [f"{usage.prompt or 0} + {usage.completion or 0} tokens"]
    if usage.completion and usage.completion_sec:
        told.append(f"{usage.completion / usage.completion_sec:.1f} tokens/s")
    return told
