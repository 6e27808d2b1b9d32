"""Reads the file of keys again when it has changed; one with faults changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from llamagw.config import Config, ConfigError
from llamagw.gate.keyring import Keyring, read_keyring

_log = Logger(namespace="llamagw")

#: Seconds between two looks at the file.
LOOK_SEC = 2.0

#: What tells two states of a file apart; None if it cannot be read.
_Stamp = tuple[int, int, int, int] | None


class Watch:
    """
    Looks at the file of ``keys_file``.

    :param keep: takes the keys when they have been read again
    :param clock: the reactor, or a Clock
    :param in_thread: calls a function in a thread; the Deferred fires in the reactor's
    """

    def __init__(
        self,
        keep: Callable[[Keyring | None], None],
        clock: IReactorTime,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._keep = keep
        self._in_thread = in_thread
        self._config: Config | None = None
        self._seen: _Stamp = None
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def __repr__(self) -> str:
        return f"<Watch of {None if self._config is None else self._config.keys_file}>"

    def apply(self, config: Config) -> None:
        """Look at the file of a configuration from now on; its keys have been read."""
        self._config = config
        if config.keys_file is None:
            if self._looking.running:
                self._looking.stop()
            return
        # As it was a moment after it was read: what was changed in between is read at the next
        # reload. A look compares with this.
        self._seen = _stamp(config.keys_file)
        if not self._looking.running:
            self._looking.start(LOOK_SEC, now=False)

    async def _look(self) -> None:
        config, seen = self._config, self._seen
        assert config is not None, "it is applied before the first look"
        try:
            found = await self._in_thread(lambda: _changed(config, seen))
        except ConfigError as error:
            for line in str(error).splitlines():
                _log.error("{line}", line=line)
            _log.error("the file of keys was not read again; the keys stay as they were")
            found = None
            seen = _stamp(str(config.keys_file))
        except Exception:
            _log.failure("the file of keys cannot be looked at")
            return
        if self._config is not config:
            return  # a reload was quicker
        if found is None:
            self._seen = seen
            return
        self._seen, keyring = found
        self._keep(keyring)
        _log.info("the file of keys was read again: {keys}", keys=_count(len(keyring or ())))


def _changed(config: Config, seen: _Stamp) -> tuple[_Stamp, Keyring | None] | None:
    """
    The keys, if the file is another than before; runs in a thread.

    :raises ConfigError: if it has faults
    """
    # Before it is read: a change in between is seen at the next look.
    stamp = _stamp(str(config.keys_file))
    return None if stamp == seen else (stamp, read_keyring(config))


def _stamp(path: str) -> _Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def _count(number: int) -> str:
    return "1 key" if number == 1 else f"{number} keys"
