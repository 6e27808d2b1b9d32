"""Promises of how the engine is found, and what is said when it is not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest import mock

import pytest

from llamagw.config import machine
from tests.config.support import LEAST, ConfigCase


class EngineTests(ConfigCase):
    def test_a_bare_command_is_looked_for_on_the_path(self) -> None:
        self.engine.unlink()
        found = self.executable(self.folder / "bin" / "llama-server")
        with mock.patch.dict(os.environ, PATH=str(found.parent)):
            config = self.load(LEAST.replace("./", ""))
        self.assertEqual(config.llama_server_path, str(found))

    def test_a_file_beside_the_configuration_goes_before_the_path(self) -> None:
        other = self.executable(self.folder / "bin" / "llama-server")
        with mock.patch.dict(os.environ, PATH=str(other.parent)):
            config = self.load(LEAST.replace("./", ""))
        self.assertEqual(config.llama_server_path, str(self.engine))

    def test_a_bare_command_that_is_nowhere(self) -> None:
        self.engine.unlink()
        with mock.patch.dict(os.environ, PATH=str(self.folder / "bin")):
            said = self.fault(LEAST.replace("./", ""))
        self.assertEqual(
            said,
            f"config.yaml:1: llama_server_path: llama-server is neither on PATH nor in "
            f"{self.folder}; give the path of the llama-server executable of llama.cpp",
        )

    def test_a_path_with_a_folder_in_it_is_not_looked_for_on_the_path(self) -> None:
        self.engine.unlink()
        found = self.executable(self.folder / "bin" / "llama-server")
        with mock.patch.dict(os.environ, PATH=str(found.parent)):
            self.assertIn("there is no file", self.fault(LEAST))
            self.assertIn("there is no file", self.fault(LEAST.replace("./", f"{self.folder}/")))
            self.assertIn("there is no file", self.fault(LEAST.replace("./", "elsewhere/")))

    def test_an_engine_that_is_a_folder(self) -> None:
        self.assertIn("is not a file; give the path", self.fault(LEAST.replace("llama-server", "")))

    def test_an_engine_that_is_not_executable(self) -> None:
        self.engine.chmod(0o644)
        self.assertEqual(
            self.fault(LEAST),
            "config.yaml:1: llama_server_path: llama-server is not executable; chmod +x it, "
            "or give the path of the llama-server executable of llama.cpp",
        )


class Host:
    """A Linux machine as its files tell of it: four CPUs, of which two make a core."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups = folder / "groups"
        self.own = folder / "cgroup"
        self.cpus = folder / "cpus"
        for cpu in range(4):
            topology = self.cpus / f"cpu{cpu}" / "topology"
            topology.mkdir(parents=True)
            (topology / "core_cpus_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
        self.affinity = {0, 1, 2, 3}
        monkeypatch.setattr(machine, "_CPUS", str(self.cpus))
        monkeypatch.setattr(machine, "_GROUPS", str(self.groups))
        monkeypatch.setattr(machine, "_OWN_GROUP", str(self.own))
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: self.affinity, raising=False)

    def group(self, path: str, quota: str) -> None:
        (self.groups / path).mkdir(parents=True, exist_ok=True)
        (self.groups / path / "cpu.max").write_text(f"{quota} 100000\n")

    def cores(self) -> int:
        return machine.physical_cores.__wrapped__()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_two_threads_of_a_core_are_one_core(host: Host) -> None:
    assert host.cores() == 2
    host.affinity = {1, 3}
    assert host.cores() == 1


def test_a_machine_that_does_not_tell_of_its_cores_has_one_for_each_cpu(host: Host) -> None:
    for cpu in range(4):
        (host.cpus / f"cpu{cpu}" / "topology" / "core_cpus_list").unlink()
    assert host.cores() == 4


def test_a_quota_of_any_group_around_counts_and_at_least_one_core_is_left(host: Host) -> None:
    for cpu in range(8):
        (host.cpus / f"cpu{cpu}" / "topology").mkdir(parents=True, exist_ok=True)
    host.affinity = {*range(8)}
    before = host.cores()
    host.own.write_text("0::/system.slice/llamagw.service\n")
    host.group("system.slice/llamagw.service", "max")
    assert host.cores() == before
    host.group("system.slice", "350000")
    assert host.cores() == 3
    host.group("system.slice/llamagw.service", "50000")
    assert host.cores() == 1


def test_files_that_say_something_else_are_passed_over(host: Host) -> None:
    host.own.write_text("0::/a\n")
    host.group("a", "many")
    assert host.cores() == 2
