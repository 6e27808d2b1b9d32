"""Promises of llamagw.config.keys: what a file of keys may say, and what is said of a wrong one."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamagw.config import ConfigError, KeyEntry, described, load, read_keys, when
from llamagw.config import keys as reading
from llamagw.config.document import Document
from tests.config.support import GATEWAY, ConfigCase


def hashed(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


A, B, OLD = hashed("a"), hashed("b"), hashed("old")

#: The same two keys in all forms.
QUICK = f"""\
# Of the lab.
keys:
  # Both of them.
  - {{"name": "alice", "hash": "{A}", "models": ["qwen*"], "scopes": ["infer", "observe"]}}

  - {{"name": "bob", "hash": "{B}", "expires": "2027-01-31", "enabled": false}}
"""
BLOCK = f"""\
keys:
- name: alice
  hash: {A}
  models: [qwen*]
  scopes:
    - infer
    - observe
- name: bob
  hash: {B}
  expires: 2027-01-31
  enabled: false
"""
FLOW = f"""\
keys:
  - {{name: alice, hash: "{A}", models: [qwen*], scopes: [infer, observe]}}
  - {{name: bob, hash: "{B}", expires: 2027-01-31, enabled: no}}
"""
#: Written by the command, and gone on with by hand.
MIXED = f"""\
keys:
- {{"name": "alice", "hash": "{A}", "models": ["qwen*"], "scopes": ["infer", "observe"]}}
- name: bob
  hash: {B}
  expires: 2027-01-31
  enabled: false
"""
REMARK = QUICK.replace("false}", "false} # {gone}")
JSON = json.dumps({"keys": yaml.safe_load(BLOCK)["keys"]}, default=str)

BOTH = [
    KeyEntry(name="alice", hash=A, models=["qwen*"], scopes=["infer", "observe"]),
    KeyEntry(name="bob", hash=B, expires="2027-01-31", enabled=False),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


@pytest.fixture
def no_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML is not to be called."""

    def parse(*_: object) -> None:
        raise AssertionError("the file was read as YAML")

    monkeypatch.setattr(Document, "parse", parse)


def write(path: Path, text: str | bytes, mode: int = 0o600) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return str(path)


def faults(path: Path, text: str | bytes | None = None) -> list[tuple[int | None, str, str]]:
    """What is said of a file: line, place and message of each fault."""
    name = str(path) if text is None else write(path, text)
    with pytest.raises(ConfigError) as caught:
        read_keys(name)
    assert {fault.file for fault in caught.value.faults} == {name}
    return [(fault.line, fault.place, fault.message) for fault in caught.value.faults]


# ---- The forms --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [QUICK, BLOCK, FLOW, MIXED, REMARK, JSON, QUICK.replace("\n", "\r\n"), "\ufeff" + QUICK]
)
def test_all_ways_of_writing_them_say_the_same(path: Path, text: str) -> None:
    assert read_keys(write(path, text)) == BOTH


@pytest.mark.usefixtures("no_yaml")
@pytest.mark.parametrize("text", ["", "\n", "# Nobody yet.\n", "keys:\n", "keys:  # none\n\n"])
def test_a_file_without_entries_has_none(path: Path, text: str) -> None:
    assert read_keys(write(path, text)) == []


def test_an_empty_list_is_one(path: Path) -> None:
    assert read_keys(write(path, "keys: []\n")) == []


@pytest.mark.usefixtures("no_yaml")
def test_a_hundred_thousand_keys_are_read_without_pyyaml(path: Path) -> None:
    lines = [
        f'- {{"name": "k{n}", "hash": "{hashed(str(n))}", "models": ["*"], "scopes": ["infer"]}}\n'
        for n in range(100_000)
    ]
    found = read_keys(write(path, "keys:\n" + "".join(lines)))
    assert len(found) == 100_000
    assert found[-1] == KeyEntry(name="k99999", hash=hashed("99999"))


@pytest.mark.usefixtures("no_yaml")
def test_a_fault_in_the_quick_form_is_found_without_pyyaml(path: Path) -> None:
    text = QUICK.replace('"infer", ', '"drive", ')
    [(line, place, message)] = faults(path, text)
    assert (line, place) == (4, "keys[0].scopes")
    assert message.startswith("expected a list of infer, observe and manage, at least one of them")


