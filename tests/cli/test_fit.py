"""Promises of `llamagw fit`: what context and how many slots fit beside what is loaded."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llamagw.cli import fit as fit_module
from llamagw.cli.beside import Device, Loaded, Room, room, verdict
from llamagw.cli.client import Failed, configured_url
from llamagw.cli.fit import contexts
from llamagw.cli.main import cli
from llamagw.launch import Need
from llamagw.launch import known as known_module
from llamagw.models import HOST
from tests.models.support import gguf_bytes

GIB = 2**30


# ---- What fits beside what is loaded -------------------------------------------------------------


def on_host(gib: float) -> list[Need]:
    return [Need(devices={HOST: int(gib * GIB)})]


def with_loaded(free: float, **loaded: float) -> Room:
    """So many GiB are free in RAM; pinned models have names in capitals."""
    models = [
        Loaded(name, {HOST: int(size * GIB)}, name.isupper()) for name, size in loaded.items()
    ]
    return Room({HOST: Device(16 * GIB, int(free * GIB))}, models)


def test_what_is_free_suffices_to_the_byte() -> None:
    assert verdict(on_host(4), with_loaded(4, a=1)).unload == []
    assert verdict([Need(devices={HOST: 4 * GIB + 1})], with_loaded(4, a=1)).unload == ["a"]


def test_as_few_models_as_can_be_have_to_go_and_of_those_the_smallest() -> None:
    assert verdict(on_host(7), with_loaded(4, a=2, b=6, c=3, d=1)).unload == ["c"]
    assert verdict(on_host(12), with_loaded(4, a=2, b=6, c=3)).unload == ["a", "b"]


def test_pinned_models_do_not_go() -> None:
    assert verdict(on_host(7), with_loaded(4, P=3)).unload is None
    assert verdict(on_host(7), with_loaded(4, P=3, a=4)).unload == ["a"]


def test_models_on_other_devices_do_not_go() -> None:
    devices = {HOST: Device(GIB, 0), "CUDA0": Device(GIB, 0)}
    there = Room(devices, [Loaded("a", {"CUDA0": GIB}, False)])
    assert verdict(on_host(1), there).unload is None


def test_the_place_for_which_fewest_have_to_go_is_taken() -> None:
    devices = {"CUDA0": Device(8 * GIB, GIB), "CUDA1": Device(8 * GIB, 4 * GIB)}
    needs = [Need(devices={"CUDA0": 2 * GIB}), Need(devices={"CUDA1": 2 * GIB})]
    found = verdict(needs, Room(devices, [Loaded("a", {"CUDA0": 7 * GIB}, False)]))
    assert (found.need, found.unload) == (needs[1], [])


def test_what_more_than_is_theirs_others_hold_is_not_free() -> None:
    account = {"total": 20, "budget": 16, "ours": 4, "others": 7}
    assert room({"host": account}, [], "x").devices["host"] == Device(16, 9)


def test_the_model_itself_counts_as_if_it_were_not_loaded() -> None:
    account = {"total": 20, "budget": 20, "ours": 12, "others": 0}
    models = [
        {"id": "x", "charge": {"host": 8}},
        {"id": "y", "charge": {"host": 4}, "pinned": True},
        {"id": "cold"},
    ]
    found = room({"host": account}, models, "x")
    assert found.devices["host"].free == 16
    assert found.loaded == [Loaded("y", {"host": 4}, True)]


@pytest.mark.parametrize("accounts", [None, [], {}, {"host": 1}, {"host": {"total": "x"}}])
def test_a_gateway_that_does_not_tell_of_its_memory_is_seen(accounts: Any) -> None:
    with pytest.raises(ValueError, match="not counted"):
        room(accounts, [], "x")


def test_of_many_models_the_largest_go() -> None:
    loaded = {f"m{number}": 1 + number / 100 for number in range(30)}
    found = verdict(on_host(14), with_loaded(0, **loaded)).unload
    assert found is not None
    assert len(found) == 12
    assert "m0" not in found


# ---- The command --------------------------------------------------------------------------------


class Gateway:
    """Stands in for the client of a gateway that has loaded one model."""

    answers = False
    memory: Any = None

    def __init__(self, url: str, patience: float = 0) -> None:
        self.url = url

    def health(self) -> dict[str, Any]:
        if not self.answers:
            raise Failed(f"cannot reach llamagw at {self.url}")
        return {"status": "ok", "memory": self.memory}

    def models(self) -> dict[str, Any]:
        return {"data": [{"id": "other", "charge": {"host": 1 << 28}, "pinned": False}]}


@pytest.fixture(autouse=True)
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Gateway]:
    """A folder with a model and without a gateway; no engine is asked for its flags."""

    class Here(Gateway):
        pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.setattr(fit_module, "Client", Here)
    at_its_url = lambda path, patience: Here(configured_url(path), patience)  # noqa: E731
    monkeypatch.setattr(fit_module, "configured_client", at_its_url)
    monkeypatch.setattr(known_module, "known_flags", lambda *_: {})
    tensors = ("token_embd.weight", "blk.0.attn_k.weight", "blk.1.attn_k.weight")
    Path("tiny.gguf").write_bytes(gguf_bytes(tensors=tensors))
    return Here


def configured(**keys: Any) -> None:
    engine = Path("llama-server")
    engine.write_text("#!/bin/sh\n")
    engine.chmod(0o755)
    model = {"name": "tiny", "model_path": "tiny.gguf", "aliases": ["t"]}
    values = {"llama_server_path": "./llama-server", "models": [model], "memory": "auto", **keys}
    Path("config.yaml").write_text(json.dumps(values))


def run(words: str, status: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["fit", *shlex.split(words)])
    assert done.exit_code == status, done.output
    return done


def test_rows_are_contexts_up_to_what_it_was_trained_for() -> None:
    assert contexts(32768) == [4096, 8192, 16384, 32768]
    assert contexts(40960) == [4096, 8192, 16384, 32768, 40960]
    assert contexts(512) == [512]
    assert contexts(0)[-1] == 32768
    assert len(contexts(2**31)) == 12


def test_a_table_of_contexts_and_slots() -> None:
    lines = run("tiny.gguf").stdout.splitlines()
    assert lines[0] == "tiny.gguf"
    assert "trained for 32768" in " ".join(lines)
    [head] = [line for line in lines if line.startswith("CONTEXT")]
    assert head.split() == ["CONTEXT", "1", "SLOT", "2", "SLOTS", "4", "SLOTS", "8", "SLOTS"]
    rows = [line.split() for line in lines if line.strip()[:1].isdigit() and "fits" in line]
    assert [row[0] for row in rows] == ["4096", "8192", "16384", "32768"]
    assert all(row.count("fits") == 4 for row in rows)
    assert max(map(len, lines)) <= 80


def test_what_has_to_go_is_named(gateway: type[Gateway]) -> None:
    configured()
    gateway.answers = True
    mib = 1 << 20
    account = {"total": 1 << 30, "budget": 300 * mib, "ours": 256 * mib, "others": 0}
    gateway.memory = {"host": account}
    lines = run("t").stdout.splitlines()
    assert "Free for http://localhost:8000: 44 of 300 MiB in RAM." in lines
    assert "Loaded: other (256 MiB)." in lines
    assert "if A: it fits once other is unloaded." in lines


def test_what_does_not_fit_is_told() -> None:
    configured(memory={"host": "10MB"})
    lines = run("tiny").stdout.splitlines()
    [row] = [line for line in lines if line.lstrip().startswith("4096")]
    assert row.split().count("no") == 4


def test_json_has_each_cell(gateway: type[Gateway]) -> None:
    told = json.loads(run("tiny.gguf --json").stdout)
    assert told["model_path"] == os.path.abspath("tiny.gguf")
    assert told["gateway"] is None
    assert len(told["fits"]) == 16
    assert told["fits"][0]["unload"] == []
    assert told["fits"][0]["devices"]["host"] > 0


def test_a_smaller_cache_takes_less() -> None:
    sizes = [
        json.loads(run(f"tiny.gguf --json {more}").stdout)["kv_per_1000_tokens"]
        for more in ("", "--cache-type q8_0")
    ]
    assert 0 < sizes[1] < sizes[0]


def test_what_the_configuration_says_that_it_takes_does_not_hide_the_rows() -> None:
    configured(models=[{"name": "m", "model_path": "tiny.gguf", "memory": "1GB"}])
    fits = json.loads(run("m --json").stdout)["fits"]
    assert len({cell["devices"]["host"] for cell in fits}) > 3


def test_a_context_of_the_extra_args_does_not_hide_the_rows() -> None:
    model = {"name": "m", "model_path": "tiny.gguf", "extra_args": ["-c", "512", "-np", "1"]}
    configured(models=[model])
    fits = json.loads(run("m --json").stdout)["fits"]
    assert len({cell["devices"]["host"] for cell in fits}) > 3


def test_a_gateway_that_does_not_count_is_told(gateway: type[Gateway]) -> None:
    gateway.answers = True
    assert "does not count memory" in run("tiny.gguf").stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("nothing.gguf", "there is no file"),
        (".", "is a folder"),
        ("config.txt", "no configuration that could have this model"),
        ("tiny", "no configuration that could have this model"),
        ("tiny.gguf --url localhost:1", "cannot reach llamagw at localhost:1"),
    ],
)
def test_mistakes_are_told_in_a_line(words: str, why: str) -> None:
    done = run(words, status=1)
    assert done.stdout == ""
    assert why in done.stderr
    assert len(done.stderr.splitlines()) == 1
    told = json.loads(run(f"{words} --json", status=1).stdout)
    assert why in told["error"]["message"]


def test_what_is_no_model_is_told() -> None:
    Path("page.gguf").write_bytes(b"<html>")
    assert "web page" in run("page.gguf", status=1).stderr
    Path("x-00002-of-00003.gguf").write_bytes(gguf_bytes())
    assert "is part 2 of 3" in run("x-00002-of-00003.gguf", status=1).stderr


def test_a_name_that_the_configuration_does_not_have_is_told() -> None:
    configured(models=[{"name": "far", "url": "http://10.0.0.1:1"}])
    assert "has no model near" in run("near", status=1).stderr
    assert "lives elsewhere" in run("far", status=1).stderr


def test_a_faulty_configuration_is_not_needed_for_a_file() -> None:
    Path("config.yaml").write_text("models: 3")
    done = run("tiny.gguf")
    assert "config.yaml has faults, and is not used" in done.stderr
    assert "CONTEXT" in done.stdout
    assert "models" in run("tiny", status=1).stderr
