"""
How much memory an engine takes for a model, on which device: weights, KV cache, compute, process.

Computed from what shape.py has read of its files, and the flags that its engine gets, which
launch/flags.py reads off a command line. No weights are read, and the machine is not asked: which
devices it has, and how much is free there, is for others.

Weights and KV cache follow from the head and the flags. The compute buffers and the process are
approximations, found by comparing with the engine (docs/memory.md has how near they come).
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Literal

import msgspec

from llamagw.models.gguf import BLOCKS
from llamagw.models.shape import Shape

#: The device of the CPU.
HOST = "host"

_MIB = 2**20

#: The format's numbers of the types that a cache may have.
CACHE_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q5_1": 7,
    "q5_0": 6,
    "q4_1": 3,
    "q4_0": 2,
    "iq4_nl": 20,
}

#: Bytes of an engine's process without any model, of which 22 MiB are its libraries; and for each
#: token of a vocabulary, and each of its merges.
_PROCESS, _TOKEN, _MERGE = 26 * _MIB, 170, 210

#: Bytes that the driver of a GPU takes there for a process. A guess: no GPU was at hand.
_DRIVER = 300 * _MIB

#: Cells of a cache come in steps of so many.
_STEP = 256


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """
    The flags of an engine that decide how much memory it takes.

    :ivar context: tokens of all slots together; 0 for what the model was trained for
    :ivar batch: tokens
    :ivar ubatch: tokens that are computed at once
    :ivar parallel: slots
    :ivar unified: whether the slots share the cache
    :ivar keys: the type of the cache's keys, of `CACHE_TYPES`
    :ivar values: that of its values
    :ivar flash: whether attention is computed without its whole matrix
    :ivar gpu_layers: of the last layers, how many are on GPUs; the output counts as one more
    :ivar devices: the names of those, in their order
    :ivar split: of each device its part, in any unit; empty for parts of the same size
    :ivar cpu_moe: of the first layers, how many have their experts on the CPU
    :ivar offload_kv: whether the cache of a layer is where that is
    :ivar full_window: whether sliding layers keep the whole context
    :ivar embeddings: whether it is started for embeddings or ranking
    :ivar repack: whether weights on the CPU may be arranged anew
    :ivar mapped: whether weights on the CPU are mapped from their file, and may be dropped
    :ivar rough: whether there are flags whose effect is not known here
    """

    context: int = 4096
    batch: int = 2048
    ubatch: int = 512
    parallel: int = 1
    unified: bool = True
    keys: str = "f16"
    values: str = "f16"
    flash: bool = True
    gpu_layers: int = 0
    devices: tuple[str, ...] = ("GPU",)
    split: tuple[float, ...] = ()
    cpu_moe: int = 0
    offload_kv: bool = True
    full_window: bool = False
    embeddings: bool = False
    repack: bool = True
    mapped: bool = True
    rough: bool = False


class Parts(msgspec.Struct):
    """
    What an engine takes on a device, in bytes.

    :ivar weights: of the model, a projector, adapters
    :ivar kv: the cache of keys and values, and the state of recurrent layers
    :ivar compute: buffers for what is between, and for the output
    :ivar process: the engine without them, and what a driver takes for it
    :ivar cache: of earlier prompts
    :ivar margin: for what an estimate may have missed
    :ivar given: what was learned, or is configured, in place of the others
    :ivar mapped: of the weights, what is mapped from their file; all the rest is the engine's own
    """

    weights: int = 0
    kv: int = 0
    compute: int = 0
    process: int = 0
    cache: int = 0
    margin: int = 0
    given: int = 0
    mapped: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        computed = self.weights + self.kv + self.compute + self.process
        return computed + self.cache + self.margin + self.given

    @property
    def own(self) -> int:
        """All that no other engine shares, and the system cannot drop."""
        return self.total - self.mapped


class Estimate(msgspec.Struct):
    """
    What an engine takes.

    :ivar devices: on each device that it uses, by name; the CPU's is `HOST`
    :ivar rough: whether something was not known, so that it may be far off
    :ivar files: of the weights on the CPU, what is mapped of each file, by its path
    :ivar source: where it comes from
    :ivar when: when it was learned, in seconds since the epoch
    :ivar elsewhere: in words, where else the engine may be
    """

    devices: dict[str, Parts]
    rough: bool = False
    files: dict[str, int] = {}
    source: Literal["estimate", "learned", "config"] = "estimate"
    when: float | None = None
    elsewhere: tuple[str, ...] = ()

    @property
    def host(self) -> Parts:
        """On the CPU."""
        return self.devices[HOST]

    def __add__(self, other: Estimate) -> Estimate:
        both = {name: msgspec.structs.replace(parts) for name, parts in self.devices.items()}
        for name, parts in other.devices.items():
            mine = both.setdefault(name, Parts())
            for part in Parts.__struct_fields__:
                setattr(mine, part, getattr(mine, part) + getattr(parts, part))
        return Estimate(both, self.rough or other.rough)


def estimate(shape: Shape, flags: Flags) -> Estimate:
    """
    How much memory an engine takes for a model.

    :param shape: of the model
    :param flags: of its engine
    """
    flags = _effective(shape, flags)
    found = Estimate({HOST: Parts()}, shape.rough or flags.rough)
    where = _places(len(shape.layers), flags)
    used = [found.devices.setdefault(name, Parts()) for name in where]
    _add_weights(shape, flags, found.host, used)
    full, sliding = _cells(shape, flags)
    for layer, parts in zip(shape.layers, used, strict=False):
        if layer.kv_heads:
            cells = sliding if layer.sliding else full
            kv = cells * _row(shape, flags, layer.kv_heads)
            (parts if flags.offload_kv else found.host).kv += kv
        parts.kv += 4 * flags.parallel * layer.state
    mask, compute = _compute(shape, flags, full, sliding)
    for name in {*where}:
        found.devices[name].compute += compute
        if name != HOST and not name.startswith("RPC"):
            found.devices[name].process += _DRIVER
    if HOST not in where:
        # What goes in is prepared there.
        found.host.compute += mask + 8 * shape.embedding * flags.ubatch
    found.host.compute += (
        4 * flags.parallel * (shape.vocabulary if shape.causal else shape.embedding)
    )
    found.host.process += _PROCESS + _TOKEN * shape.vocabulary + _MERGE * shape.merges
    return found


def draft(shape: Shape, flags: Flags) -> Estimate:
    """
    What a second model takes that drafts for the first, in the same engine.

    :param shape: of the second
    :param flags: of the engine, for that
    """
    found = estimate(shape, flags)
    found.host.process -= _PROCESS
    for name, parts in found.devices.items():
        if name != HOST:
            parts.process = 0
    return found


def beside(weights: int, flags: Flags, rough: bool) -> Estimate:
    """
    What a projector, or an adapter, takes beside its model.

    :param weights: bytes of its file
    :param flags: of the engine; it is on the first GPU, if there is one
    :param rough: whether that is not all of it
    """
    on_gpu = flags.gpu_layers and flags.devices
    return Estimate({flags.devices[0] if on_gpu else HOST: Parts(weights=weights)}, rough)


def _effective(shape: Shape, flags: Flags) -> Flags:
    """The flags as the engine takes them for this model."""
    context = flags.context or shape.trained
    batch = min(flags.batch, context) if shape.causal else flags.batch
    return msgspec.structs.replace(
        flags,
        context=context,
        batch=batch,
        ubatch=min(flags.ubatch, batch),
        parallel=max(flags.parallel, 1),
        gpu_layers=min(flags.gpu_layers, len(shape.layers) + 1) if flags.devices else 0,
    )


def _places(layers: int, flags: Flags) -> list[str]:
    """The device of each layer, and of the output behind them."""
    first = layers + 1 - flags.gpu_layers
    shares = (flags.split + (0,) * len(flags.devices))[: len(flags.devices)]
    if not any(shares):
        shares = (1,) * len(flags.devices)
    ends = [*accumulate(shares)]
    found = [HOST] * first
    for number in range(flags.gpu_layers):
        device = bisect_right(ends, number / flags.gpu_layers * ends[-1])
        found.append(flags.devices[min(device, len(ends) - 1)])
    return found


def _add_weights(shape: Shape, flags: Flags, host: Parts, used: list[Parts]) -> None:
    """
    :param used: the device of each layer, and of the output
    """

    def add(parts: Parts, weights: int, repacked: int) -> None:
        parts.weights += weights
        if parts is host and flags.mapped:
            parts.mapped += weights - (repacked if flags.repack else 0)

    add(host, shape.input, 0)
    add(used[-1], shape.output, shape.repacked_output)
    if used[-1] is not host or (flags.repack and shape.repacks):
        # The table of tokens once more, as that of the output.
        add(used[-1], shape.tied, shape.tied)
    for number, (layer, parts) in enumerate(zip(shape.layers, used, strict=False)):
        experts = layer.experts, layer.repacked_experts
        add(host if number < flags.cpu_moe else parts, *experts)
        add(parts, layer.weights - layer.experts, layer.repacked)


def _cells(shape: Shape, flags: Flags) -> tuple[int, int]:
    """Cells of a layer's cache, for all slots together: with the whole context, and sliding."""
    streams = 1 if flags.unified else flags.parallel
    each = _padded(-(-flags.context // streams))
    if not shape.window or flags.full_window:
        return each * streams, each * streams
    sharing = flags.parallel if flags.unified else 1
    wanted = min(each, shape.window * sharing + flags.ubatch)
    return each * streams, min(each, _padded(wanted)) * streams


def _padded(cells: int) -> int:
    return -(-cells // _STEP) * _STEP


def _row(shape: Shape, flags: Flags, heads: int) -> int:
    """Bytes of a cell of a layer's cache."""
    found = _bytes(flags.keys, heads * shape.key)
    return found if shape.latent else found + _bytes(flags.values, heads * shape.value)


def _bytes(kind: str, numbers: int) -> int:
    elements, size = BLOCKS[CACHE_TYPES[kind]]
    return numbers * size // elements


def _compute(shape: Shape, flags: Flags, full: int, sliding: int) -> tuple[int, int]:
    """
    Bytes for what is between the layers, on each device; and of the attention's mask among them.

    :param full: cells of a layer's cache
    :param sliding: those of a sliding layer's
    """
    tokens, streams = flags.ubatch, 1 if flags.unified else flags.parallel
    seen = full // streams if shape.causal else tokens
    masks = seen
    if shape.causal and any(layer.sliding for layer in shape.layers):
        masks += sliding // streams
    mask = masks * tokens * (2 if flags.flash else 4)
    if not shape.heads:
        mask = 0
    queries = shape.heads * shape.key
    spread = shape.heads * (shape.key + shape.value) if shape.latent else queries
    attention = 3 * shape.embedding + 2 * queries + spread
    # Feed-forward and attention are not alive at the same time.
    feed = (3 if shape.gated else 1) * shape.feed + 4 * shape.embedding
    if shape.experts_used:
        expert = 2 * (shape.expert_feed or shape.feed) + shape.embedding
        feed = max(feed, shape.experts_used * expert + 4 * shape.embedding)
    recurrent = 8 * shape.inner + 4 * shape.embedding if shape.inner else 0
    body = 4 * tokens * max(feed, attention, recurrent)
    if not flags.flash and shape.heads:
        body = max(body, 4 * tokens * (shape.heads * seen + attention))
    if flags.embeddings and shape.causal:
        logits = 4 * shape.vocabulary * tokens + mask
    else:
        logits = 4 * shape.vocabulary * flags.parallel
    return mask, max(body + mask, logits)
