"""Promises of `llamagw run`, stop, reload and status: which configuration, and a gateway's life."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner, Result

from llamagw.cli import places
from llamagw.cli.daemon import Daemon, NotRunning
from llamagw.cli.main import cli
from tests.support.fake_llama_server import GGUF_HEAD
from tests.whole.harness import DEADLINE, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-c", "from llamagw.cli.main import main; main()"]

#: A process that looks like a gateway to those who look at its command line.
FAKE = "import signal, sys, threading; {}; print('up', flush=True); threading.Event().wait()"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the user's folders in it."""
    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("LLAMAGW_URL", raising=False)
    return tmp_path


def write_config(path: str = "config.yaml", **values: object) -> Path:
    models = [{"name": "a", "model_path": "a.gguf"}]
    listen_addr = f"127.0.0.1:{free_port()}"
    config = {"llama_server_path": sys.executable, "listen_addr": listen_addr, "models": models}
    file = Path(path).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**config, **values}))
    (file.parent / "a.gguf").write_bytes(GGUF_HEAD)
    return file


def llamagw(command: str, status: int = 0) -> Result:
    done = CliRunner().invoke(cli, command.split())
    assert done.exit_code == status, done.output
    return done


def run(*arguments: str, status: int = 0) -> str:
    """What `llamagw run` prints; it executes twistd, so it has a process of its own."""
    done = subprocess.run(
        [*COMMAND, "run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert "Traceback" not in done.stdout
    return done.stdout


@contextmanager
def fake_daemon(pidfile: str, statement: str = "pass") -> Iterator[int]:
    """A process that a pidfile means, as of a gateway; yields its pid."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", FAKE.format(statement)),
            *("twistd", f"--pidfile={pidfile}", "--logfile=the.log"),
            *("llamagw", "--config", "config.yaml"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        Path(pidfile).write_text(str(process.pid))
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def end(config: Path) -> None:
    """Whatever became of it: no gateway with this configuration is left."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if f"--config={config}" in process.cmdline():
                process.kill()


# ---- Which configuration ------------------------------------------------------------------------


def test_the_configuration_of_this_folder_comes_before_the_user_s() -> None:
    assert places.find_config() is None
    theirs = write_config("XDG_CONFIG_HOME/llamagw/config.yaml")
    assert places.find_config() == str(theirs)
    assert llamagw("check").stdout.startswith(f"{theirs} is fine.")
    ours = write_config()
    assert llamagw("check").stdout.startswith(f"{ours} is fine.")


def test_a_relative_folder_in_the_environment_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    # As the XDG Base Directory Specification wants it.
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CONFIG_HOME", "here")
    assert places.user_config() == "/home/somebody/.config/llamagw/config.yaml"


@pytest.mark.parametrize("command", ["run", "run -d", "check", "stop", "reload", "status"])
def test_without_a_configuration_what_can_be_done_is_told(command: str) -> None:
    said = llamagw(command, status=1).stderr
    assert said.startswith("Error: no configuration")
    for way in ("llamagw init ", f"llamagw {command.split()[0]} FILE", "llama_server_path: "):
        assert way in said
    assert places.user_config() in said
    assert max(len(line) for line in said.splitlines() if "/XDG_CONFIG_HOME/" not in line) <= 80


def test_without_a_configuration_json_is_printed_all_the_same() -> None:
    for command in ("check --json", "status --json"):
        said = json.loads(llamagw(command, status=1).stdout)
        assert "no configuration" in said["error"]["message"]


def test_a_model_or_a_folder_for_a_configuration_leads_to_init() -> None:
    Path("models").mkdir()
    for given in ("models/a.gguf", "models/a.GGUF", "models"):
        said = llamagw(f"run {given}", status=2).stderr
        assert said.splitlines()[-1].endswith("llamagw init models")
    assert "a model, not" in llamagw("check a.gguf", status=2).stderr


def test_two_configurations_are_a_wrong_call() -> None:
    assert "give one" in llamagw("run a.yaml -c b.yaml", status=2).stderr


# ---- In the background --------------------------------------------------------------------------


def test_a_gateway_in_the_background_from_run_to_stop(folder: Path) -> None:
    config = write_config()
    try:
        said = run("-d")
        daemon = Daemon(places.daemon_files("config.yaml")[0])
        url = json.loads(config.read_text())["listen_addr"]
        assert f"pid {daemon.pid}" in said
        assert f"http://{url}" in said
        assert "llamagw stop\n" in said
        assert str(daemon.logfile) in said
        llamagw("ps")  # it answers
        told = json.loads(llamagw("status --json").stdout)
        assert (told["running"], told["pid"], told["config"]) == (True, daemon.pid, str(config))
        assert abs(told["since"] - time.time()) < DEADLINE
        for mode in ("-d", "-c"):  # in the background and in the foreground
            said = run(mode, "config.yaml", status=1)
            assert said.startswith(f"Error: it runs already, with pid {daemon.pid}")

        write_config(listen_addr=url, nonsense=1)
        assert "nonsense" in llamagw("reload", status=1).stderr
        write_config(listen_addr=url, models=[{"name": "b", "model_path": "b.gguf"}])
        assert str(daemon.logfile) in llamagw("reload").stdout
        wait_until(lambda: "b  " in llamagw("ps").stdout, "it has reloaded")

        assert llamagw("stop").stdout == f"pid {daemon.pid} has ended\n"
    finally:
        end(config)
    assert "not running" in llamagw("status", status=3).stderr
    assert daemon.logfile is not None
    assert Path(daemon.logfile).parent == folder / "XDG_STATE_HOME" / "llamagw"
    assert "Traceback" not in Path(daemon.logfile).read_text()
    assert not Path(daemon.pidfile).exists()


def test_gateways_with_different_configurations_do_not_share_files() -> None:
    names = {places.daemon_files(path) for path in ("config.yaml", "b/config.yaml", "c.yaml")}
    assert len(names) == 3
    assert places.daemon_files("config.yaml") == places.daemon_files(
        str(Path("config.yaml").absolute())
    )


@pytest.mark.parametrize("mode", [(), ("-d",)], ids=["foreground", "background"])
def test_a_flag_that_the_engine_does_not_have_is_told_with_its_line(mode: tuple[str, ...]) -> None:
    engine = Path("engine")
    engine.write_text("#!/bin/sh\necho '--model FNAME'; echo '--embeddings'\n")
    engine.chmod(0o755)
    model = {"name": "a", "model_path": "a.gguf", "extra_args": ["--embedings"]}
    path = write_config(llama_server_path="./engine", models=[model])
    said = run(*mode, "config.yaml", status=1)
    assert f"{path}:1: models[0].extra_args[0]: --embedings is no flag of this llama-" in said


def test_what_keeps_it_from_serving_is_told_before_it_detaches() -> None:
    port = free_port()
    write_config(listen_addr=f"127.0.0.1:{port}")
    with socket.create_server(("127.0.0.1", port)):
        [line] = run("-d", status=1).splitlines()
    assert line.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert line.endswith("change listen_addr")
    write_config(nonsense=1, max_loaded_models="many")
    assert len(run("-d", status=1).splitlines()) == 2
    llamagw("status", status=3)


@pytest.mark.parametrize("option", ["--pidfile", "--logfile"])
def test_a_file_that_cannot_be_written_is_told_in_a_line(option: str) -> None:
    write_config()
    [line] = run("-d", option, "nowhere/file", status=1).splitlines()
    assert line == "Error: nowhere/file cannot be written: No such file or directory"


def test_a_file_that_is_no_pidfile_is_not_touched() -> None:
    write_config()
    Path("mine").write_text("not a number")
    for command in ("run", "run -d", "stop", "status"):
        assert "mine is no pidfile" in llamagw(f"{command} --pidfile mine", status=1).stderr
    assert Path("mine").read_text() == "not a number"


def test_a_pidfile_of_a_process_that_has_ended_is_recognised() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(DEADLINE)
    Path("pid").write_text(str(process.pid))
    assert f"pid {process.pid} has ended" in llamagw("status --pidfile pid", status=3).stderr


def test_a_pidfile_of_another_program_is_recognised_and_it_is_left_alone() -> None:
    with fake_daemon("other.pid") as pid:
        # A gateway, but not the one of this pidfile.
        Path("pid").write_text(str(pid))
        for command in ("status", "stop", "reload"):
            said = llamagw(f"{command} --pidfile pid", status=3).stderr
            assert f"pid {pid} is another program by now" in said
        assert psutil.pid_exists(pid)
        Daemon("other.pid")
    Path("pid").write_text(str(os.getpid()))
    with pytest.raises(NotRunning, match="another program"):
        Daemon("pid")


def test_a_pidfile_that_was_left_behind_does_not_keep_it_from_starting() -> None:
    config = write_config()
    pidfile = Path("gateway.pid")
    pidfile.write_text(str(os.getpid()))
    try:
        run("-d", "--pidfile", "gateway.pid")
        assert Daemon("gateway.pid").config == str(config)
        llamagw("stop --pidfile gateway.pid")
    finally:
        end(config)
    assert not pidfile.exists()


def test_status_reads_the_files_off_the_process(folder: Path) -> None:
    write_config(listen_addr="127.0.0.1:8123")
    with fake_daemon("gateway.pid") as pid:
        said = llamagw("status --pidfile gateway.pid").stdout
        assert said.startswith(f"llamagw runs with pid {pid}, since ")
        for value in ("http://127.0.0.1:8123", folder / "config.yaml", folder / "the.log"):
            assert f" {value}\n" in said


def test_stop_waits_no_longer_than_it_is_told() -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with fake_daemon("gateway.pid", ignore):
        said = llamagw("stop --pidfile gateway.pid --timeout 0", status=1).stderr
    assert "has not ended within 0 s" in said


def test_reload_sends_sighup() -> None:
    write_config()
    hung_up = "signal.signal(signal.SIGHUP, lambda *_: open('hung-up', 'w'))"
    with fake_daemon("gateway.pid", hung_up):
        llamagw("reload --pidfile gateway.pid")
        wait_until(Path("hung-up").exists, "the signal has come")
        Path("hung-up").unlink()
        write_config(nonsense=1)
        llamagw("reload --pidfile gateway.pid", status=1)
        assert not Path("hung-up").exists()


def test_a_gateway_in_the_foreground_needs_no_state_folder_and_is_told_of() -> None:
    config = write_config()
    Path("XDG_STATE_HOME").write_text("no folder")
    process = subprocess.Popen(
        [*COMMAND, "run"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://{json.loads(config.read_text())['listen_addr']}"
    try:
        wait_until(lambda: CliRunner().invoke(cli, ["ps"]).exit_code == 0, "it answers")
        Path("XDG_STATE_HOME").unlink()
        assert f"one answers at {url}" in llamagw("stop", status=3).stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
