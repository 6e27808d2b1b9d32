"""
Where a model's engine can be started: each place, by the flags that put it there.

The user's own flags fix the place. Else, of several GPUs, each is one; then all of them together,
as the engine spreads a model. With ``gpu_layers: auto`` there are more, with ever fewer layers on
GPUs. What an engine takes in each is for charge.py; who gets which, for the scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from llamagw.config import LocalModel
from llamagw.launch.base import Need
from llamagw.launch.charge import Machine, Place, charge, key
from llamagw.launch.flags import Asked, need
from llamagw.models import HOST, Estimate, Facts, Figure, Flags, Parts

#: How many places a model has at most, and for how many numbers of layers.
MOST_PLACES, MOST_STEPS = 64, 16

#: What tells an engine where to be.
_FIXES = frozenset({"devices", "split", "mode", "main", "rpc"})

#: The flags for where a second model is: newer engines have the first.
_DRAFT_DEVICE = ("--spec-draft-device", "--device-draft")
_DRAFT_LAYERS = ("--spec-draft-ngl", "--gpu-layers-draft")

#: By which variables an engine sees only some GPUs, and counts those from 0; how they are called.
_VISIBLE = {
    "CUDA_VISIBLE_DEVICES": "CUDA",
    "HIP_VISIBLE_DEVICES": "ROCm",
    "ROCR_VISIBLE_DEVICES": "ROCm",
    "GGML_VK_VISIBLE_DEVICES": "Vulkan",
}


class Visible(NamedTuple):
    """
    The GPUs that an engine sees.

    :ivar used: its own names of those that it uses if nothing else is said, in its order; None if
        not known
    :ivar names: by its own name of a GPU, the machine's
    :ivar fixed: whether the model's own variables say which it sees
    """

    used: list[str] | None
    names: Mapping[str, str]
    fixed: bool = False


def visible(machine: Machine, env: Mapping[str, str]) -> Visible:
    """
    The GPUs that a model's engine sees.

    :param machine: that it runs on
    :param env: the model's own variables; the gateway's own are known to `machine`
    """
    if machine.gpus is None:
        return Visible(None, {})
    names = {name: name for name in machine.gpus}
    told = [(kind, env[variable]) for variable, kind in _VISIBLE.items() if variable in env]
    for kind, value in told:
        names = _seen(names, kind, [one.strip() for one in value.split(",") if one.strip()])
    # An engine uses a GPU that has no memory of its own only where there is no other.
    used = [name for name, real in names.items() if real not in machine.aliases]
    return Visible(used or [*names], names, bool(told))


def _seen(names: Mapping[str, str], kind: str, chosen: Sequence[str]) -> dict[str, str]:
    """The names when only these of a kind are seen: numbers, or identifiers."""
    of_kind = {name: real for name, real in names.items() if name.startswith(kind)}
    found = [of_kind[kind + one] for one in chosen if kind + one in of_kind]
    if len(found) < len(chosen):
        # Which one an identifier is of is not known: as many as are chosen.
        found = [*of_kind.values()][: len(chosen)]
    others = {name: real for name, real in names.items() if name not in of_kind}
    return others | {f"{kind}{number}": real for number, real in enumerate(found)}


class Placement:
    """
    The places where a model's engine can be started, the best first.

    Takes up to some ms to be made, with ``gpu_layers: auto``; `places` takes a tenth of that.

    :param asks: what its command line says, with the GPUs that it sees (`visible`)
    :param facts: of files, by path
    :param machine: that it runs on
    :param model: as configured
    :param known: the engine's flags; empty if unknown
    """

    def __init__(
        self,
        asks: Asked,
        facts: Mapping[str, Facts],
        machine: Machine,
        model: LocalModel,
        known: Mapping[str, bool],
    ) -> None:
        self._facts = facts
        self._machine = machine
        self._model = model
        self._seen = visible(machine, model.env)
        shape = facts[asks.files.model].shape if asks.files.model in facts else None
        auto = model.gpu_layers == "auto" and "gpu_layers" not in asks.told
        layers = len(shape.layers) + 1 if auto and shape is not None else None
        choices = _Choices(asks, machine, self._seen, known)
        self._estimated = [
            (variant, key(variant.asks, facts, machine), found)
            for variant in choices.variants(layers)
            if (found := self._estimate(variant.asks)) is not None
        ]
        #: What is learned of each.
        self.keys = [name for _, name, _ in self._estimated]

    def __repr__(self) -> str:
        return f"<Placement of {self._model.name}: {len(self.keys)} places>"

    def places(self, learned: Sequence[Figure | None]) -> list[Place]:
        """
        The places, with what the engine takes in each.

        :param learned: what is known from earlier runs, for each of `keys`
        :return: `MOST_PLACES` at most; empty if too little is known of the model's file
        """
        return [
            charge(
                Need(devices={}, flags=variant.flags, group=variant.group, key=name),
                found,
                variant.asks,
                self._real,
                figure,
                self._model.memory,
                self._facts,
                alone=len(self.keys) == 1,
            )
            for (variant, name, found), figure in zip(self._estimated, learned, strict=True)
        ]

    def _estimate(self, asks: Asked) -> Estimate | None:
        found = need(asks, self._facts)
        if found is None and self._model.memory is not None:
            used = asks.flags.devices if asks.flags.gpu_layers else ()
            return Estimate({name: Parts() for name in (HOST, *used)})
        return found

    def _real(self, name: str) -> str:
        """The device whose memory it is, by an engine's name."""
        name = self._seen.names.get(name, name)
        return self._machine.aliases.get(name, name)


