"""Promises of llamagw.launch.known: what is read once, again when it has changed, and by whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.logger import LogEvent, formatEvent

from llamagw import apart
from llamagw.apart import Commands, look_apart
from llamagw.launch import Known
from llamagw.launch import known as known_module
from llamagw.launch.listing import Listed
from llamagw.models import Facts, look_at
from tests.models.support import gguf_bytes
from tests.support.configs import configuration, local_model
from tests.support.logs import observe


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The paths that were asked for, and nobody is asked for flags."""
    lists: list[list[str]] = []

    def look(paths: list[str], seconds: float, commands: Commands) -> dict[str, Facts]:
        lists.append(paths)
        return look_at(paths, seconds)

    monkeypatch.setattr(known_module, "look_apart", look)
    monkeypatch.setattr(known_module, "known_flags", lambda *_: {})
    return lists


def test_a_file_is_read_again_only_when_it_has_changed(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    path, known = tmp_path / "a.gguf", Known()
    config = configuration(local_model("a", str(path)), local_model("b", str(path)))
    path.write_bytes(b"<html>")
    for _ in range(2):
        known.read(config, Commands())
    assert "web page" in known.problem(str(path))
    assert [note.model for note in known.notes(config)] == ["a", "b"]
    path.write_bytes(gguf_bytes())
    assert known.problem(str(path)) == "", "what was said is of another file"
    known.read(config, Commands())
    assert asked == [[str(path)], [], [str(path)]]
    assert known.notes(config) == []


def test_a_model_that_never_fits_is_a_fault_only_where_memory_is_counted(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    path, known = tmp_path / "a.gguf", Known()
    tensors = ("token_embd.weight", "blk.0.attn_k.weight", "blk.1.attn_k.weight")
    path.write_bytes(gguf_bytes(tensors=tensors))
    off = configuration(local_model("a", str(path)))
    known.read(off, Commands())
    assert known.faults(off) == []
    [fault] = known.faults(configuration(*off.models, memory={"host": "9MB"}))
    assert fault.place.startswith("models[0].")
    assert known.faults(configuration(*off.models, memory="auto")) == []


def test_what_is_missing_is_looked_for_each_time(tmp_path: Path, asked: list[list[str]]) -> None:
    path, known = tmp_path / "a.gguf", Known()
    config = configuration(local_model("a", str(path)))
    known.read(config, Commands())
    assert known.problem(str(path)) == f"there is no file {path}"
    path.write_bytes(gguf_bytes())
    known.read(config, Commands())
    assert known.problem(str(path)) == ""
    assert asked == [[str(path)]] * 2


def test_a_configuration_that_is_not_applied_takes_nothing_from_the_one_in_use(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    path, known = tmp_path / "a.gguf", Known()
    path.write_bytes(b"<html>")
    used, other = configuration(local_model("a", str(path))), configuration(local_model("b"))
    known.read(used, Commands())
    known.read(other, Commands())
    assert "web page" in known.problem(str(path))
    known.apply(other)
    assert known.problem(str(path)) == ""


def test_what_an_engine_loads_beside_its_model_is_read_too_and_counted(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    path, draft, known = tmp_path / "a.gguf", tmp_path / "d.gguf", Known()
    for one in (path, draft):
        one.write_bytes(gguf_bytes())
    two = local_model("b", str(path), extra_args=["-md", str(draft)])
    config = configuration(local_model("a", str(path)), two)
    known.read(config, Commands())
    assert asked == [[str(path), str(draft)]]
    alone, both = known.needs(config)["a"], known.needs(config)["b"]
    assert alone is not None
    assert both is not None
    assert both.host.kv == 2 * alone.host.kv
    known.apply(configuration(local_model("a", str(path))))
    without = known.needs(config)["b"]
    assert without is not None
    assert without.rough, "it is forgotten with the configuration that named it"


def test_where_memory_is_counted_check_is_told_what_a_model_is_counted_with(
    tmp_path: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = dict.fromkeys(("--list-devices", "--device", "--model", "--gpu-layers"), True)
    monkeypatch.setattr(known_module, "known_flags", lambda *_: flags)
    cards = [Listed("CUDA0", "", 2**34), Listed("CUDA1", "", 2**33)]
    monkeypatch.setattr(known_module, "list_devices", lambda *_: cards)
    path, known = tmp_path / "a.gguf", Known()
    path.write_bytes(gguf_bytes())
    off = configuration(local_model("a", str(path), gpu_layers=-1))
    config = configuration(local_model("a", str(path), gpu_layers=-1), memory="auto")
    known.read(config, Commands())
    needs, [plain] = known.places(config)["a"], known.needs(off).values()
    told = known.needs(config)["a"]
    assert plain is not None
    assert told is not None
    assert [need.flags for need in needs] == [("--device", "CUDA1"), ("--device", "CUDA0"), ()]
    assert told.devices["CUDA1"].own == needs[0].devices["CUDA1"]
    assert told.elsewhere == ("on CUDA0", "on CUDA0 + CUDA1")
    assert plain.host.margin == plain.host.cache == 0
    assert known.for_look(config).places(config)["a"] == needs, "for a look it is the same"


def test_what_is_learned_of_one_binary_is_not_said_of_another(
    tmp_path: Path, asked: list[list[str]]
) -> None:
    path, engine = tmp_path / "a.gguf", tmp_path / "engine"
    path.write_bytes(gguf_bytes())
    keys = []
    for build in (b"one", b"two!"):
        engine.write_bytes(build)
        known = Known()
        binary = {"llama_server_path": str(engine)}
        config = configuration(local_model("a", str(path)), memory="auto", **binary)
        known.read(config, Commands())
        [need] = known.places(config)["a"]
        keys.append(need.key)
    assert len({*keys}) == 2


def test_another_process_says_the_same_as_this_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf_bytes())
    paths = [str(tmp_path / "a.gguf"), "/nowhere.gguf"]
    assert look_apart(paths, 60, Commands()) == look_at(paths, 60)


def test_files_that_were_not_reached_are_told_and_said_nothing_of(
    tmp_path: Path, asked: list[list[str]], request: pytest.FixtureRequest
) -> None:
    logged: list[LogEvent] = []
    request.addfinalizer(observe(logged.append))
    path, known = tmp_path / "a.gguf", Known()
    path.write_bytes(b"<html>")
    config = configuration(local_model("a", str(path)), local_model("b", "/nowhere.gguf"))
    known.read(config, Commands(), seconds=-1)
    assert [note.model for note in known.notes(config)] == ["b"]
    [event] = logged
    assert formatEvent(event) == "1 of 2 model files were not looked at within -1 s"


def test_a_process_that_breaks_down_or_hangs_leaves_the_files_unread_and_says_so(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[LogEvent] = []
    request.addfinalizer(observe(logged.append))
    monkeypatch.setattr(Commands, "run", lambda *_, **__: (b"", b"Killed\n", -9))
    assert look_apart(["/a.gguf"], 0, Commands()) == {}
    monkeypatch.undo()
    monkeypatch.setattr(apart, "LOOK_GRACE_SEC", 0)
    assert look_apart(["/a.gguf"], 0, Commands()) == {}
    assert [event["why"] for event in logged] == [
        "the process that read it broke down: Killed",
        "took over 0 s to read",
    ]
