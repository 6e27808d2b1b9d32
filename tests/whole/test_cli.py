"""The `llamagw` command with a real engine: from a folder of models to a model that was asked."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_llama_server import GGUF_HEAD
from tests.whole.harness import (
    DEADLINE,
    Gateway,
    engine,
    model,
    small_model,
    until_it_says,
    wait_until,
)

#: What the engine says of a GGUF file with nothing in it.
NO_MODEL = "unknown model architecture"

COMMAND = [sys.executable, "-c", "from llamagw.cli.main import main; main()"]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway([model("smol", aliases=["small"]), model("corrupt", model_path="bad.gguf")])
    (gateway.folder / "bad.gguf").write_bytes(GGUF_HEAD)
    try:
        yield gateway.start()
        gateway.stop()
    finally:
        gateway.clean_up()


def command(gateway: Gateway, *arguments: str) -> subprocess.Popen[str]:
    """In the gateway's folder, whose config.yaml says where it is."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=gateway.folder,
        env=gateway.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(gateway: Gateway, *arguments: str, status: int = 0) -> str:
    """What it printed, on stdout when all went well, else on stderr."""
    process = command(gateway, *arguments)
    stdout, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == status, stdout + stderr
    return stderr if status else stdout


def row(gateway: Gateway, name: str) -> list[str]:
    lines = said(gateway, "ps").splitlines()
    return next(line.split() for line in lines if line.startswith(f"{name} "))


def test_a_model_is_loaded_listed_and_unloaded(gateway: Gateway) -> None:
    assert row(gateway, "smol")[1] == "unloaded"
    assert re.fullmatch(r"small is loaded \(\d+\.\d s\)\n", said(gateway, "load", "small"))
    name, status, size, unit, rss, _, of_files, _, context, port, *rest = row(gateway, "smol")
    assert (name, status, size, unit, context) == ("smol", "loaded", "93.8", "MiB", "2048")
    assert float(rss) > float(of_files) > 90, "the weights are mapped"
    assert int(port) == gateway.report("smol")["port"]
    assert rest[:2] == ["0", "0"]
    told = json.loads(said(gateway, "ps", "--json"))
    assert told["data"][0]["status"]["value"] == "loaded"
    memory = told["data"][0]["memory"]
    assert memory["rss"] == memory["anon"] + memory["file"]
    assert re.fullmatch(r"smol is unloaded \(\d+\.\d s\)\n", said(gateway, "unload", "smol"))
    assert gateway.backends() == []


def test_what_cannot_be_loaded_is_told_with_the_engine_s_last_words(gateway: Gateway) -> None:
    printed = until_it_says(
        NO_MODEL, lambda: said(gateway, "load", "corrupt", status=1), lambda printed: printed
    )
    [line] = printed.splitlines()
    assert line.startswith("Error: ")
    assert row(gateway, "corrupt")[1] == "failed"
    assert "\ncorrupt failed just now: The model `corrupt` cannot" in said(gateway, "ps")
    said(gateway, "unload", "corrupt")
    assert row(gateway, "corrupt")[1] == "unloaded"
    [line] = said(gateway, "load", "smoll", status=1).splitlines()
    assert line.count("Did you mean `smol`?") == 1


def test_the_engine_s_log_is_printed_and_followed(gateway: Gateway) -> None:
    said(gateway, "load", "smol")
    lines = said(gateway, "logs", "smol").splitlines()
    assert len(lines) > 3
    assert said(gateway, "logs", "smol", "-n", "3").splitlines() == lines[-3:]
    following = command(gateway, "logs", "-f", "-n", "1", "smol")
    try:
        assert following.stdout is not None
        assert following.stdout.readline() == lines[-1] + "\n"
        gateway.chat("smol")
        assert following.stdout.readline()
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=DEADLINE)
    finally:
        following.kill()
    assert following.returncode == 130


def test_init_check_and_run_serve_what_is_in_a_folder() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "small.gguf").symlink_to(small_model())
        gateway = Gateway([])
        try:
            command = [*COMMAND, "init", folder, "--llama-server", str(engine()), "-o", "c.yaml"]
            places: dict[str, Any] = {
                "cwd": gateway.folder,
                "env": gateway.environ,
                "timeout": DEADLINE,
            }
            subprocess.run(command, check=True, **places)
            path = gateway.folder / "c.yaml"
            path.write_text(f"listen_addr: 127.0.0.1:{gateway.port}\n{path.read_text()}")
            subprocess.run([*COMMAND, "check", "-c", "c.yaml"], check=True, **places)
            gateway.spawn([*COMMAND, "run", "-c", "c.yaml"])
            gateway.wait_until_up()
            assert gateway.chat("small").status == 200
            gateway.stop()
        finally:
            gateway.clean_up()


def test_check_tells_what_engines_take() -> None:
    told = ["-lv", "4"]
    long = {"context_size": 8192, "parallel": 4}
    gateway = Gateway(
        [
            model("short", context_size=512, extra_args=told),
            model("long", **long, extra_args=told),
            model("half", **long, extra_args=[*told, "-ctk", "q8_0", "-ctv", "q8_0"]),
        ],
        max_loaded_models=3,
    )
    try:
        gateway.start()
        models = json.loads(said(gateway, "check", "--json"))["models"]
        estimated = {one["name"]: one["memory"]["devices"]["host"]["total"] for one in models}
        for name in estimated:
            said(gateway, "load", name)
        # What is told of memory may be a second old: from the midst of the last load.
        for name in estimated:
            about = partial(_takes_about, gateway, name, estimated[name])
            wait_until(about, f"{name} takes what was estimated", deadline=5)
        gateway.stop()
    finally:
        gateway.clean_up()


def _takes_about(gateway: Gateway, name: str, estimated: int) -> bool:
    """Whether an engine has so much memory, with what it does not touch before its first prompt."""
    compute = re.search(r"CPU compute buffer size = +([\d.]+) MiB", _log(gateway, name))
    assert compute is not None
    [one] = [one for one in json.loads(said(gateway, "ps", "--json"))["data"] if one["id"] == name]
    taken = one["memory"]["rss"] + float(compute[1]) * 2**20
    return bool(taken == pytest.approx(estimated, rel=0.05))


def _log(gateway: Gateway, name: str) -> str:
    return said(gateway, "logs", name, "-n", "1000")
