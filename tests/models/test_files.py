"""Promises of llamagw.models.files: a model in parts is one model, of the size of all of them."""

from __future__ import annotations

import time
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


def test_what_is_missing_is_told_by_its_name(tmp_path: Path) -> None:
    first = tmp_path / "a-00001-of-00003.gguf"
    assert files.absent(str(first)) == f"there is no file {first}"
    assert files.absent(str(tmp_path)) == f"{tmp_path} is a folder; give the .gguf file in it"
    first.touch()
    (tmp_path / "a-00002-of-00003.gguf").touch()
    said = files.absent(str(first))
    assert said == f"{first} is the first of 3 parts; missing: a-00003-of-00003.gguf"
    assert "give the first, " in files.absent(str(tmp_path / "a-00002-of-00003.gguf"))
    (tmp_path / "a-00003-of-00003.gguf").touch()
    assert files.absent(str(first)) == ""
    assert files.absent("/dev/null") == "/dev/null is neither a file nor a folder"


def test_of_very_many_missing_parts_few_are_named_and_looked_for(tmp_path: Path) -> None:
    first = tmp_path / "a-00001-of-99999.gguf"
    first.touch()
    begin = time.monotonic()
    assert files.absent(str(first)).endswith("a-00004-of-99999.gguf and more")
    assert time.monotonic() - begin < 1


def test_a_stamp_changes_with_any_part(tmp_path: Path) -> None:
    paths = [tmp_path / f"a-{number:05}-of-00002.gguf" for number in (1, 2)]
    paths[0].touch()
    assert files.stamp(str(paths[0])) is None
    paths[1].touch()
    before = files.stamp(str(paths[0]))
    assert before == files.stamp(str(paths[0]))
    paths[1].write_bytes(b"x")
    assert before != files.stamp(str(paths[0]))
