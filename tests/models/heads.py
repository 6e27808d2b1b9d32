"""
Files with the heads of known models, of which the weights are a hole: no disk is taken.

The engine reads such a file as it does the model's own, and can even load a small one. What its
tensors are is what llama.cpp asks of each architecture (src/models).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

from llamagw.models.gguf import BLOCKS
from tests.models.support import packed, text

F32, F16, Q8_0, Q4_K = 0, 1, 8, 12

Tensors = dict[str, tuple[int, ...]]


class Head(NamedTuple):
    """A model: its metadata without the architecture's name before each key, and its tensors."""

    arch: str
    values: dict[str, Any]
    tensors: Tensors
    kind: int = Q4_K


def write(head: Head, path: Path) -> Path:
    """Write it; as large as the model, in blocks of the disk some kilobytes."""
    pairs: dict[str, Any] = {"general.architecture": head.arch}
    for key, one in head.values.items():
        pairs[f"{head.arch}.{key[1:]}" if key[0] == "_" else key] = one
    begin = b"GGUF" + struct.pack("<IQQ", 3, len(head.tensors), len(pairs))
    table, place = b"", 0
    for key, one in pairs.items():
        begin += text(key) + packed(one)
    for name, lengths in head.tensors.items():
        kind = _kind(head, name, lengths)
        elements, size = BLOCKS[kind]
        table += text(name) + struct.pack("<I", len(lengths))
        table += struct.pack(f"<{len(lengths)}QIQ", *lengths, kind, place)
        count = 1
        for length in lengths:
            count *= length
        place += -(-(count // elements * size) // 32) * 32
    begin += table
    begin += bytes(-len(begin) % 32)
    with path.open("wb") as file:
        file.write(begin)
        file.truncate(len(begin) + place)
    return path


def _kind(head: Head, name: str, lengths: tuple[int, ...]) -> int:
    small = ("norm", "ssm_conv1d", "ssm_a", "ssm_d", "ffn_gate_inp", "token_types", "position_embd")
    if len(lengths) == 1 or any(part in name for part in small):
        return F32
    return head.kind if lengths[0] % BLOCKS[head.kind][0] == 0 else Q8_0


def _common(layers: int, embedding: int, heads: int, feed: int, vocabulary: int) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "no_vocab",
        "_vocab_size": vocabulary,
        "_block_count": layers,
        "_embedding_length": embedding,
        "_feed_forward_length": feed,
        "_context_length": 131072,
        "_attention.head_count": heads,
        "_attention.layer_norm_rms_epsilon": 1e-5,
    }


def _ends(embedding: int, vocabulary: int, tied: bool = False) -> Tensors:
    found: Tensors = {"token_embd.weight": (embedding, vocabulary)}
    found["output_norm.weight"] = (embedding,)
    return found if tied else {**found, "output.weight": (embedding, vocabulary)}


def _attention(e: int, queries: int, cached: int) -> Tensors:
    return {
        "attn_norm": (e,),
        "attn_q": (e, queries),
        "attn_k": (e, cached),
        "attn_v": (e, cached),
        "attn_output": (queries, e),
    }


def _feed(e: int, feed: int, end: str = "") -> Tensors:
    gate, up, down = f"ffn_gate{end}", f"ffn_up{end}", f"ffn_down{end}"
    return {gate: (e, feed), up: (e, feed), down: (feed, e)}


def _experts(e: int, feed: int, count: int) -> Tensors:
    each = {name: (*lengths, count) for name, lengths in _feed(e, feed, "_exps").items()}
    return {"ffn_gate_inp": (e, count), **each}


def _layer(number: int, tensors: Tensors) -> Tensors:
    def named(name: str) -> str:
        return name if "." in name or name in ("ssm_a", "ssm_d") else f"{name}.weight"

    return {f"blk.{number}.{named(name)}": lengths for name, lengths in tensors.items()}


def llama(layers: int, e: int, feed: int, heads: int, kv: int, vocabulary: int) -> Head:
    """Llama 3: grouped queries."""
    values = _common(layers, e, heads, feed, vocabulary) | {"_attention.head_count_kv": kv}
    values["_rope.dimension_count"] = e // heads
    tensors = _ends(e, vocabulary)
    inside = _attention(e, e, e // heads * kv) | _feed(e, feed) | {"ffn_norm": (e,)}
    for number in range(layers):
        tensors |= _layer(number, inside)
    return Head("llama", values, tensors)


def qwen3_moe() -> Head:
    """Qwen3-30B-A3B: experts."""
    e, heads, kv, head, vocabulary = 2048, 32, 4, 128, 151936
    values = _common(48, e, heads, 6144, vocabulary) | {
        "_attention.head_count_kv": kv,
        "_attention.key_length": head,
        "_attention.value_length": head,
        "_expert_count": 128,
        "_expert_used_count": 8,
        "_expert_feed_forward_length": 768,
    }
    norms: Tensors = {"attn_q_norm": (head,), "attn_k_norm": (head,), "ffn_norm": (e,)}
    inside = _attention(e, heads * head, kv * head) | norms | _experts(e, 768, 128)
    tensors = _ends(e, vocabulary)
    for number in range(48):
        tensors |= _layer(number, inside)
    return Head("qwen3moe", values, tensors)


def gemma3() -> Head:
    """Gemma 3 27B: a sliding window in five of six layers, one table for both ends."""
    e, heads, kv, head, feed, vocabulary = 5376, 32, 16, 128, 21504, 262208
    values = _common(62, e, heads, feed, vocabulary) | {
        "_attention.head_count_kv": kv,
        "_attention.key_length": head,
        "_attention.value_length": head,
        "_attention.sliding_window": 1024,
    }
    norms: Tensors = {"attn_q_norm": (head,), "attn_k_norm": (head,)}
    norms |= dict.fromkeys(("post_attention_norm", "ffn_norm", "post_ffw_norm"), (e,))
    inside = _attention(e, heads * head, kv * head) | norms | _feed(e, feed)
    tensors = _ends(e, vocabulary, tied=True)
    for number in range(62):
        tensors |= _layer(number, inside)
    return Head("gemma3", values, tensors)


def deepseek() -> Head:
    """DeepSeek-V2-Lite: latent attention (MLA), of which only keys are kept."""
    e, heads, latent, vocabulary = 2048, 16, 512, 102400
    values = _common(27, e, heads, 10944, vocabulary) | {
        "_attention.head_count_kv": 1,
        "_attention.kv_lora_rank": latent,
        "_attention.key_length": latent + 64,
        "_attention.value_length": latent,
        "_attention.key_length_mla": 192,
        "_attention.value_length_mla": 128,
        "_rope.dimension_count": 64,
        "_leading_dense_block_count": 1,
        "_expert_count": 64,
        "_expert_used_count": 6,
        "_expert_shared_count": 2,
        "_expert_feed_forward_length": 1408,
        "_expert_weights_scale": 1.0,
    }
    mla: Tensors = {
        "attn_norm": (e,),
        "attn_q": (e, heads * 192),
        "attn_kv_a_mqa": (e, latent + 64),
        "attn_kv_a_norm": (latent,),
        "attn_k_b": (128, latent, heads),
        "attn_v_b": (latent, 128, heads),
        "attn_output": (heads * 128, e),
        "ffn_norm": (e,),
    }
    tensors = _ends(e, vocabulary) | _layer(0, mla | _feed(e, 10944))
    inside = mla | _experts(e, 1408, 64) | _feed(e, 2816, "_shexp")
    for number in range(1, 27):
        tensors |= _layer(number, inside)
    return Head("deepseek2", values, tensors)


def mamba() -> Head:
    """Mamba 2.8B: a state of fixed size and no cache."""
    e, inner, state, rank, vocabulary = 2560, 5120, 16, 160, 50280
    values = _common(64, e, 0, 0, vocabulary) | {
        "_attention.head_count_kv": 0,
        "_ssm.conv_kernel": 4,
        "_ssm.inner_size": inner,
        "_ssm.state_size": state,
        "_ssm.time_step_rank": rank,
    }
    inside: Tensors = {
        "attn_norm": (e,),
        "ssm_in": (e, 2 * inner),
        "ssm_conv1d": (4, inner),
        "ssm_conv1d.bias": (inner,),
        "ssm_x": (inner, rank + 2 * state),
        "ssm_dt": (rank, inner),
        "ssm_dt.bias": (inner,),
        "ssm_a": (state, inner),
        "ssm_d": (inner,),
        "ssm_out": (inner, e),
    }
    tensors = _ends(e, vocabulary)
    for number in range(64):
        tensors |= _layer(number, inside)
    return Head("mamba", values, tensors)


def granite() -> Head:
    """Granite 4.0 H Tiny: a hybrid, with attention in 4 of 40 layers, and experts."""
    e, heads, kv, inner, state, vocabulary = 1536, 12, 4, 3072, 128, 100352
    attending = (5, 15, 25, 35)
    values = _common(40, e, heads, 512, vocabulary) | {
        "_attention.head_count_kv": [kv if n in attending else 0 for n in range(40)],
        "_rope.dimension_count": e // heads,
        "_expert_count": 64,
        "_expert_used_count": 6,
        "_expert_shared_feed_forward_length": 1024,
        "_ssm.conv_kernel": 4,
        "_ssm.inner_size": inner,
        "_ssm.state_size": state,
        "_ssm.time_step_rank": 48,
        "_ssm.group_count": 1,
        "_embedding_scale": 12.0,
        "_residual_scale": 0.22,
        "_attention.scale": 0.0078125,
        "_logit_scale": 6.0,
    }
    ssm: Tensors = {
        "attn_norm": (e,),
        "ssm_in": (e, 2 * inner + 2 * state + 48),
        "ssm_conv1d": (4, inner + 2 * state),
        "ssm_conv1d.bias": (inner + 2 * state,),
        "ssm_dt.bias": (48,),
        "ssm_a": (1, 48),
        "ssm_d": (1, 48),
        "ssm_norm": (inner, 1),
        "ssm_out": (inner, e),
    }
    ends = {"ffn_norm": (e,)} | _experts(e, 512, 64) | _feed(e, 1024, "_shexp")
    tensors = _ends(e, vocabulary, tied=True)
    for number in range(40):
        own = _attention(e, e, e // heads * kv) if number in attending else ssm
        tensors |= _layer(number, own | ends)
    return Head("granitehybrid", values, tensors)


def bert() -> Head:
    """all-MiniLM-L6-v2 by its sizes, with a made-up vocabulary of 30522 words."""
    e, feed, vocabulary = 384, 1536, 30522
    begin = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"\u2581w{number}" for number in range(vocabulary - len(begin))]
    values = _common(6, e, 12, feed, vocabulary) | {
        "_context_length": 512,
        "_attention.layer_norm_epsilon": 1e-12,
        "_attention.causal": False,
        "_pooling_type": 1,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "jina-v2-en",
        "tokenizer.ggml.tokens": begin + words,
        "tokenizer.ggml.token_type": [3] * len(begin) + [1] * len(words),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
    }
    tensors: Tensors = {
        "token_embd.weight": (e, vocabulary),
        "token_types.weight": (e, 2),
        "position_embd.weight": (e, 512),
        "token_embd_norm.weight": (e,),
        "token_embd_norm.bias": (e,),
    }
    inside: Tensors = {}
    for name, lengths in {
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (e, e)),
        **dict.fromkeys(("attn_output_norm", "layer_output_norm"), (e,)),
        "ffn_up": (e, feed),
        "ffn_down": (feed, e),
    }.items():
        inside |= {f"{name}.weight": lengths, f"{name}.bias": (lengths[-1],)}
    for number in range(6):
        tensors |= _layer(number, inside)
    return Head("bert", values, tensors, F16)


LARGE = {
    "Llama 3.1 8B": llama(32, 4096, 14336, 32, 8, 128256),
    "Llama 3.3 70B": llama(80, 8192, 28672, 64, 8, 128256),
    "Qwen3 30B A3B": qwen3_moe(),
    "Gemma 3 27B": gemma3(),
    "DeepSeek V2 Lite": deepseek(),
    "Mamba 2.8B": mamba(),
    "Granite 4.0 H Tiny": granite(),
}
