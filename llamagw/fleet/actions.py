"""
The scheduler's actions, and the errors with which it rejects requests.

When each is due is decided in scheduler.py.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from llamagw.errors import (
    GatewayError,
    ModelNotLoaded,
    ModelUnavailable,
    ServerBusy,
    ShuttingDown,
)
from llamagw.fleet.room import Model, Status


class Admit(NamedTuple):
    """Give the waiter its lease."""

    ticket: Hashable


class Reject(NamedTuple):
    """Fail the waiter with an error."""

    ticket: Hashable
    error: GatewayError


class Start(NamedTuple):
    """Start the model's backend; `Scheduler.loaded` or `Scheduler.exited` must follow."""

    key: str


class Stop(NamedTuple):
    """Stop the model's backend; `Scheduler.exited` must follow."""

    key: str


class Kill(NamedTuple):
    """End the model's backend at once, stopping or not; `Scheduler.exited` must follow."""

    key: str


Action = Admit | Reject | Start | Stop | Kill


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
