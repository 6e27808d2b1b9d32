"""Promises of llamagw.system: how much memory there is, in a container too."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from llamagw import system

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of control groups, of which there is none; this process is in ``/a/b`` of each."""
    own = tmp_path / "own"
    own.write_text("9:name=systemd:/\n4:memory:/a/b\n0::/a/b\n")
    monkeypatch.setattr(system, "_OWN_GROUPS", str(own))
    monkeypatch.setattr(system, "_CGROUP", str(tmp_path))
    machine = SimpleNamespace(total=16 * GIB, available=12 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)


def newer(folder: Path, limit: int, used: int, cached: int = 0) -> None:
    """A group of cgroup v2."""
    stat = f"anon 1\ninactive_file {cached}\nactive_file 0\n"
    write(folder, max=f"{limit}\n", current=f"{used}\n", stat=stat)


def test_without_a_limit_it_is_that_of_the_machine(groups: Path) -> None:
    for _ in range(2):
        assert system.machine_memory() == 16 * GIB
        assert system.memory_in_use() == (16 * GIB, 4 * GIB)
        write(groups, max="max\n", current="5", stat="")


def test_of_a_container_it_is_its_limit_and_what_is_used_of_that(groups: Path) -> None:
    """What files have in its cache is not in use."""
    newer(groups, 8 * GIB, used=5 * GIB, cached=2 * GIB)
    assert system.machine_memory() == 8 * GIB
    assert system.memory_in_use() == (8 * GIB, 3 * GIB)


def test_the_groups_around_its_own_count_as_well(groups: Path) -> None:
    newer(groups / "a", 8 * GIB, used=7 * GIB)
    newer(groups / "a" / "b", 9 * GIB, used=GIB)
    assert system.memory_in_use() == (8 * GIB, 7 * GIB)
    newer(groups / "a" / "b", 6 * GIB, used=GIB)
    assert system.memory_in_use() == (6 * GIB, 5 * GIB), (
        "its neighbours have most of what is around"
    )


def test_a_machine_that_is_full_has_no_more_for_a_group(groups: Path) -> None:
    newer(groups, 14 * GIB, used=GIB)
    assert system.memory_in_use() == (14 * GIB, 2 * GIB)


def test_the_older_kind_of_groups_is_known_too(groups: Path) -> None:
    write(
        groups / "memory" / "a" / "b",
        limit_in_bytes=str(8 * GIB),
        usage_in_bytes=str(5 * GIB),
        stat=f"inactive_file 7\ntotal_inactive_file {GIB}\ntotal_active_file {GIB}\n",
    )
    assert system.memory_in_use() == (8 * GIB, 3 * GIB)


def test_a_group_that_is_over_its_limit_has_nothing_left(groups: Path) -> None:
    newer(groups, 1000, used=5000)
    assert system.memory_in_use() == (1000, 1000)


def test_a_group_that_tells_nonsense_is_no_limit(groups: Path) -> None:
    write(groups, max=str(GIB), current="x", stat="inactive_file\n")
    assert system.memory_in_use() == (16 * GIB, 4 * GIB)
    system_groups = groups / "own"
    system_groups.write_bytes(b"\xff\xfe")
    assert system.machine_memory() == 16 * GIB


def test_whom_the_kernel_has_killed_is_counted_in_its_own_group_if_it_can_be(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere on the machine somebody may always run out of memory."""
    (groups / "vmstat").write_text("pgfault 12\noom_kill 30\n")
    monkeypatch.setattr(system, "_VMSTAT", str(groups / "vmstat"))
    assert system.oom_kills() == 30
    write(groups, events="oom 9\noom_kill 4\n")
    assert system.oom_kills() == 4, "of a container it is the root of what it sees"
    write(groups / "a" / "b", events="oom 3\noom_kill 2\noom_group_kill 0\n")
    assert system.oom_kills() == 2


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
