"""
What is said where memory is wanting: how much, on which device, who holds it, and what would help.

Only words: who fits is decided in needs.py and plan.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llamagw.errors import GatewayError, InsufficientMemory
from llamagw.fleet.books import total
from llamagw.fleet.model import Model
from llamagw.fleet.needs import Lack
from llamagw.launch import Need
from llamagw.models import HOST
from llamagw.text import amount, harmless

#: How many names are told, and how many characters of each.
_NAMES, _NAME_LENGTH = 3, 40

#: Seconds after which it is worth asking again, if what others hold is all that is in the way.
_OTHERS_SEC = 30


def never_fits(model: Model, lacks: Sequence[Lack]) -> GatewayError:
    """
    For a model that would not fit even if all went that can go.

    :param lacks: the devices that lack memory, at least one
    """
    # Others may give back what they hold; a budget stays as it is.
    others_only = all(
        lack.need + sum(size for _, size in lack.pinned) <= lack.budget for lack in lacks
    )
    error = InsufficientMemory(
        _does_not_fit(model, lacks),
        param="model",
        retry_after=_OTHERS_SEC if others_only else None,
    )
    error.plain = _does_not_fit(model, [lack._replace(pinned=()) for lack in lacks])
    return error


def ran_out(model: Model, charge: Need, failure: GatewayError) -> GatewayError:
    """
    For a load that failed for want of memory, though it was counted as one that fits.

    :param charge: what it was counted with
    :param failure: how it ended
    """
    counted = " and ".join(
        f"{amount(size)} on {device}" for device, size in total(charge).items() if size
    )
    return InsufficientMemory(
        f"{failure.message.rstrip('.')}. It ran out of memory, though it was counted with "
        f"{counted}. {_helps(charge.devices, (), True, charge.source == 'config')}",
        param="model",
        retry_after=failure.retry_after,
    )


def _does_not_fit(model: Model, lacks: Sequence[Lack]) -> str:
    parts = [_lack(lack) for lack in lacks]
    pinned = [name for lack in lacks for name, _ in lack.pinned]
    helps = _helps((lack.device for lack in lacks), pinned, any(lack.others for lack in lacks))
    name = harmless(model.name, _NAME_LENGTH)
    return (
        f"The model `{name}` does not fit into memory: {'; '.join(parts)}. {helps} What fits is "
        f"told by `llamagw fit`. If it takes less in truth, say so with `memory:` of the model, or "
        f"try it with `llamagw load --anyway`."
    )


def _lack(lack: Lack) -> str:
    """Who has what of a device."""
    held = [f"{amount(lack.others)} are held by others"] if lack.others else []
    if lack.pinned:
        told = [f"`{harmless(n, _NAME_LENGTH)}` {amount(size)}" for n, size in lack.pinned]
        more = len(told) - _NAMES
        told = told[:_NAMES] + ([f"{more} more"] if more > 0 else [])
        held.append(f"pinned are {', '.join(told)}")
    of_that = f", of which {' and '.join(held)}" if held else ""
    needed = f"it needs {amount(lack.need)} on {lack.device}"
    return f"{needed}, and {amount(lack.budget)} may be used there{of_that}"


def _helps(
    devices: Iterable[str], pinned: Sequence[str], others: bool, is_set: bool = False
) -> str:
    """
    What would help, as a sentence.

    :param is_set: the user has said what it takes, and it was too little
    """
    on = set(devices)
    ways = []
    if on - {HOST}:
        ways.append("fewer gpu_layers (or auto)")
    ways += ["a smaller context_size", "a cache of type q8_0 (--cache-type-k, --cache-type-v)"]
    if HOST in on:
        ways.append("a smaller prompt_cache_mb")
    if pinned:
        names = ", ".join(f"`{harmless(name, _NAME_LENGTH)}`" for name in pinned[:_NAMES])
        ways.append(f"unpinning {names}")
    if others:
        ways.append("ending what else takes memory there")
    if is_set:
        ways.append("a larger `memory:` of the model")
    return f"What would help: {', '.join(ways)}."
