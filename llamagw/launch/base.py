"""
The protocols of a launcher and its runs: a local process, a remote server, a node of a cluster.

Only protocols and plain values. Code above this package does not ask for the kind of a launcher:
all that differs is an attribute or method of `Launcher` or `Run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct
from twisted.internet.defer import Deferred

from llamagw.net import Address

#: The name of a local instance's program, in messages.
ENGINE = "llama-server"


class Exit(NamedTuple):
    """
    The end of a run.

    :ivar how: for a person, such as "exited with status 1" or "was killed by SIGKILL"
    :ivar last_words: the cause, from its last lines of output; "" if it printed none
    :ivar code: its exit status; None if it was killed, or never started
    :ivar who: what ended: ``llama-server``, or a URL
    :ivar out_of_memory: whether it ended for want of memory, as far as can be seen
    """

    how: str
    last_words: str
    code: int | None = None
    who: str = ENGINE
    out_of_memory: bool = False


class Need(Struct, frozen=True, kw_only=True):
    """
    What a run takes in memory, in one of the places where it can be started.

    :ivar devices: bytes that are its own, by name of the device; the machine's own memory is
        `llamagw.models.HOST`
    :ivar files: bytes of the host's memory that are mapped from files, by what identifies each
        file: all runs that map the same one share them
    :ivar flags: for the engine's command line, which put it there
    :ivar key: all that these figures depend on, by which they are learned; "" if they are not to be
    :ivar group: needs of one group are as good as each other: the one is taken that leaves the
        least room on its devices
    :ivar source: where the figures come from
    :ivar rough: whether something was not known, so that they may be far off
    """

    devices: Mapping[str, int]
    files: Mapping[str, int] = {}
    flags: tuple[str, ...] = ()
    key: str = ""
    group: int = 0
    source: Literal["estimate", "learned", "config"] = "estimate"
    rough: bool = False


class Reading(NamedTuple):
    """
    The memory of a device, as the system or its driver says.

    :ivar total: bytes; of a container, its limit
    :ivar used: bytes that anybody has in use, and that the system cannot drop; None if not known
    """

    total: int
    used: int | None


class Memory(Struct, frozen=True, omit_defaults=True):
    """
    The memory that a run has in use on this machine, without that of its GPUs.

    :ivar rss: bytes that are resident
    :ivar anon: bytes of them that are its own, shared memory among them; None if not known
    :ivar file: bytes of them that are mapped from files, such as the weights: the system can drop
        them; None if not known
    """

    rss: int
    anon: int | None = None
    file: int | None = None


@runtime_checkable
class Watch(Protocol):
    """A series of probes that runs."""

    def stop(self) -> None:
        """Stop probing; no callback is called any more."""


class Run(Protocol):
    """One life of an instance, from launch to exit."""

    @property
    def address(self) -> Address:
        """The address that it answers at, or will; may change until it is ready."""

    @property
    def port(self) -> int | None:
        """Its port on this machine; None for a remote server."""

    def stop(self) -> None:
        """Ask it to end; kill it if it has not ended after ``stop_timeout_sec``."""

    def kill(self, why: str) -> None:
        """
        End it now.

        :param why: the reason, as a predicate for messages, such as "does not answer any more"
        """

    def progress(self) -> object:
        """Opaque token that differs from the last while the run progresses (output, CPU, I/O)."""

    def memory(self) -> Memory | None:
        """What it has in use, at most a second old; None if it has none here, or none is known."""

    def await_ready(self, ready: Callable[[], None], give_up: Callable[[], None]) -> Watch:
        """
        Probe it while it loads.

        :param ready: called once, when it takes requests
        :param give_up: called once, when it has made no progress for ``load_timeout_sec``
        :return: stops the probes
        """

    def broke_off(self) -> Deferred[bool]:
        """
        Find out whether the run has ended, after the connection of a request to it was lost.

        :return: fires with True when it has ended or is not used any more, with False when it runs
        """


class Launcher(Protocol):
    """
    Starts the runs of one instance.

    :ivar name: what it launches, in messages: ``llama-server``, or a URL
    :ivar takes_room: whether its runs take memory of this machine. If not, an instance is launched
        whenever it does not run, and is never evicted
    :ivar relaunches: whether a run that crashed is replaced by a fresh one, to which the same
        request can be sent again
    :ivar longest_backoff: the upper limit of the backoff, in seconds
    :ivar slots: how many requests a run is sent at once, of those that take a slot; None for all
    """

    name: str
    slots: int | None
    takes_room: bool
    relaunches: bool
    longest_backoff: float

    def needs(self) -> Sequence[Need]:
        """
        What its next run takes, in each of the places where it can be started, the best first.

        Cheap enough to be asked whenever it is to be started.

        :return: empty if its memory is not counted
        """

    def launch(self, ended: Callable[[Exit], None], need: Need | None = None) -> Run:
        """
        Start a run.

        :param ended: called exactly once, when the run has ended or could not be started; never
            within this call
        :param need: of `needs`, that which there is room for; None if its memory is not counted
        :return: the run, which may not have started yet
        """

    def ready_line(self, seconds: float) -> str:
        """
        The log line for a run that has become ready, as a predicate.

        :param seconds: since it was launched
        """

    def took(self, seconds: float) -> None:
        """
        Learn how long a load of it has taken.

        :param seconds: since it was launched
        """

    def fell_short(self, devices: Mapping[str, int]) -> None:
        """
        Learn that a run of it ended for want of memory.

        :param devices: bytes by device that its next run is to be counted with at the least
        """

    def usual(self) -> float | None:
        """What a load of it usually takes, in seconds; None if that is not known."""
