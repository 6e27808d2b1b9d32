"""
Which models of a configuration fit into memory together, and which never do.

Judges only, before anything is started: what each takes comes from known.py. What is in memory, and
what others hold there, does not matter here; that is for the scheduler.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from llamagw.config import CACHE_MB, Config, LocalModel
from llamagw.launch.advice import Note
from llamagw.launch.base import Need
from llamagw.models import HOST
from llamagw.text import amount, harmless

#: What a run of a model takes, in each place where it can be started; empty if it is not counted.
NeedsOf: TypeAlias = Callable[[LocalModel], Sequence[Need]]

#: Of so many models, every set is tried.
MOST_MODELS = 12

#: Places that are tried for an answer; and models of which it is asked at most.
_MOST_STEPS, _DEEPEST = 100_000, 200

#: What a context that would fit is a multiple of.
_STEP = 1024

#: Problems that are told.
_MOST_PROBLEMS = 100

#: Names that a message lists, and characters of a device's.
_NAMED, _DEVICE = 5, 40


class TooMany(Exception):
    """There are too many ways to place these models to try all."""


class Set(NamedTuple):
    """
    Models that fit into memory together.

    :ivar names: in the order of the configuration
    :ivar taken: bytes by device
    """

    names: list[str]
    taken: dict[str, int]


class Together(NamedTuple):
    """
    Which models fit into memory together.

    :ivar budget: bytes that may be used, by device
    :ivar sets: those to which no further model can be added; the largest come first. Empty if the
        models are too many to try all
    :ivar most: how many fit if they are those that take the least
    :ivar least: how many fit if they are those that take the most
    :ivar of: how many there are
    """

    budget: dict[str, int]
    sets: list[Set]
    most: int
    least: int
    of: int


def budgets(config: Config, totals: Mapping[str, int]) -> dict[str, int]:
    """
    How much may be used of each device.

    :param totals: bytes that each has; there is no more
    """
    told = config.memory or {}
    return {
        device: max(min(told.get(device, total - config.memory_reserve), total), 0)
        for device, total in totals.items()
    }


def taken(needs: Sequence[Need], mapped: Collection[str] = ()) -> dict[str, int]:
    """
    What runs take together, in bytes by device; each file that they map counts once.

    :param mapped: files that others map already
    """
    found: dict[str, int] = {}
    files: dict[str, int] = {}
    for need in needs:
        for device, size in need.devices.items():
            found[device] = found.get(device, 0) + size
        for file, size in need.files.items():
            if file not in mapped:
                files[file] = max(files.get(file, 0), size)
    if files:
        found[HOST] = found.get(HOST, 0) + sum(files.values())
    return found


class _Search:
    """
    Finds places for models, until too many have been tried.

    :param budget: bytes of the devices; one that is not in it has no limit
    """

    def __init__(self, budget: Mapping[str, int]) -> None:
        self._budget = budget
        self._left = _MOST_STEPS

    def __repr__(self) -> str:
        return f"<_Search: {self._left} steps left>"

    def places(self, models: Sequence[Sequence[Need]]) -> list[Need] | None:
        """
        Find a place for each of some models.

        :param models: the needs of each
        :return: the need of each in its place; None if they do not fit together
        :raises TooMany: when too many places have been tried
        """
        if len(models) > _DEEPEST:
            raise TooMany
        return self._places(models, {}, frozenset())

    def _places(
        self, models: Sequence[Sequence[Need]], used: Mapping[str, int], files: frozenset[str]
    ) -> list[Need] | None:
        if not models:
            return []
        for need in models[0]:
            self._left -= 1
            if self._left < 0:
                raise TooMany
            more = taken([need], files)
            now = {**used, **{device: used.get(device, 0) + size for device, size in more.items()}}
            if any(size > self._budget.get(device, math.inf) for device, size in now.items()):
                continue
            rest = self._places(models[1:], now, files | need.files.keys())
            if rest is not None:
                return [need, *rest]
        return None


def _over(needs: Sequence[Need], budget: Mapping[str, int]) -> dict[str, int]:
    """The devices on which there is too little for all of them, and what they take there."""
    return {
        device: size for device, size in taken(needs).items() if size > budget.get(device, math.inf)
    }


def _fit(models: Sequence[Sequence[Need]], budget: Mapping[str, int]) -> bool:
    """Whether models fit together; True if that takes too long to find out."""
    try:
        return _Search(budget).places(models) is not None
    except TooMany:
        return True


# ---- Which fit together -------------------------------------------------------------------------


def together(config: Config, needs_of: NeedsOf, totals: Mapping[str, int]) -> Together | None:
    """
    Which models fit into memory together; pinned ones are in every set.

    :param totals: bytes that each device has
    :return: None if nothing is counted
    """
    if config.memory is None:
        return None
    local = [model for model in config.models if not model.remote]
    models = {model.name: needs for model in local if (needs := needs_of(model))}
    if not models:
        return None
    budget = budgets(config, totals)
    pinned = {model.name for model in local if model.pinned and model.name in models}
    sets: list[Set] = []
    if len(models) <= MOST_MODELS:
        sets = _sets(models, pinned, budget, config.limit)
    by_size = sorted(models.values(), key=lambda needs: sum(taken(needs[:1]).values()))
    least = _how_many(by_size[::-1], budget, config.limit)
    most = _how_many(by_size, budget, config.limit)
    return Together(budget, sets, most, least, len(models))


def _sets(
    models: Mapping[str, Sequence[Need]], pinned: set[str], budget: Mapping[str, int], limit: int
) -> list[Set]:
    found: list[Set] = []
    search = _Search(budget)
    for count in range(min(len(models), limit), 0, -1):
        for names in combinations(models, count):
            if not pinned <= {*names} or any({*names} <= {*one.names} for one in found):
                continue
            try:
                needs = search.places([models[name] for name in names])
            except TooMany:
                return []
            if needs is not None:
                found.append(Set([*names], taken(needs)))
    return found


def _how_many(models: Sequence[Sequence[Need]], budget: Mapping[str, int], limit: int) -> int:
    """How many fit, of those at the beginning."""
    needs: list[Need] = []
    for model in models[:limit]:
        place = next((one for one in model if not _over([*needs, one], budget)), None)
        if place is None:
            break
        needs.append(place)
    return len(needs)


# ---- Which never fit ----------------------------------------------------------------------------


def problems(config: Config, needs_of: NeedsOf, totals: Mapping[str, int]) -> Iterator[Note]:
    """
    What is to be said of models that never fit into memory, however empty that is.

    :param config: one whose memory is counted
    :param needs_of: what its models take
    :param totals: bytes that each device has
    :return: a fault of each; a warning, where what it takes is not well known
    """
    budget = budgets(config, totals)
    local = [(at, one) for at, one in enumerate(config.models) if not one.remote]
    needs = {model.name: needs_of(model) for _, model in local}
    pinned = [(at, model) for at, model in local if model.pinned and needs[model.name]]
    pinned_fit = _fit([needs[model.name] for _, model in pinned], budget)
    told = 0
    for at, model in local:
        if told == _MOST_PROBLEMS:
            return
        its = needs[model.name]
        problem = None
        if its and not _fit([its], budget):
            problem = _alone(model, its, needs_of, budget)
        elif its and pinned_fit and not model.pinned:
            others = [needs[other.name] for _, other in pinned]
            if not _fit([*others, its], budget):
                context = _context(model, needs_of, others, budget)
                problem = _beside([one for _, one in pinned], [*others, its], context, budget)
        if problem is not None:
            told += 1
            key, message = problem
            rough = any(need.rough for need in its)
            yield Note("warning" if rough else "fault", model.name, f"models[{at}].{key}", message)
    if not pinned_fit and all(_fit([needs[model.name]], budget) for _, model in pinned):
        at, model = pinned[-1]
        sums = _too_much(taken([needs[one.name][0] for _, one in pinned]), budget)
        rough = any(need.rough for _, one in pinned for need in needs[one.name])
        yield Note(
            "warning" if rough else "fault",
            model.name,
            f"models[{at}].pinned",
            f"is one too many: {_listed([one for _, one in pinned])} take {sums}; pin fewer",
        )


def _alone(
    model: LocalModel, its: Sequence[Need], needs_of: NeedsOf, budget: Mapping[str, int]
) -> tuple[str, str]:
    """The key that is at fault, and why, of a model that is too large for the whole memory."""
    best = min(its, key=lambda need: sum(_over([need], budget).values()))
    over = taken([best])
    takes = _too_much(over, budget)
    if model.memory is not None:
        return "memory", f"says that it takes {takes}"
    on_gpu = any(device != HOST for device in _over([best], budget))
    if model.context_size > _STEP:
        small = needs_of(replace(model, context_size=_STEP))
        if taken(small[:1]) == taken(its[:1]):
            return "extra_args", f"or variables give it a context with which it takes {takes}"
    fitting = _context(model, needs_of, [], budget)
    if fitting:
        return (
            "context_size",
            f"is {model.context_size}, with which it takes {takes}; {fitting} would fit",
        )
    lean = replace(model, prompt_cache_mb=0)
    if _fit([needs_of(lean)], budget):
        given = model.prompt_cache_mb
        cache = f"{CACHE_MB} by default" if given is None else str(given)
        return "prompt_cache_mb", f"is {cache}, with which it takes {takes}; 0 would fit"
    if fitting := _context(lean, needs_of, [], budget):
        return (
            "context_size",
            f"is {model.context_size}, with which it takes {takes}; {fitting} would fit with "
            "`prompt_cache_mb: 0`",
        )
    if on_gpu:
        layers = _most_layers(model, needs_of, budget)
        remedy = f"{layers} would fit" if layers is not None else "lower it"
        return "gpu_layers", f"is {model.gpu_layers}, with which it takes {takes}; {remedy}"
    return (
        "model_path",
        f"is too large: it takes {takes}; a file with fewer bits for each weight may fit, and "
        "`memory:` overrides the figure",
    )


def _context(
    model: LocalModel,
    needs_of: NeedsOf,
    others: Sequence[Sequence[Need]],
    budget: Mapping[str, int],
) -> int:
    """With what context it fits beside others; 0 if with none."""

    def too_large(steps: int) -> bool:
        needs = needs_of(replace(model, context_size=steps * _STEP))
        return not _fit([*others, needs], budget)

    # A larger context takes more.
    return _STEP * bisect_right(range(1, model.context_size // _STEP + 1), False, key=too_large)


def _most_layers(model: LocalModel, needs_of: NeedsOf, budget: Mapping[str, int]) -> int | None:
    """With how many layers on the GPU it fits; None if with none."""

    def fits(layers: int) -> bool:
        return _fit([needs_of(replace(model, gpu_layers=layers))], budget)

    if not fits(0):
        return None
    most = model.gpu_layers if isinstance(model.gpu_layers, int) and model.gpu_layers > 0 else 1000
    return bisect_right(range(1, most + 1), False, key=lambda layers: not fits(layers))


def _beside(
    pinned: Sequence[LocalModel],
    needs: Sequence[Sequence[Need]],
    context: int,
    budget: Mapping[str, int],
) -> tuple[str, str]:
    """
    Of a model that would fit, if others were not pinned.

    :param needs: of the others, and its own
    :param context: with which it would fit beside them; 0 if with none
    """
    takes = _too_much(taken([of_one[0] for of_one in needs]), budget)
    verb, one = ("is", "it") if len(pinned) == 1 else ("are", "one")
    remedy = f", or give it a context_size of {context}" if context else ""
    return (
        "name",
        f"never fits beside {_listed(pinned)}, which {verb} pinned: together they take {takes}; "
        f"unpin {one}{remedy}",
    )


def _listed(models: Sequence[LocalModel]) -> str:
    names = [model.name for model in models[:_NAMED]]
    more = len(models) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _too_much(sizes: Mapping[str, int], budget: Mapping[str, int]) -> str:
    """What is taken where it is more than may be, in words."""
    over = {device: size for device, size in sizes.items() if size > budget.get(device, math.inf)}
    return " and ".join(
        f"{amount(size)} {where(device)} (llamagw may use {amount(budget[device])})"
        for device, size in (over or sizes).items()
        if device in budget
    )


def where(device: str) -> str:
    """A device, for the end of a sentence: ``in RAM``, ``on CUDA0``."""
    return "in RAM" if device == HOST else f"on {harmless(device, _DEVICE)}"


def part_of(count: int, whole: int) -> str:
    """A part of something in words, with the unit once if it is the same: ``14.2 of 22.4 GiB``."""
    told = amount(whole)
    return f"{amount(count).removesuffix(told[-4:])} of {told}"
