"""The memory of engines: real processes, as the system tells of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from twisted.internet.task import Clock

from llamagw.launch import Memory
from llamagw.launch.memory import AGE_SEC, MemoryInUse

MB = 2**20

#: Holds memory of its own, then says so, until its stdin ends.
HOLD = """
import sys
held = bytearray(int(sys.argv[1]))
held[::4096] = bytes(len(held[::4096]))
print(flush=True)
sys.stdin.read()
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the parts are told on Linux only")


@contextmanager
def process(count: int, through_a_shell: bool = False) -> Iterator[int]:
    """The pid of a process, or of the shell that has started it, which holds some bytes."""
    command = [sys.executable, "-c", HOLD, str(count)]
    if through_a_shell:
        # The echo keeps the shell from becoming its last command.
        command = ["sh", "-c", '"$@"; echo', "sh", *command]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
    finally:
        child.communicate()


def read(pid: int) -> Memory:
    memory = MemoryInUse(Clock()).of(pid)
    assert memory is not None
    return memory


def test_it_grows_with_what_the_process_holds() -> None:
    with process(1) as little, process(100 * MB) as much:
        difference = read(much).rss - read(little).rss
    assert 90 * MB < difference < 110 * MB


@linux
def test_what_is_its_own_and_what_is_of_files_make_up_all() -> None:
    with process(1) as little, process(100 * MB) as much:
        before, after = read(little), read(much)
    for memory in (before, after):
        assert memory.anon is not None
        assert memory.file is not None
        assert memory.anon + memory.file == memory.rss
    assert (after.anon or 0) - (before.anon or 0) > 90 * MB
    # The interpreter and its libraries are the same ones.
    assert abs((after.file or 0) - (before.file or 0)) < 5 * MB


def test_all_of_a_session_counts() -> None:
    with process(100 * MB, through_a_shell=True) as shell:
        assert read(shell).rss > 100 * MB


def test_one_that_has_ended_has_none() -> None:
    with process(1) as pid:
        pass
    assert MemoryInUse(Clock()).of(pid) is None


def test_it_is_not_read_more_often_than_need_be(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, walks = Clock(), []
    memory = MemoryInUse(clock)
    getsid = os.getsid

    def counted(pid: int) -> int:
        walks.append(pid)
        return getsid(pid)

    monkeypatch.setattr(os, "getsid", counted)
    monkeypatch.setattr("psutil.pids", lambda: [os.getpid()])
    for _ in range(10):
        assert memory.of(os.getpid()) is not None
    assert len(walks) == 1
    clock.advance(AGE_SEC)
    memory.of(os.getpid())
    assert len(walks) == 2
