"""Promises of llamagw.models.facts: what a model is for, what it takes, why it cannot be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamagw.models import facts
from tests.models.support import gguf_bytes


def look(tmp_path: Path, **values: Any) -> facts.Facts:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes(**values))
    return facts.look(str(path))


def test_a_sound_model_has_no_problem(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert (found.problem, found.kind, found.trained) == ("", "text", 32768)
    assert found.size == (tmp_path / "x.gguf").stat().st_size
    assert found.shape is not None
    assert len(found.shape.layers) == 2


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"arch": "bert"}, "embeddings"),
        ({"arch": "nomic-bert"}, "embeddings"),
        ({"arch": "qwen3", "_pooling_type": 3}, "embeddings"),
        ({"arch": "qwen3", "_pooling_type": 4}, "ranking"),
        ({"arch": "bert", "tensors": ("cls.output.weight",)}, "ranking"),
        ({"arch": "qwen3"}, "text"),
    ],
)
def test_what_a_model_is_for(tmp_path: Path, values: dict[str, Any], kind: str) -> None:
    assert look(tmp_path, **values).kind == kind


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"general.type": "adapter"}, "is a LoRA adapter, not a model; give it by --lora"),
        ({"general.type": "mmproj"}, "is a projector, not a model; give it by --mmproj"),
        ({"arch": "clip"}, "is a projector, not a model; give it by --mmproj"),
    ],
)
def test_what_is_no_model_is_told(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    found = look(tmp_path, **values)
    assert found.problem == f"{tmp_path / 'x.gguf'} {said}"
    assert found.size, "it is loaded beside a model"


def test_the_part_that_is_damaged_is_named(tmp_path: Path) -> None:
    first, second = (tmp_path / f"a-{number:05}-of-00002.gguf" for number in (1, 2))
    first.write_bytes(gguf_bytes())
    second.write_bytes(gguf_bytes()[:-20])
    said = facts.look(str(first)).problem
    assert said.startswith(f"{second} is incomplete: it has ")
    second.write_bytes(gguf_bytes())
    assert facts.look(str(first)).problem == ""


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: Any) -> None:
    def refused(path: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(facts, "read", refused)
    assert look(tmp_path).problem.endswith("x.gguf cannot be read: Permission denied")


def test_after_its_time_no_further_file_is_read(tmp_path: Path) -> None:
    look(tmp_path)
    path = str(tmp_path / "x.gguf")
    assert {*facts.look_at([path, "/nowhere.gguf"], 60)} == {path, "/nowhere.gguf"}
    assert [*facts.look_at([path, "/nowhere.gguf"], -1)] == ["/nowhere.gguf"], "it is not there"
