"""Promises of llamagw.models.files: a model in parts is one model, of the size of all of them."""

from __future__ import annotations

from pathlib import Path

from llamagw.models import files


def test_the_size_of_a_model_is_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"x" * 10)
    assert files.size(str(path)) == 10


def test_the_size_of_a_model_in_parts_is_that_of_all_of_them(tmp_path: Path) -> None:
    for number, size in ((1, 10), (2, 7), (3, 1)):
        (tmp_path / f"a-{number:05}-of-00003.gguf").write_bytes(b"x" * size)
    assert files.size(str(tmp_path / "a-00001-of-00003.gguf")) == 18


def test_a_model_has_no_size_while_a_part_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a-00001-of-00002.gguf").write_bytes(b"x")
    assert files.size(str(tmp_path / "a-00001-of-00002.gguf")) is None
    assert files.size(str(tmp_path / "none.gguf")) is None


def test_only_the_first_part_stands_for_all_of_them() -> None:
    first, second = "/m/a-00001-of-00002.gguf", "/m/a-00002-of-00002.gguf"
    assert files.parts(first) == [first, second]
    assert files.parts(second) == [second]
