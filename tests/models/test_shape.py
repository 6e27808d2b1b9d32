"""Promises of llamagw.models.shape: what is read off a head, however odd that is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamagw.models import Flags, Shape, estimate, gguf, shape
from llamagw.models.gguf import Header, Tensor
from llamagw.models.shape import MOST_LAYERS
from tests.models import heads
from tests.models.support import gguf_bytes

KEYS = [
    "block_count",
    "embedding_length",
    "vocab_size",
    "context_length",
    "feed_forward_length",
    "pooling_type",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.shared_kv_layers",
    "attention.causal",
    "attention.key_length_mla",
    "expert_used_count",
    "expert_feed_forward_length",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.conv_kernel",
    "ssm.group_count",
    "wkv.head_size",
    "token_shift_count",
    "shortconv.l_cache",
]
NAMES = ("token_embd", "output", "blk.0.attn_k", "blk.1.ssm_in", "blk.99999.ffn_up_exps", "blk.x")


def read(tmp_path: Path, **values: Any) -> Shape | None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(**values))
    return shape([gguf.read(str(path))])


def test_layers_of_a_hybrid_have_a_cache_or_a_state(tmp_path: Path) -> None:
    found = shape([gguf.read(str(heads.write(heads.granite(), tmp_path / "x.gguf")))])
    assert found is not None
    attending = [n for n, layer in enumerate(found.layers) if layer.kv_heads]
    assert attending == [5, 15, 25, 35]
    assert [n for n, layer in enumerate(found.layers) if not layer.state] == attending


def test_a_recurrent_layer_may_have_a_tensor_that_elsewhere_is_attention() -> None:
    values: Any = {f"qwen35.{key}": 2 for key in ("block_count", "embedding_length")}
    values |= {"general.architecture": "qwen35", "qwen35.attention.head_count": 2}
    one = Tensor((2, 2), 0, 16)
    names = ("blk.0.attn_qkv.weight", "blk.0.ssm_conv1d.weight", "blk.1.attn_qkv.weight")
    found = shape([Header(values, dict.fromkeys(names, one))])
    assert found is not None
    assert [layer.kv_heads for layer in found.layers] == [0, 2]


def test_which_layers_slide_is_told_by_the_file_or_known_by_the_architecture(
    tmp_path: Path,
) -> None:
    def sliding(**values: Any) -> list[bool]:
        window = {"_attention.sliding_window": 512, "_block_count": 6, **values}
        found = read(tmp_path, **window)
        assert found is not None
        return [layer.sliding for layer in found.layers]

    assert sliding(arch="gemma3") == [True] * 5 + [False]
    assert sliding(arch="llama") == [False] * 6
    assert sliding(**{"_attention.sliding_window_pattern": 3}) == [True, True, False] * 2
    told = {"_attention.sliding_window_pattern": [1, 0, 0, 1, 0]}
    assert sliding(**told) == [True, False, False, True, False, False]


def test_layers_that_use_the_cache_of_others_have_none(tmp_path: Path) -> None:
    found = read(tmp_path, arch="gemma3n", **{"_attention.shared_kv_layers": 1})
    assert found is not None
    assert [layer.kv_heads for layer in found.layers] == [2, 0]


def test_the_parts_of_a_model_are_one(tmp_path: Path) -> None:
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    paths[0].write_bytes(gguf_bytes(tensors=("token_embd.weight", "blk.0.ffn_up.weight")))
    paths[1].write_bytes(gguf_bytes(tensors=("blk.1.ffn_up.weight", "output.weight")))
    found = shape([gguf.read(str(path)) for path in paths])
    assert found is not None
    assert [layer.weights for layer in found.layers] == [32, 32]
    assert (found.input, found.output, found.tied, found.weights) == (32, 32, 0, 128)


def test_an_architecture_that_is_not_known_is_rough(tmp_path: Path) -> None:
    for arch, rough in (("llama", False), ("llama9", True)):
        found = read(tmp_path, arch=arch)
        assert found is not None
        assert found.rough is rough


def test_a_type_of_weights_that_is_not_known_is_rough() -> None:
    values: Any = {"general.architecture": "llama", "llama.block_count": 1}
    values["llama.embedding_length"] = 8
    found = shape([Header(values, {"blk.0.x": Tensor((8,), 999, None)})])
    assert found is not None
    assert found.rough


@pytest.mark.parametrize(
    "values",
    [
        {"_block_count": None},
        {"_block_count": 0},
        {"_block_count": MOST_LAYERS + 1},
        {"_embedding_length": None},
    ],
)
def test_of_a_head_that_does_not_say_the_least_nothing_is_said(
    values: dict[str, Any], tmp_path: Path
) -> None:
    assert read(tmp_path, **values) is None


numbers = st.one_of(st.integers(0, 70), st.integers(-(2**63), 2**64 - 1), st.booleans())
found_values = st.one_of(numbers, st.lists(numbers, max_size=5), st.sampled_from([0.5, "x"]))
tensors = st.builds(
    Tensor,
    st.lists(st.integers(0, 2**64 - 1), max_size=4).map(tuple),
    st.integers(0, 50),
    st.one_of(st.none(), st.integers(0, 2**60)),
)


@given(
    st.dictionaries(st.sampled_from(KEYS), found_values),
    st.dictionaries(st.sampled_from(NAMES), tensors),
    st.sampled_from(["llama", "gemma3", "mamba", "", "x"]),
    st.builds(
        Flags,
        context=st.integers(0, 2**31),
        batch=st.integers(0, 2**31),
        parallel=st.integers(0, 2**31),
        unified=st.booleans(),
        flash=st.booleans(),
        gpu_layers=st.integers(0, 2**31),
        split=st.lists(st.floats(0, 1e9), max_size=3).map(tuple),
        devices=st.lists(st.sampled_from(["A", "B"]), max_size=3).map(tuple),
    ),
)
def test_whatever_a_head_says_there_is_a_result(
    values: dict[str, Any], named: dict[str, Tensor], arch: str, flags: Flags
) -> None:
    metadata = {f"{arch}.{key}": value for key, value in values.items()}
    found = shape([Header({"general.architecture": arch, **metadata}, named)])
    if found is not None:
        for parts in estimate(found, flags).devices.values():
            each = (parts.weights, parts.kv, parts.compute, parts.process)
            assert all(isinstance(one, int) and one >= 0 for one in each)
