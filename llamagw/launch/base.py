"""
What a launcher is, whatever it launches: a process here, a server elsewhere, a node of a cluster.

Only protocols and plain values. Above this room nobody asks which kind of launcher there is: what
differs is said here, by a `Launcher` of an instance and by each `Run` of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from twisted.internet.defer import Deferred

from llamagw.net import Address

#: What a local instance is, in messages.
ENGINE = "llama-server"


class Exit(NamedTuple):
    """
    The end of a run.

    :ivar how: for a person, such as "exited with status 1" or "was killed by SIGKILL"
    :ivar last_words: what it said last about why; "" if it said nothing
    :ivar code: the status that it ended with; None if it was killed, or never started
    :ivar who: what ended
    """

    how: str
    last_words: str
    code: int | None = None
    who: str = ENGINE


@runtime_checkable
class Watch(Protocol):
    """Probes under way."""

    def stop(self) -> None:
        """Probe no more, and report nothing more."""


class Run(Protocol):
    """One life of an instance, from launch to exit."""

    @property
    def address(self) -> Address:
        """Where it answers, or will; may change until it is ready."""

    @property
    def port(self) -> int | None:
        """Its port on this machine; None if it is not on this machine."""

    def stop(self) -> None:
        """Ask it to end, and make it end if it does not within ``stop_timeout_sec``."""

    def kill(self, why: str) -> None:
        """
        End it now.

        :param why: what it is said to have done, such as "does not answer any more"
        """

    def progress(self) -> object:
        """Opaque token that differs from the last while the run progresses (output, CPU, I/O)."""

    def await_ready(self, ready: Callable[[], None], give_up: Callable[[], None]) -> Watch:
        """
        Watch it load.

        :param ready: called once, when it takes requests
        :param give_up: called once, when it has made no progress for ``load_timeout_sec``
        """

    def broke_off(self) -> Deferred[bool]:
        """
        A request to it broke off: find out what became of it.

        :return: fires with True when it has ended, or is used no more; with False when it goes on
        """


class Launcher(Protocol):
    """
    Starts the runs of one instance.

    :ivar name: what it launches, for a person: ``llama-server``, or a URL
    :ivar takes_room: whether its runs take memory of this machine. One that takes none is launched
        whenever it does not run, and is never stopped for another model
    :ivar relaunches: whether a run that crashed is replaced by a fresh one, which is worth another
        try of the same request
    :ivar longest_backoff: seconds
    """

    name: str
    takes_room: bool
    relaunches: bool
    longest_backoff: float

    def launch(self, ended: Callable[[Exit], None]) -> Run:
        """
        Start a run.

        :param ended: called once, some time, whatever happens; never within this call
        """

    def ready_line(self, seconds: float) -> str:
        """
        What the log says of a run that has become ready.

        :param seconds: since it was launched
        """
