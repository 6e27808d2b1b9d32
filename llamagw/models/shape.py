"""
What of a model decides how much memory it takes: its layers, and the sizes of what runs in them.

Read off the head of its file; gguf.py reads that, and estimate.py works with what is found here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from llamagw.models.gguf import Header, Tensor

#: Layers beyond which a head is taken to be damaged; the largest models have some 130.
MOST_LAYERS = 1024

#: Every so many-th layer has the whole context, the others a sliding window, where the file does
#: not say which: from the source of each architecture in llama.cpp (src/models).
_FULL_EVERY = {
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
    "olmo2": 4,
    "plamo3": 8,
    "smallthinker": 4,
}

#: Architectures whose caches are those of estimate.py: shown against the engine (docs/memory.md),
#: or of the same make as one that was.
_KNOWN = frozenset(
    [
        "bert",
        "cohere2",
        "command-r",
        "deepseek2",
        "gemma",
        "gemma2",
        "gemma3",
        "gpt-oss",
        "granite",
        "granitehybrid",
        "granitemoe",
        "internlm2",
        "jina-bert-v2",
        "llama",
        "mamba",
        "mamba2",
        "minicpm",
        "mistral3",
        "nomic-bert",
        "olmo",
        "olmo2",
        "olmoe",
        "phi2",
        "phi3",
        "qwen2",
        "qwen2moe",
        "qwen2vl",
        "qwen3",
        "qwen3moe",
        "smollm3",
        "stablelm",
        "starcoder2",
    ]
)

#: Types of weights that the engine arranges anew for a CPU with AVX2: Q4_0, Q4_K, IQ4_NL.
_REPACKED = frozenset({2, 12, 20})

#: So many rows of a matrix at a time.
_ROWS = 8

#: How the names of tensors behind the last layer begin.
_OUTPUT = ("output", "cls")

_LAYER = re.compile(r"blk\.(\d{1,6})\.(.*)")
_EXPERTS = re.compile(r"ffn_(?:up|down|gate|gate_up)_(?:ch)?exps\b")
_RECURRENT = re.compile(r"ssm_|shortconv\.|time_mix_")
_ATTENTION = re.compile(r"attn_(?:k|kv\w*|k_b)\.")
_FUSED_ATTENTION = re.compile(r"attn_qkv\.")


class Layer(NamedTuple):
    """
    A layer.

    :ivar weights: bytes, those of the experts among them
    :ivar experts: bytes of the weights of its experts
    :ivar kv_heads: heads that have a cache; 0 for a layer without one
    :ivar sliding: whether its cache is that of a sliding window
    :ivar state: numbers of a state of fixed size, for each sequence
    :ivar repacked: bytes of the weights that the engine arranges anew on a CPU, without experts
    :ivar repacked_experts: the same of its experts
    """

    weights: int = 0
    experts: int = 0
    kv_heads: int = 0
    sliding: bool = False
    state: int = 0
    repacked: int = 0
    repacked_experts: int = 0


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """
    What of a model decides how much memory it takes.

    :ivar layers: in their order
    :ivar input: bytes of weights before the first layer, and of what belongs to none
    :ivar output: bytes of weights behind the last layer; with `tied`, none of the table
    :ivar repacked_output: bytes of those that the engine arranges anew on a CPU
    :ivar tied: bytes of the table of tokens, where it is that of the output too; 0 if it is not
    :ivar repacks: whether the engine arranges that table anew on a CPU
    :ivar trained: the context that it was trained for
    :ivar embedding: numbers of a token between two layers
    :ivar heads: of the layer with most
    :ivar key: numbers of a key, for each head
    :ivar value: those of a value
    :ivar latent: whether values are a part of the keys, as with MLA
    :ivar window: of the sliding layers; 0 without
    :ivar feed: numbers within the feed-forward part of the largest layer
    :ivar gated: whether that has a gate
    :ivar experts_used: for a token; 0 without experts
    :ivar expert_feed: as `feed`, of an expert
    :ivar inner: numbers within a recurrent layer; 0 without
    :ivar causal: whether tokens see only those before them, so that there is a cache
    :ivar vocabulary: tokens
    :ivar merges: of the vocabulary
    :ivar rough: whether something of it is not known here, so that estimates are rough
    """

    layers: tuple[Layer, ...]
    input: int
    output: int
    repacked_output: int
    tied: int
    repacks: bool
    trained: int
    embedding: int
    heads: int
    key: int
    value: int
    latent: bool
    window: int
    feed: int
    gated: bool
    experts_used: int
    expert_feed: int
    inner: int
    causal: bool
    vocabulary: int
    merges: int
    rough: bool

    @property
    def weights(self) -> int:
        """Bytes of all weights."""
        return self.input + self.output + sum(layer.weights for layer in self.layers)


def shape(heads: Sequence[Header]) -> Shape | None:
    """
    What of a model decides how much memory it takes.

    :param heads: of all its files, the first part first
    :return: None if the first does not even say how many layers it has, or that is beyond reason
    """
    keys = _Keys(heads[0])
    tensors = {name: tensor for head in heads for name, tensor in head.tensors.items()}
    count, embedding = keys.number("block_count"), keys.number("embedding_length")
    if not 0 < count <= MOST_LAYERS or not embedding:
        return None
    all_heads = keys.each("attention.head_count", count)
    most = max(all_heads)
    head = embedding // most if most else 0
    table = tensors.get("token_embd.weight")
    tied = table if "output.weight" not in tensors else None
    return Shape(
        layers=_layers(keys, tensors, count, all_heads),
        input=_sum(tensors, lambda name: not name.startswith(("blk.", *_OUTPUT))),
        output=_sum(tensors, lambda name: name.startswith(_OUTPUT)),
        repacked_output=_sum(
            {name: one for name, one in tensors.items() if _is_repacked(one)},
            lambda name: name.startswith(_OUTPUT),
        ),
        tied=(tied.size or 0) if tied else 0,
        repacks=tied is not None and tied.kind in _REPACKED,
        trained=keys.number("context_length"),
        embedding=embedding,
        heads=most,
        key=keys.number("attention.key_length") or head,
        value=keys.number("attention.value_length") or head,
        latent=keys.number("attention.key_length_mla") > 0,
        window=keys.number("attention.sliding_window"),
        feed=max(keys.each("feed_forward_length", count)),
        gated=any("ffn_gate" in name for name in tensors),
        experts_used=keys.number("expert_used_count"),
        expert_feed=keys.number("expert_feed_forward_length"),
        inner=keys.number("ssm.inner_size"),
        causal=keys.value("attention.causal") is not False,
        vocabulary=_vocabulary(keys, table),
        merges=heads[0].lengths.get("tokenizer.ggml.merges", 0),
        rough=keys.arch not in _KNOWN or any(one.size is None for one in tensors.values()),
    )


class _Keys:
    """The metadata of a model, without the name of its architecture."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.arch = header.architecture

    def value(self, key: str) -> object:
        return self.header.values.get(f"{self.arch}.{key}")

    def number(self, key: str) -> int:
        return self.header.number(f"{self.arch}.{key}") or 0

    def each(self, key: str, count: int) -> list[int]:
        """A number for each layer; 0 where there is none."""
        value = self.value(key)
        if not isinstance(value, list):
            return [self.number(key)] * count
        found = [one if isinstance(one, int) and one > 0 else 0 for one in value[:count]]
        return found + [0] * (count - len(found))


