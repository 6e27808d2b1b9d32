"""Promises of llamagw.cli.keyfile: one entry is changed, and nothing else of the file."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from llamagw.cli.keyfile import KeyFile, Unchangeable
from llamagw.config import ConfigError, KeyEntry, read_keys

A, B, C = (f"sha256:{digit * 64}" for digit in "abc")
ALICE, BOB = KeyEntry(name="alice", hash=A), KeyEntry(name="bob", hash=B, models=["qwen*"])
CAROL = KeyEntry(name="carol", hash=C, scopes=["infer", "observe"], expires="2027-01-31")

WRITTEN = f"""\
# Of the lab; ask Ada before you change it.
keys:
# The staff
  - {{"name": "alice", "hash": "{A}", "models": ["*"], "scopes": ["infer"]}}

  # Guests
  - {{"name": "bob", "hash": "{B}", "models": ["qwen*"], "scopes": ["infer"]}}
  # the end
"""
LINE_OF_CAROL = (
    f'  - {{"name": "carol", "hash": "{C}", "models": ["*"], "scopes": ["infer", "observe"], '
    '"expires": "2027-01-31"}\n'
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def write(path: Path, text: str | bytes) -> KeyFile:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return KeyFile(str(path))


def text_of(path: Path) -> str:
    return path.read_bytes().decode()


def alone(path: Path) -> bool:
    """Whether nothing else is left in its folder."""
    return os.listdir(path.parent) == [path.name]


# ---- What stays ---------------------------------------------------------------------------------


def test_a_new_key_is_a_line_at_the_end_and_all_else_stays(path: Path) -> None:
    write(path, WRITTEN).add(CAROL)
    assert text_of(path) == WRITTEN + LINE_OF_CAROL
    assert read_keys(str(path)) == [ALICE, BOB, CAROL]
    assert alone(path)


def test_a_change_is_one_of_its_line_alone(path: Path) -> None:
    file = write(path, WRITTEN)
    assert file.change("alice", lambda one: replace(one, enabled=False)) == ALICE
    changed = WRITTEN.replace(
        '["*"], "scopes": ["infer"]', '["*"], "scopes": ["infer"], "enabled": false'
    )
    assert text_of(path) == changed
    file.change("alice", lambda one: replace(one, enabled=True))
    assert text_of(path) == WRITTEN


def test_what_is_removed_is_gone_and_its_neighbours_are_not(path: Path) -> None:
    file = write(path, WRITTEN)
    file.change("alice", lambda _: None)
    [line] = [line for line in WRITTEN.splitlines(keepends=True) if "alice" in line]
    assert text_of(path) == WRITTEN.replace(line, "")
    file.change("bob", lambda _: None)
    assert file.entries() == []
    file.add(BOB)
    assert file.entries() == [BOB]


@pytest.mark.parametrize(
    "comment",
    [
        "# Schlüssel\u2028und\x0cmehr\x85".encode(),  # more than YAML takes for the end of a line
        b"# Schl\xfcssel",  # Latin-1
        b"# - {no entry}",
    ],
)
def test_comments_stay_whatever_they_are(path: Path, comment: bytes) -> None:
    given = comment + b"\n" + WRITTEN.encode()
    write(path, given).add(CAROL)
    assert path.read_bytes() == given + LINE_OF_CAROL.encode()


def test_the_ends_of_lines_stay_as_they_are(path: Path) -> None:
    write(path, WRITTEN.replace("\n", "\r\n")).add(CAROL)
    assert text_of(path) == (WRITTEN + LINE_OF_CAROL).replace("\n", "\r\n")
    write(path, WRITTEN.removesuffix("\n")).add(CAROL)
    assert text_of(path) == WRITTEN + LINE_OF_CAROL


# ---- What else there may be ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "# Nobody yet.\n", "keys:\n", "keys: []\n", "# A\nkeys: # B\n"]
)
def test_a_file_without_keys_gets_its_first(path: Path, text: str) -> None:
    file = write(path, text)
    assert file.entries() == []
    file.add(ALICE)
    assert file.entries() == [ALICE]
    assert text_of(path).startswith(text.replace(" []", ""))


def test_a_file_that_is_not_there_is_made_for_its_owner_alone(path: Path) -> None:
    file = KeyFile(str(path))
    assert file.entries() == []
    before = os.umask(0)
    try:
        file.add(ALICE)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert text_of(path).startswith("# Who may use the gateway")
    assert file.entries() == [ALICE]


@pytest.mark.parametrize(
    "form",
    [
        "keys:\n- name: alice\n  hash: {}\n  models:\n  - '*'\n  scopes:\n  - infer\n",
        "keys:\n    - name: alice\n      hash: {}\n",
        "keys:\n- {{name: alice, hash: '{}'}}  # by hand\n",
    ],
)
def test_keys_that_were_written_by_hand_stay_and_others_are_added(path: Path, form: str) -> None:
    file = write(path, form.format(A))
    file.add(BOB)
    assert text_of(path).startswith(form.format(A))
    assert file.entries() == [ALICE, BOB]
    file.change("bob", lambda one: replace(one, enabled=False))
    assert file.entries() == [ALICE, replace(BOB, enabled=False)]
    before = text_of(path)
    with pytest.raises(
        Unchangeable, match=r"the entry of alice in .* was written by hand.*change it there"
    ):
        file.change("alice", lambda _: None)
    assert text_of(path) == before
    assert alone(path)


@pytest.mark.parametrize(
    "form", ["keys: [{{name: alice, hash: '{}'}}]\n", "{{keys: [{{name: alice, hash: '{}'}}]}}\n"]
)
def test_a_list_in_one_line_is_not_spoiled(path: Path, form: str) -> None:
    file = write(path, form.format(A))
    with pytest.raises(Unchangeable, match="not of a form that can be added to"):
        file.add(BOB)
    assert text_of(path) == form.format(A)
    assert alone(path)


def test_a_file_with_faults_is_not_changed(path: Path) -> None:
    given = WRITTEN.replace("infer", "drive")
    file = write(path, given)
    with pytest.raises(ConfigError):
        file.add(CAROL)
    with pytest.raises(ConfigError):
        file.change("bob", lambda _: None)
    assert text_of(path) == given


def test_a_name_is_added_once_and_an_unknown_one_is_not_changed(path: Path) -> None:
    file = write(path, WRITTEN)
    with pytest.raises(
        Unchangeable, match=r"there is a key called bob in .*`llamagw keys rotate bob`"
    ):
        file.add(BOB)
    with pytest.raises(
        Unchangeable, match=r"no key called carol in .*`llamagw keys list` has them"
    ):
        file.change("carol", lambda _: None)
    assert text_of(path) == WRITTEN


# ---- How it is written ------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(path, WRITTEN)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Unchangeable, match="cannot be written: No space left on device"):
        file.add(CAROL)
    assert text_of(path) == WRITTEN
    assert alone(path)


def test_it_is_on_the_disk_before_it_takes_the_place_of_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(path, WRITTEN)
    order: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: order.append("fsync"))

    def put(made: str, place: str) -> None:
        order.append("replace")
        rename(made, place)

    rename = os.replace
    monkeypatch.setattr(os, "replace", put)
    file.add(CAROL)
    assert order == ["fsync", "replace"]


def test_a_folder_that_is_not_there_is_told(path: Path) -> None:
    file = KeyFile(str(path.parent / "none" / "keys.yaml"))
    with pytest.raises(Unchangeable, match="cannot be written: No such file or directory"):
        file.add(ALICE)


def test_a_link_leads_to_the_file_that_is_changed(path: Path) -> None:
    write(path, WRITTEN)
    link = path.parent / "link.yaml"
    link.symlink_to(path)
    KeyFile(str(link)).add(CAROL)
    assert link.is_symlink()
    assert text_of(path) == WRITTEN + LINE_OF_CAROL


def test_its_owner_stays_its_owner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(path, WRITTEN)
    owners: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "chown", lambda _, uid, gid: owners.append((uid, gid)))
    file.add(CAROL)
    status = path.stat()
    assert owners == [(status.st_uid, status.st_gid)]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_root_changes_its_owner_can_still_read(path: Path) -> None:
    file = write(path, WRITTEN)
    os.chown(path, 65534, 65534)
    file.add(CAROL)
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (65534, 0o600)


def test_who_waits_for_another_s_change_does_not_undo_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(path, WRITTEN)
    locked: list[bool] = []

    def wait(descriptor: int, how: int) -> None:
        # Another has had the lock until now, and has added a key.
        lock(descriptor, how)
        locked.append(os.path.samestat(os.fstat(descriptor), path.parent.stat()))
        write(path, WRITTEN + LINE_OF_CAROL)

    lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", wait)
    file.add(KeyEntry(name="dave", hash=f"sha256:{'d' * 64}"))
    assert locked == [True]
    assert [key.name for key in file.entries()] == ["alice", "bob", "carol", "dave"]
