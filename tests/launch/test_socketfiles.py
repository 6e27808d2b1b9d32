"""Promises of llamagw.launch.socketfiles: paths that fit, and nothing of the dead is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llamagw.launch.leftovers import Leftovers
from llamagw.launch.socketfiles import LONGEST, SocketFiles, problem


def test_no_path_is_given_twice_and_the_longest_is_foreseen(tmp_path: Path) -> None:
    files = SocketFiles(str(tmp_path / "own"))
    paths = [files.take() for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(path.endswith(".sock") for path in paths)
    longest = "/" + "a" * (LONGEST - len("//4194304-999999.sock"))
    assert problem(longest) == ""
    assert problem(f"{longest}a") != ""


def test_a_folder_with_too_long_a_path_is_told_with_its_length() -> None:
    said = problem("/" + "ä" * 60)
    assert said.startswith("needs paths of at most 100 bytes, and in /ä")
    assert "they have up to 141" in said


def test_a_folder_of_others_is_told_and_none_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    assert problem(str(folder)) == ""
    assert not folder.exists()
    folder.mkdir()
    folder.chmod(0o777)
    assert problem(str(folder)).startswith(f"needs a folder that is ours alone, and {folder} is")


def test_what_is_gone_already_is_no_fault(tmp_path: Path) -> None:
    files = SocketFiles(str(tmp_path))
    files.give_back(files.take())


@pytest.fixture
def dead() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_a_gateway_that_starts_removes_what_the_dead_have_left(tmp_path: Path, dead: int) -> None:
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    wait = "import sys; sys.stdin.read()"
    alive = subprocess.Popen([sys.executable, "-S", "-c", wait], stdin=subprocess.PIPE)
    kept = {f"{alive.pid}-1.sock", "other.sock", f"{dead}-1.socket", "x-1.sock"}
    for name in kept | {f"{dead}-1.sock", f"{dead}-22.sock", f"{os.getpid()}-1.sock"}:
        (folder / name).touch()
    try:
        Leftovers(str(folder)).clean_up()
        assert set(os.listdir(folder)) == kept | {f"{os.getpid()}.json"}
    finally:
        alive.communicate()


def test_one_that_has_ended_and_waits_for_its_parent_is_dead(tmp_path: Path) -> None:
    zombie = subprocess.Popen([sys.executable, "-S", "-c", ""], stdout=subprocess.PIPE)
    assert zombie.stdout is not None
    zombie.stdout.read()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    (tmp_path / f"{zombie.pid}-1.sock").touch()
    tmp_path.chmod(0o700)
    Leftovers(str(tmp_path)).clean_up()
    assert os.listdir(tmp_path) == [f"{os.getpid()}.json"]
    zombie.communicate()