def _sum(tensors: dict[str, Tensor], wanted: Callable[[str], bool]) -> int:
    return sum(one.size or 0 for name, one in tensors.items() if wanted(name))


def _vocabulary(keys: _Keys, table: Tensor | None) -> int:
    told = keys.header.lengths.get("tokenizer.ggml.tokens", 0) or keys.number("vocab_size")
    return told or (table.lengths[1] if table and len(table.lengths) > 1 else 0)


def _layers(
    keys: _Keys, tensors: dict[str, Tensor], count: int, all_heads: list[int]
) -> tuple[Layer, ...]:
    weights, experts = [0] * count, [0] * count
    repacked, repacked_experts = [0] * count, [0] * count
    names: list[list[str]] = [[] for _ in range(count)]
    for name, tensor in tensors.items():
        found = _LAYER.match(name)
        if found is None:
            continue
        # What has a number beyond the last is nobody's; it is given to the last.
        number = min(int(found[1]), count - 1)
        weights[number] += tensor.size or 0
        names[number].append(found[2])
        anew = tensor.size or 0 if _is_repacked(tensor) else 0
        if _EXPERTS.match(found[2]):
            experts[number] += tensor.size or 0
            repacked_experts[number] += anew
        else:
            repacked[number] += anew
    has_own = keys.value("attention.head_count_kv") is not None
    kv_heads = keys.each("attention.head_count_kv", count) if has_own else all_heads
    # The last ones use the caches of others (gemma3n).
    with_cache = count - keys.number("attention.shared_kv_layers")
    causal = keys.value("attention.causal") is not False
    state = _state(keys)
    layers = []
    for number, inside in enumerate(names):
        recurrent = any(map(_RECURRENT.match, inside))
        attends = _attends(inside, recurrent) and causal and number < with_cache
        layers.append(
            Layer(
                weights[number],
                experts[number],
                kv_heads[number] if attends else 0,
                _slides(keys, number),
                state if recurrent else 0,
                repacked[number],
                repacked_experts[number],
            )
        )
    return tuple(layers)


def _is_repacked(tensor: Tensor) -> bool:
    """Whether the engine arranges a layer's tensor anew: matrices, of whole blocks of rows."""
    lengths = tensor.lengths
    return tensor.kind in _REPACKED and len(lengths) > 1 and lengths[1] % _ROWS == 0


def _attends(names: list[str], recurrent: bool) -> bool:
    """Whether a layer has attention; one of which no tensor is known is taken to have it."""
    if any(map(_ATTENTION.match, names)) or not names:
        return True
    # Qwen's recurrent layers have a tensor of this name too.
    return not recurrent and any(map(_FUSED_ATTENTION.match, names))


def _slides(keys: _Keys, number: int) -> bool:
    if not keys.number("attention.sliding_window"):
        return False
    pattern = keys.value("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return number < len(pattern) and bool(pattern[number])
    told = keys.number("attention.sliding_window_pattern")
    period = told or _FULL_EVERY.get(keys.arch, 1)
    return number % period < period - 1


def _state(keys: _Keys) -> int:
    """Numbers of the state of a recurrent layer, for each sequence."""
    embedding = keys.number("embedding_length")
    if keys.number("wkv.head_size"):
        shifts = keys.number("token_shift_count") or 2
        return embedding * (shifts + keys.number("wkv.head_size"))
    if keys.number("shortconv.l_cache"):
        return embedding * (keys.number("shortconv.l_cache") - 1)
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    convolved = inner + 2 * keys.number("ssm.group_count") * state
    return max(keys.number("ssm.conv_kernel") - 1, 0) * convolved + state * inner
