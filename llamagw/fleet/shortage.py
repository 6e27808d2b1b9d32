"""Stub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llamagw.errors import GatewayError, ModelUnavailable
from llamagw.fleet.model import Model
from llamagw.launch import Need

if TYPE_CHECKING:
    from llamagw.fleet.needs import Lack


def never_fits(model: Model, lacks: Sequence[Lack]) -> GatewayError:
    """For a model that never fits."""
    return ModelUnavailable(f"The model `{model.name}` never fits: {lacks}.", param="model")


def ran_out(model: Model, charge: Need, failure: GatewayError) -> GatewayError:
    """For a load that failed for want of memory."""
    return failure
