"""
Looks from time to time whether the files of ``tls:`` have changed, and reads them again.

A pair that cannot be used, such as one that is half written, is told once; the one in use stays,
and the files are read again at the next look. They are looked at in a thread, since their disk may
be another machine's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from llamagw.config import TlsEntry
from llamagw.net.certificates import Stamp, Tls, TlsFault, read_tls, stamps_of

_log = Logger(namespace="llamagw.tls")

#: Seconds between two looks.
LOOK_SEC = 10.0


class Renewal:
    """
    The files of the certificate in use.

    :param clock: times the looks
    :param in_thread: calls a function in a thread; the Deferred fires in the reactor's
    :param use: called with what was read again; whether it is in use then
    """

    def __init__(
        self,
        clock: IReactorTime,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        use: Callable[[Tls], object],
    ) -> None:
        self._clock = clock
        self._in_thread = in_thread
        self._use = use
        self._timer: IDelayedCall | None = None
        self._told = ""
        #: What is followed; a look that was begun for another one comes to nothing.
        self._following: tuple[str, TlsEntry] | None = None
        self._stamps: dict[str, Stamp] = {}

    def __repr__(self) -> str:
        return f"<Renewal of {'nothing' if self._following is None else self._following[1].cert}>"

    def follow(self, listen_addr: str, files: TlsEntry | None, tls: Tls | None) -> None:
        """
        Look after these files from now on, in place of others.

        :param listen_addr: where they are used
        :param files: the value of ``tls:``; None to look after none
        :param tls: what was read of them
        """
        self.stop()
        if files is not None and tls is not None:
            self._following, self._stamps = (listen_addr, files), tls.stamps
            self._timer = self._clock.callLater(LOOK_SEC, self._look)

    def stop(self) -> None:
        """Look after nothing."""
        self._following, self._told = None, ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        Deferred.fromCoroutine(self._read_again())

    async def _read_again(self) -> None:
        following = self._following
        assert following is not None, "a timer is set only while some are followed"
        found: Tls | TlsFault | None
        try:
            stamps = self._stamps
            found = await self._in_thread(lambda: _changed(*following, stamps))
        except TlsFault as fault:
            found = fault
        except Exception:
            _log.failure("the certificate could not be looked at")
            found = None
        if self._following is not following:
            return
        if isinstance(found, TlsFault):
            self._tell(f"{found.place}: {found}")
        elif found is not None:
            self._stamps, self._told = found.stamps, ""
            self._use(found)
            _log.info("the files of tls have changed: {told}", told=found.told)
            for warning in found.warnings:
                _log.warn("{warning}", warning=warning)
        self._timer = self._clock.callLater(LOOK_SEC, self._look)

    def _tell(self, line: str) -> None:
        if line != self._told:
            self._told = line
            _log.warn("{line}; the certificate in use stays, and this is tried again", line=line)


def _changed(listen_addr: str, files: TlsEntry, stamps: dict[str, Stamp]) -> Tls | None:
    """
    What TLS is spoken with, if its files have changed; None if they have not.

    :raises TlsFault: if they cannot be used
    """
    return None if stamps_of(files) == stamps else read_tls(listen_addr, files)
