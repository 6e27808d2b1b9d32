"""GGUF files, made byte by byte."""

from __future__ import annotations

import struct
from typing import Any

from llamagw.models import Shape


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def packed(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def gguf_bytes(
    arch: str = "llama", tensors: tuple[str, ...] = ("token_embd.weight",), **values: Any
) -> bytes:
    """A GGUF file; of the values, "_" in a key stands for the architecture and a dot."""
    common = {"_context_length": 32768, "_block_count": 2, "_embedding_length": 64}
    common |= {"_attention.head_count": 4, "_attention.head_count_kv": 2}
    pairs = {"general.architecture": arch, **common, **values}
    pairs = {f"{arch}.{k[1:]}" if k[0] == "_" else k: v for k, v in pairs.items() if v is not None}
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    head += b"".join(text(key) + packed(value) for key, value in pairs.items())
    for number, name in enumerate(tensors):
        head += text(name) + struct.pack("<IQIQ", 1, 8, 0, number * 32)
    return head + bytes(-len(head) % 32) + bytes(32 * len(tensors))


#: A model of 100 bytes that has no layers.
SHAPE = Shape(
    layers=(),
    input=100,
    output=0,
    repacked_output=0,
    tied=0,
    repacks=False,
    trained=64,
    embedding=8,
    heads=1,
    key=8,
    value=8,
    latent=False,
    window=0,
    feed=8,
    gated=False,
    experts_used=0,
    expert_feed=0,
    inner=0,
    causal=True,
    vocabulary=10,
    merges=0,
    rough=False,
)
