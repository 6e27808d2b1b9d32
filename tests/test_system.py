"""Promises of llamagw.system: how much memory there is, in a container too."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from llamagw import system

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of control groups, of which there is none."""
    monkeypatch.setattr(system, "_CGROUP", str(tmp_path))
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)


def test_without_a_limit_it_is_that_of_the_machine(groups: Path) -> None:
    found = psutil.virtual_memory()
    assert system.machine_memory() == found.total
    assert 0 < system.available_memory() < found.total
    write(groups, max="max\n", current="5", stat="")
    assert system.machine_memory() == found.total
    assert 0 < system.available_memory() < found.total


def test_of_a_container_it_is_its_limit_and_what_is_left_of_it(groups: Path) -> None:
    """What files have in its cache can be had."""
    write(
        groups,
        max=str(64 * 2**20),
        current=str(40 * 2**20),
        stat=f"anon 1\ninactive_file {10 * 2**20}\nactive_file {5 * 2**20}\n",
    )
    assert system.machine_memory() == 64 * 2**20
    assert system.available_memory() == (64 - 40 + 15) * 2**20


def test_the_older_kind_of_groups_is_known_too(groups: Path) -> None:
    write(
        groups / "memory",
        limit_in_bytes=str(64 * 2**20),
        usage_in_bytes=str(63 * 2**20),
        stat="inactive_file 7\ntotal_inactive_file 1048576\ntotal_active_file 0\n",
    )
    assert system.machine_memory() == 64 * 2**20
    assert system.available_memory() == 2 * 2**20


def test_a_group_that_is_over_its_limit_has_nothing_left(groups: Path) -> None:
    write(groups, max="1000", current="5000", stat="inactive_file 0\nactive_file 0\n")
    assert system.available_memory() == 0


def test_a_group_that_tells_nonsense_is_no_limit(groups: Path) -> None:
    write(groups, max=str(GIB), current="x", stat="inactive_file\n")
    assert system.available_memory() > 0


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/state"}, "/state/llamagw"),
        ({"XDG_STATE_HOME": "no/absolute/path", "HOME": "/home/a"}, "/home/a/.local/state/llamagw"),
    ],
    ids=["systemd", "xdg", "home"],
)
def test_what_outlives_a_restart_is_in_the_users_state_folder(
    environ: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert system.state_folder() == folder
