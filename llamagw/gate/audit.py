"""
The audit: a line for each order, each refused request, and each change of the keys.

Who, from where, what, and how it ended; no secrets. The lines go to the log, or to a file of their
own as JSON. A listener of records: nothing is done for a request that only uses a model.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from llamagw.config import Config, KeyEntry
from llamagw.dialects import ROUTES, Scope, scope_of
from llamagw.errors import SHOWN
from llamagw.gate.keyring import Keyring
from llamagw.listeners import Listeners
from llamagw.observe import Record
from llamagw.text import harmless

_log = Logger(namespace="llamagw.audit")

#: The statuses of requests that were refused for want of a right.
_REFUSED = frozenset({401, 403, 429})

#: How many refusals are told in so many seconds; of the others their number.
MOST_REFUSALS, SPAN_SEC = 50, 10.0

#: The paths of requests that only use a model, as most clients write them.
_MODELS_OWN = frozenset(
    path.encode()
    for route in ROUTES
    if route.scope is Scope.INFER and route.methods == ("POST",)
    for path in route.paths
)

#: What one begins or ends as who one is.
_SESSIONS = frozenset({b"/ui/login", b"/ui/logout"})

#: Characters of a path, and of a reason, that are told; and how many names of keys.
_PATH, _REASON, _NAMES = 200, 300, 20

#: A secret in a path, where it does not belong.
_SECRET = re.compile(r"lgw_[A-Za-z0-9_-]+")


class Audit:
    """
    Tells who does what.

    :param clock: the reactor, or a Clock
    :param records: tells of each request that has ended
    """

    def __init__(self, clock: IReactorTime, records: Listeners[Record]) -> None:
        self._clock = clock
        self._records = records
        self._deaf: Callable[[], None] | None = None
        self._path: str | None = None
        self._file: int | None = None
        self._keys: Mapping[str, KeyEntry] = {}
        self._since = float("-inf")
        self._refusals = 0

    def __repr__(self) -> str:
        return f"<Audit {'off' if self._deaf is None else 'to ' + (self._path or 'the log')}>"

    def apply(self, config: Config) -> None:
        """
        Begin to tell, or end, as a configuration says.

        A file is opened anew, since it may have been moved. One that cannot be opened is told once,
        and the lines go to the log.
        """
        wanted = config.wants_keys or config.audit_log is not None
        if wanted and self._deaf is None:
            self._deaf = self._records.add(self.tell)
        elif not wanted and self._deaf is not None:
            self._deaf()
            self._deaf = None
        if self._file is not None:
            os.close(self._file)
        self._path, self._file = config.audit_log, None
        if self._path is not None:
            try:
                self._file = _opened(self._path)
            except OSError as error:
                _log.error(
                    "audit_log: {path} cannot be opened: {why}; its lines are here",
                    path=self._path,
                    why=error.strerror,
                )

    def keys(self, keyring: Keyring | None) -> None:
        """Tell what has changed, now that the keys were read; not of those that are read first."""
        before, self._keys = self._keys, {} if keyring is None else keyring.entries
        if self._deaf is None or not before:
            return
        gone = [name for name in before if name not in self._keys]
        new = [name for name in self._keys if name not in before]
        other = [name for name, one in self._keys.items() if before.get(name, one) != one]
        if gone or new or other:
            self._write("keys", {"added": new, "changed": other, "removed": gone})

    def tell(self, record: Record) -> None:
        """Tell of a request that has ended, if it is one to be told of."""
        if record.path in _MODELS_OWN and record.status not in _REFUSED:
            return  # nearly all of them
        refused = record.status in _REFUSED and bool(record.error)
        if not refused and not _is_order(record):
            return
        if refused and not self._has_place():
            return
        self._write(
            "refused" if refused else "order",
            {
                "key": record.key or None,
                "client": record.client,
                "method": harmless(record.method.decode(errors="replace"), SHOWN),
                "path": _shown(record.path),
                "model": None if record.asked is None else harmless(record.asked, SHOWN),
                "status": record.status,
                "reason": harmless(record.reason, _REASON) or None,
                "id": record.id,
            },
        )

    def _has_place(self) -> bool:
        """Whether one more refusal is told; when a span is over, how many were not."""
        now = self._clock.seconds()
        if now - self._since >= SPAN_SEC:
            left_out = self._refusals - MOST_REFUSALS
            self._since, self._refusals = now, 0
            if left_out > 0:
                self._write("refused", {"more": left_out})
        self._refusals += 1
        return self._refusals <= MOST_REFUSALS

    def _write(self, what: str, told: dict[str, Any]) -> None:
        if self._file is None:
            _log.info("{line}", line=_line(what, told), audit={"audit": what, **told})
            return
        moment = datetime.fromtimestamp(time.time(), timezone.utc).isoformat(
            timespec="milliseconds"
        )
        line = msgspec.json.encode({"time": moment, "audit": what, **told}) + b"\n"
        try:
            os.write(self._file, line)
        except OSError as error:
            _log.error(
                "{path} cannot be written: {why}; {line}",
                path=self._path,
                why=error.strerror,
                line=_line(what, told),
            )


def _opened(path: str) -> int:
    """A file to be appended to, which its owner alone can read."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_order(record: Record) -> bool:
    """Whether a request changes what runs, or who is logged in."""
    if record.path in _SESSIONS:
        return True
    method = record.method.decode("latin-1")
    path = unquote(record.path.decode("latin-1"), "latin-1")
    return method != "OPTIONS" and scope_of(method, path) is Scope.MANAGE


def _shown(path: bytes) -> str:
    text = unquote(path.decode(errors="replace"))
    return _SECRET.sub("lgw_***", harmless(text, _PATH))


def _line(what: str, told: Mapping[str, Any]) -> str:
    """What is told, for people."""
    if what == "keys":
        parts = [f"{kind} {_listed(names)}" for kind, names in told.items() if names]
        return f"keys: {'; '.join(parts)}"
    if "more" in told:
        return f"{told['more']} more requests were refused"
    who = f"key {told['key']}" if told["key"] else "nobody" if what == "refused" else "anybody"
    model = f" {told['model']}" if told["model"] else ""
    reason = f": {told['reason']}" if told["reason"] else ""
    return (
        f"{who} from {told['client']}: {told['method']} {told['path']}{model} "
        f"{told['status']} [{told['id']}]{reason}"
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")