# ---- What is wrong, and where -----------------------------------------------------------------


def one(**values: Any) -> dict[str, Any]:
    return {"name": "alice", "hash": A, **values}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"hash": A}, "name", "is missing; a name of 1 to 64 letters"),
    ({"name": "alice"}, "hash", "is missing; sha256: and 64 digits"),
    (one(name="al ice"), "name", "expected a name of 1 to 64 letters"),
    (one(name="al\x1b[31mice"), "name", "expected a name of 1 to 64 letters"),
    (one(name="alice\n"), "name", "expected a name of 1 to 64 letters"),
    (one(name="-alice"), "name", "expected a name of 1 to 64 letters"),
    (one(name="a" * 65), "name", "expected a name of 1 to 64 letters"),
    (one(name="аlice"), "name", "expected a name of 1 to 64 letters"),  # Cyrillic
    (one(hash="lgw_secret"), "hash", "expected sha256: and 64 digits"),
    (one(hash=A.upper()), "hash", "expected sha256: and 64 digits"),
    (one(hash=A + "\n"), "hash", "expected sha256: and 64 digits"),
    (one(scopes=[]), "scopes", "expected a list of infer, observe and manage"),
    (one(scopes=["admin"]), "scopes", "expected a list of infer, observe and manage"),
    (one(scopes="infer"), "scopes", "expected a list of infer, observe and manage"),
    (one(models="*"), "models", "expected a list of names or patterns"),
    (one(models=[""]), "models", "expected a list of names or patterns"),
    (one(models=["m"] * 1001), "models", "expected a list of names or patterns"),
    (one(models=["m" * 257]), "models", "expected a list of names or patterns"),
    (one(expires="soon"), "expires", "expected a day such as 2027-01-31"),
    (one(expires="2027-02-31"), "expires", "expected a day such as 2027-01-31"),
    (one(expires="2027-01-31\x1b12:00:00"), "expires", "expected a day such as 2027-01-31"),
    (one(expires=90), "expires", "expected a day such as 2027-01-31"),
    (one(enabled="yes"), "enabled", "expected true or false"),
    (one(old_hash=OLD), "old_hash", "and old_expires go together"),
    (one(old_expires="2027-01-31"), "old_hash", "and old_expires go together"),
    (one(nmae="bob"), "nmae", "unknown key; did you mean name?"),
]


@pytest.mark.parametrize(("entry", "place", "message"), WRONG)
def test_what_is_wrong_is_told_alike_in_both_forms_with_its_line(
    path: Path, entry: dict[str, Any], place: str, message: str
) -> None:
    fine = one(name="fine", hash=B)
    quick = faults(path, f"keys:\n- {json.dumps(fine)}\n- {json.dumps(entry)}\n")
    [found] = [fault for fault in quick if fault[1] == f"keys[1].{place}"]
    assert found[0] == 3
    assert found[2].startswith(message)
    by_hand = yaml.safe_dump({"keys": [fine, entry]}, sort_keys=False, allow_unicode=True)
    said = faults(path, by_hand)
    assert [fault[1:] for fault in said] == [fault[1:] for fault in quick]
    # A missing key has the line of its entry, else it is that of the key itself.
    [line] = [fault[0] for fault in said if fault[1] == f"keys[1].{place}"]
    assert line is not None
    assert line > by_hand[: by_hand.rindex("\n- ")].count("\n")


