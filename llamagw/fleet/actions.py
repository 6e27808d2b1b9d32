"""
The scheduler's actions, and the errors with which it rejects requests.

When each is due is decided in scheduler.py.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from llamagw.errors import (
    GatewayError,
    ModelNotLoaded,
    ModelUnavailable,
    ServerBusy,
    ShuttingDown,
)
from llamagw.fleet.model import Model, Status, Why
from llamagw.launch import Need


class Admit(NamedTuple):
    """Give the waiter its lease."""

    ticket: Hashable


class Reject(NamedTuple):
    """Fail the waiter with an error."""

    ticket: Hashable
    error: GatewayError


@dataclass(frozen=True, slots=True)
class Start:
    """
    Start the model's backend; `Scheduler.loaded` or `Scheduler.exited` must follow.

    :ivar need: of what it may take, that which there is room for; None if bytes are not counted. It
        is not compared
    """

    key: str
    need: Need | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Stop:
    """
    Stop the model's backend; `Scheduler.exited` must follow.

    :ivar why: for the log; it is no part of the decision, and not compared
    :ivar room_for: the name of the model that gets its room; "" if no model waits for that
    """

    key: str
    why: Why = field(default=Why.ASKED, compare=False)
    room_for: str = field(default="", compare=False)


class Kill(NamedTuple):
    """End the model's backend at once, stopping or not; `Scheduler.exited` must follow."""

    key: str


Action = Admit | Reject | Start | Stop | Kill


def in_words(stop: Stop, idle_sec: float, stays: bool) -> str:
    """
    Why a backend is stopped, to follow "stopping <name>".

    :param idle_sec: its model's ``idle_unload_sec``
    :param stays: whether its model is still configured
    """
    if stop.why is Why.ROOM:
        if stop.room_for:
            return f" to make room for {stop.room_for}"
        return ": more is in memory than there is room for"
    if stop.why is Why.RELOAD:
        return f": {'changed' if stays else 'removed'} by a reload"
    return {
        Why.ASKED: ": asked by POST /models/unload",
        Why.IDLE: f": idle for {idle_sec:g} s",
        Why.END: ": the gateway is stopping",
    }[stop.why]


def shutting_down() -> GatewayError:
    """For requests that wait or arrive while the gateway drains."""
    return ShuttingDown("The gateway is shutting down.", retry_after=5)


def queue_full(model: Model) -> GatewayError:
    """For a request that arrives while ``max_queue`` requests wait."""
    return ServerBusy(
        f"{len(model.waiting)} requests wait for the model `{model.name}` already.",
        retry_after=5,
    )


def unloaded_by_force(model: Model) -> GatewayError:
    """For the waiters of a model that is unloaded by force."""
    return ModelUnavailable(
        f"The model `{model.name}` was unloaded by force.", param="model", retry_after=1
    )


def not_loaded(model: Model) -> GatewayError:
    """For a request that must not load the model, which is not ready."""
    how = {
        Status.LOADING: " (it is loading)",
        Status.READY: " (it is being unloaded)",
        Status.STOPPING: " (it is being unloaded)",
    }.get(model.status, "")
    if model.failed:
        how = " (it has failed)"
    return ModelNotLoaded(
        f"The model `{model.name}` is not loaded{how}. A GET does not load it: add "
        "?autoload=true, or POST /models/load.",
        param="model",
    )
