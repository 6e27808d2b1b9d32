"""Promises of the file of what keys have used: whole or not at all, bounded, never in the way."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llamagw.gate import KEPT_DAYS, UsageFile
from llamagw.gate.usagefile import DAMAGED, NAME, Row

ONE = {(20_000, "alice", "small"): [1, 10, 20]}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    made = tmp_path / "state"
    made.mkdir(mode=0o700)
    return str(made)


def rows(folder: str) -> list[Row]:
    return UsageFile(folder).rows(0, None, 1000)


def test_what_is_added_is_there_for_the_next_gateway(folder: str) -> None:
    file = UsageFile(folder)
    assert file.add(ONE)
    assert file.add({**ONE, (20_001, "bob", "small"): [2, 5, 6]})
    assert rows(folder) == [
        (20_001, "bob", "small", 2, 5, 6),
        (20_000, "alice", "small", 2, 20, 40),
    ]
    assert file.used(20_000) == {"alice": 60}
    assert file.rows(20_001, None, 9) == [(20_001, "bob", "small", 2, 5, 6)]
    assert file.rows(0, "alice", 9) == [(20_000, "alice", "small", 2, 20, 40)]
    assert len(file.rows(0, None, 1)) == 1
    assert os.stat(Path(folder) / NAME).st_mode & 0o777 == 0o600


def test_two_gateways_add_to_one_file(folder: str) -> None:
    first, second = UsageFile(folder), UsageFile(folder)
    for file in (first, second, first):
        assert file.add(ONE)
    assert rows(folder) == [(20_000, "alice", "small", 3, 30, 60)]


def test_old_days_are_dropped(folder: str) -> None:
    file = UsageFile(folder)
    file.add(ONE)
    file.add({(20_000 + KEPT_DAYS - 1, "alice", "small"): [1, 1, 1]})
    assert len(rows(folder)) == 2
    file.add({(20_000 + KEPT_DAYS, "alice", "small"): [1, 1, 1]})
    assert [row.day for row in rows(folder)] == [20_000 + KEPT_DAYS, 20_000 + KEPT_DAYS - 1]


def test_a_process_that_is_killed_leaves_what_it_had_written(folder: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from llamagw.gate import UsageFile\n"
        "file = UsageFile(sys.argv[1])\n"
        "file.add({(20_000, 'alice', 'small'): [1, 10, 20]})\n"
        # In the midst of the next one.
        "database = file._open()\n"
        "database.execute('BEGIN IMMEDIATE')\n"
        "database.execute('UPDATE usage SET prompt = 999')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run([sys.executable, "-c", code, folder], env=environment, check=False)
    assert ended.returncode == -9
    assert UsageFile(folder).add(ONE)
    assert rows(folder) == [(20_000, "alice", "small", 2, 20, 40)]


@pytest.mark.parametrize(
    "damage",
    [
        b"this is no database" * 100,
        b"SQLite format 3\0" + b"\xff" * 4000,
        b"other tables",
    ],
)
def test_a_damaged_file_is_put_aside_and_begun_anew(folder: str, damage: bytes) -> None:
    path = Path(folder) / NAME
    if damage == b"other tables":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE usage (a INTEGER)")
        database.close()
        damage = path.read_bytes()
    else:
        path.write_bytes(damage)
    file = UsageFile(folder)
    assert file.used(20_000) == {}
    assert file.add(ONE)
    assert rows(folder) == [(20_000, "alice", "small", 1, 10, 20)]
    assert (Path(folder) / (NAME + DAMAGED)).read_bytes() == damage


def test_a_file_that_is_damaged_in_its_midst(folder: str) -> None:
    file, path = UsageFile(folder), Path(folder) / NAME
    file.add({(20_000, f"key{number}", "small"): [1, 1, 1] for number in range(1000)})
    size = path.stat().st_size
    with path.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xff" * (size - 4096))
    file.close()
    assert file.add(ONE)
    assert len(rows(folder)) == 1


def test_one_that_cannot_be_written_now_says_so_and_loses_nothing(folder: str) -> None:
    file, path = UsageFile(folder), Path(folder) / NAME
    file.add(ONE)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    database = file._open()
    assert database is not None
    database.execute("PRAGMA busy_timeout = 10")
    assert not file.add(ONE)
    other.execute("ROLLBACK")
    other.close()
    assert file.add(ONE)
    assert rows(folder) == [(20_000, "alice", "small", 2, 20, 40)]


def test_a_folder_that_others_can_write_to_has_no_file(folder: str) -> None:
    os.chmod(folder, 0o777)
    for file in (UsageFile(folder), UsageFile(None)):
        assert file.add(ONE), "there is nothing that could be tried again"
        assert file.rows(0, None, 10) == []
    assert os.listdir(folder) == []


def test_numbers_beyond_all_bounds_do_no_harm(folder: str) -> None:
    file = UsageFile(folder)
    assert file.add({(20_000, "alice", "small"): [1, 2**70, 5]})
    assert rows(folder)[0].prompt == 2**62