@pytest.mark.parametrize(
    ("text", "line", "place", "message"),
    [
        ("keys: {alice: 1}\n", 1, "keys", "expected a list of keys, each begun with"),
        ("keys:\n- alice\n", 2, "keys[0]", 'expected keys such as "name: …"'),
        ("key: []\n", 1, "keys", "is missing; a list of keys is needed"),
        ("keys: []\nkey: 1\n", 2, "key", "unknown key; the file has `keys:` alone"),
        ("keys: []\nkeys: []\n", 1, "keys", "is given twice"),
        ('keys:\n- {"name": "a", "name" : "b"}\n', 2, "keys[0].name", "is given twice"),
        ('keys:\n- {"name": "a", "n\\u0061me": "b"}\n', 2, "keys[0].name", "is given twice"),
        (
            QUICK.replace('"enabled"', '"name": "eve", "enabled"'),
            6,
            "keys[1].name",
            "is given twice",
        ),
        ("keys:\n- {name: a, name: b}\n", 2, "keys[0].name", "is given twice"),
        ("keys:\n- {\n", 3, "", "is not YAML"),
        ("keys: []\n- {}\n", 2, "", "is not YAML"),
        ('keys:\n- {"name": "a"}\n  - {"name": "b"}\n', 3, "", "is not YAML"),
    ],
)
def test_what_is_no_list_of_keys_is_told_where_it_stands(
    path: Path, text: str, line: int, place: str, message: str
) -> None:
    found = [fault for fault in faults(path, text) if fault[2].startswith(message)]
    assert [fault[:2] for fault in found] == [(line, place)]


def test_a_text_that_is_not_utf_8_is_a_fault(path: Path) -> None:
    said = faults(path, QUICK.encode().replace(b"alice", b"ali\xe7e"))
    assert [message for _, _, message in said] == [
        "cannot be read: it is not UTF-8 text; see config.example.yaml for a beginning"
    ]


def test_all_faults_are_told_at_once(path: Path) -> None:
    text = QUICK.replace("infer", "drive").replace("2027-01-31", "never")
    assert [(line, place) for line, place, _ in faults(path, text)] == [
        (4, "keys[0].scopes"),
        (6, "keys[1].expires"),
    ]


@pytest.mark.parametrize("form", [QUICK, BLOCK, FLOW])
def test_each_name_is_given_once(path: Path, form: str) -> None:
    [(_, place, message)] = faults(path, form.replace("bob", "alice"))
    assert place == "keys[1].name"
    assert message == "alice is the name of keys[0] too; each key needs its own"


@pytest.mark.parametrize("form", [QUICK, BLOCK, FLOW])
def test_each_secret_is_that_of_one_key(path: Path, form: str) -> None:
    [(_, place, message)] = faults(path, form.replace(B, A))
    assert (place, message) == ("keys[1].hash", "is that of keys[0] too; each key has its own")


def test_the_secret_before_is_no_other_key_s_either(path: Path) -> None:
    entries = [one(), one(name="bob", hash=B, old_hash=A, old_expires="2027-01-31")]
    text = "keys:\n" + "".join(f"- {json.dumps(entry)}\n" for entry in entries)
    assert [fault[:2] for fault in faults(path, text)] == [(3, "keys[1].old_hash")]


def test_a_fault_before_it_does_not_shift_the_place_of_another(path: Path) -> None:
    entries = [one(enabled=5), one(), one(hash=B)]
    for text in (
        "keys:\n" + "".join(f"- {json.dumps(entry)}\n" for entry in entries),
        yaml.safe_dump({"keys": entries}, sort_keys=False),
    ):
        [_, (_, place, message)] = faults(path, text)
        assert place == "keys[2].name"
        assert message.startswith("alice is the name of keys[1] too")


# ---- The file itself --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_file_that_others_can_read_or_change_is_a_fault_with_what_mends_it(
    path: Path, mode: int
) -> None:
    name = write(path, QUICK, mode)
    said = f"others can read it (mode {mode:04o}): chmod 600 {name}"
    assert faults(path) == [(None, "", said)]
    os.chmod(name, 0o600)
    assert read_keys(name) == BOTH


def test_systemd_sees_to_the_modes_of_its_credentials(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, QUICK, 0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert read_keys(str(path)) == BOTH
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent / "keys"))
    assert "chmod 600" in faults(path)[0][2]
    # An empty one is not the root folder.
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "")
    assert "chmod 600" in faults(path)[0][2]


def test_no_file_is_a_fault_that_says_how_to_make_one(path: Path) -> None:
    message = "there is no such file; `llamagw keys new NAME` makes it"
    assert faults(path) == [(None, "", message)]


