"""
Which models may be pinned while the gateway runs.

What a pin does is the scheduler's part. For the pins of the configuration, config/rules.py has the
same rule: one model that is not pinned must have room.
"""

from __future__ import annotations

from collections.abc import Iterable

from llamagw.errors import BadRequest
from llamagw.fleet.model import Model


def check(model: Model, pinned: bool, models: Iterable[Model], limit: int) -> None:
    """
    Check that a model may be pinned, or unpinned.

    :param pinned: which of the two
    :param models: all of the scheduler's
    :param limit: how many may be in memory at once
    :raises BadRequest: if it takes no room here, or its pin would leave none for the others
    """
    if model.takes_no_room:
        raise BadRequest(
            f"The model `{model.name}` lives elsewhere and takes no memory here; it is never "
            "evicted, and cannot be pinned.",
            param="model",
        )
    if pinned and not model.pinned and too_many(models, limit, more=1):
        count = sum(each.pinned for each in _local(models))
        already = f"{count} {'is' if count == 1 else 'are'} pinned already and " if count else ""
        raise BadRequest(
            f"`{model.name}` cannot be pinned: {already}max_loaded_models is {limit}, so that no "
            f"other model could be loaded any more; {'unpin one, or ' if count else ''}raise "
            "max_loaded_models.",
            param="model",
        )


def too_many(models: Iterable[Model], limit: int, more: int = 0) -> bool:
    """
    Whether so many models are pinned that there is never room for another one.

    The first two parameters are those of `check`.

    :param more: how many are to be pinned as well
    """
    local = _local(models)
    pinned = sum(model.pinned for model in local) + more
    return pinned > 0 and pinned + (pinned < len(local)) > limit


def _local(models: Iterable[Model]) -> list[Model]:
    return [model for model in models if not (model.takes_no_room or model.retired)]