def elsewhere(found: Sequence[Place]) -> Estimate | None:
    """
    What an engine takes in the first of its places, with the others in words.

    :param found: its places
    :return: None without one
    """
    if not found:
        return None
    gpus = [[name for name in place.estimate.devices if name != HOST] for place in found]
    layers = {place.need.flags[1] for place in found if place.need.flags[:1] == ("--gpu-layers",)}
    told = dict.fromkeys(" + ".join(names) for names in gpus if names and names != gpus[0])
    fewer = ("with fewer layers there",) if len(layers) > 1 else ()
    return replace(found[0].estimate, elsewhere=(*(f"on {names}" for names in told), *fewer))


class _Variant(NamedTuple):
    """What a command line asks in one of the places, and the flags by which it is there."""

    asks: Asked
    flags: tuple[str, ...]
    group: int


class _Choices:
    """
    :param asks: what the command line says
    :param known: the engine's flags; empty if unknown
    """

    def __init__(
        self, asks: Asked, machine: Machine, seen: Visible, known: Mapping[str, bool]
    ) -> None:
        self._sizes = {name: (machine.gpus or {}).get(real, 0) for name, real in seen.names.items()}
        self._known = known
        self._asks = asks._replace(flags=self._split(asks.flags), draft=self._split(asks.draft))
        told = bool(asks.told & _FIXES) or seen.fixed or bool(known and "--device" not in known)
        #: The GPUs of which it can be told to use one only, the smallest first.
        self._single: list[str] = []
        if not told and len(asks.flags.devices) > 1:
            self._single = sorted(asks.flags.devices, key=lambda name: self._sizes.get(name, 0))

    def _split(self, flags: Flags) -> Flags:
        """
        With the parts that the devices get where nothing is said.

        The engine gives them parts by what is free on each; by their sizes is the nearest to that
        which does not change.
        """
        sizes = tuple(float(self._sizes.get(name, 0)) for name in flags.devices)
        return flags if flags.split or not all(sizes) else replace(flags, split=sizes)

    def variants(self, most: int | None) -> Iterator[_Variant]:
        """
        The places, the best first.

        :param most: how many layers there are to be on GPUs, or ever fewer; None for as many as the
            command line says
        """
        if most is None:
            yield from self._over(self._asks, (), 0)
            return
        most = most if self._asks.flags.devices else 0
        choices = len(self._single) + 1
        steps = max(1, min(MOST_STEPS, most, MOST_PLACES // choices - 1))
        for step in range(steps if most else 0):
            layers = most * (steps - step) // steps
            yield from self._over(self._with(layers), ("--gpu-layers", str(layers)), 2 * step)
        asks, flags = self._with(0), ["--gpu-layers", "0"]
        if asks.files.draft and "draft_layers" not in asks.told:
            asks = asks._replace(draft=replace(asks.draft, gpu_layers=0))
            flags += self._flag(_DRAFT_LAYERS, "0")
        yield _Variant(asks, (*flags,), 2 * steps)

    def _with(self, layers: int) -> Asked:
        return self._asks._replace(flags=replace(self._asks.flags, gpu_layers=layers))

    def _over(self, asks: Asked, flags: tuple[str, ...], group: int) -> Iterator[_Variant]:
        """On each GPU alone, and spread over all."""
        for name in self._single if asks.flags.gpu_layers else ():
            one = asks._replace(flags=replace(asks.flags, devices=(name,), split=()))
            where: tuple[str, ...] = ("--device", name)
            if asks.files.draft and "draft_devices" not in asks.told:
                one = one._replace(draft=replace(asks.draft, devices=(name,), split=()))
                where += self._flag(_DRAFT_DEVICE, name)
            yield _Variant(one, (*flags, *where), group)
        yield _Variant(asks, flags, group + 1)

    def _flag(self, names: Sequence[str], value: str) -> tuple[str, ...]:
        """A flag that is called by one of these names; none if the engine has none of them."""
        has = [name for name in names if not self._known or name in self._known]
        return (has[0], value) if has else ()