def test_what_is_not_a_file_is_a_fault_and_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path, 0o600)
    assert faults(path) == [(None, "", "is not a file")]
    path.unlink()
    path.mkdir()
    assert faults(path) == [(None, "", "is not a file")]


def test_a_file_without_bounds_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_KEY_BYTES", 2**20)
    assert faults(path, b"#" * (2**20 + 1)) == [(None, "", "is no file of keys: it is over 1 MB")]


def test_a_large_file_is_not_given_to_pyyaml(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", len(QUICK))
    [(_, _, message)] = faults(path, FLOW + "#" * len(QUICK))
    assert "not of the form that `llamagw keys` writes" in message
    # The line is told that spoils it.
    spoiled = QUICK.replace("}\n\n", "}}\n\n") + "#" * len(QUICK)
    [(line, place, message)] = faults(path, spoiled)
    assert (line, place) == (4, "keys[0]")
    assert message.startswith("is not JSON: Extra data")


# ---- Times ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86400),
        ("1970-01-01T01:00:00Z", 3600),
        ("1970-01-01 01:00", 3600),
        ("1970-01-01T01:00:00+01:00", 0),
        ("0001-01-01T00:00:00+14:00", -62135647200),
        ("9999-12-31T23:59:59-14:00", 253402351199),
    ],
)
def test_a_time_is_that_of_utc_unless_it_says_otherwise(text: str, seconds: float) -> None:
    assert when(text) == seconds


@pytest.mark.parametrize("written", ["2027-01-31 12:00:00", "2027-01-31T12:00:00Z", "2027-01-31"])
def test_a_time_without_quotes_is_none_the_worse_for_yaml_s_dates(path: Path, written: str) -> None:
    [key] = read_keys(write(path, f"keys:\n- name: a\n  hash: {A}\n  expires: {written}\n"))
    assert key.expires is not None
    assert when(key.expires) == when(written)


# ---- In the configuration ---------------------------------------------------------------------


class ConfiguredTests(ConfigCase):
    def test_the_configuration_has_keys_of_the_same_form(self) -> None:
        keys = BLOCK.replace("\n", "\n  ").strip()
        config = self.load(GATEWAY.format(keys))
        self.assertEqual((config.keys, config.wants_keys), (BOTH, True))

    def test_their_faults_are_told_with_their_lines(self) -> None:
        said = self.fault(GATEWAY.format(BLOCK.replace("observe", "drive").strip()))
        self.assertTrue(said.startswith("config.yaml:7: keys[0].scopes: expected a list"), said)
        said = self.fault(GATEWAY.format(BLOCK.replace("bob", "alice").strip()))
        self.assertTrue(said.startswith("config.yaml:9: keys[1].name: alice is the name"), said)

    def test_an_empty_list_wants_keys_too(self) -> None:
        for keys in ("keys: []", "keys:"):
            config = self.load(GATEWAY.format(keys))
            self.assertEqual((config.keys, config.wants_keys), ([], True), keys)
        self.assertFalse(self.load(GATEWAY.format("")).wants_keys)

    def test_the_file_of_keys_is_found_beside_the_configuration_or_where_systemd_puts_it(
        self,
    ) -> None:
        config = self.load(GATEWAY.format("keys_file: keys.yaml"))
        self.assertEqual((config.keys_file, config.keys), (f"{self.folder}/keys.yaml", None))
        self.assertTrue(config.wants_keys)
        place = "keys_file: $CREDENTIALS_DIRECTORY/keys"
        self.patch(os, "environ", {**os.environ, "CREDENTIALS_DIRECTORY": "/run/credentials/x"})
        self.assertEqual(load(str(self.path)).keys_file, f"{self.folder}/keys.yaml")
        self.assertEqual(self.load(GATEWAY.format(place)).keys_file, "/run/credentials/x/keys")

    def test_the_configuration_in_force_tells_no_hash(self) -> None:
        config = self.load(GATEWAY.format(BLOCK.replace("\n", "\n  ").strip()))
        told = str(described(config, {}, None)["values"])
        self.assertIn("alice", told)
        self.assertIsNone(re.search(r"[0-9a-f]{64}", told))
