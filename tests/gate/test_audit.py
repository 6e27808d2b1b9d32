"""Promises of the audit: who, from where, what, how it ended; no secrets; nothing without bound."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent

from llamagw.config import KeyEntry
from llamagw.gate import Audit, Keyring
from llamagw.gate.audit import MOST_REFUSALS, SPAN_SEC
from llamagw.listeners import Listeners
from llamagw.observe import Record
from tests.support.configs import configuration, local_model
from tests.support.logs import observe

SECRET = "lgw_" + "A" * 49


def entry(name: str, number: int = 0, **how: Any) -> KeyEntry:
    return KeyEntry(name=name, hash=f"sha256:{number:064x}", **how)


def record(method: bytes = b"POST", path: bytes = b"/models/load", **how: Any) -> Record:
    given = {"id": "r1", "arrived": 1.0, "client": "10.0.0.5", "status": 200, **how}
    return Record(method=method, path=path, **given)


@pytest.fixture
def lines() -> Any:
    """What the audit logs."""
    found: list[str] = []

    def note(event: LogEvent) -> None:
        if event["log_namespace"] == "llamagw.audit":
            found.append(formatEvent(event))

    stop = observe(note)
    yield found
    stop()


def audit(clock: Clock | None = None, **keys: Any) -> Audit:
    made = Audit(clock or Clock(), Listeners[Record]())
    made.apply(configuration(local_model("m"), **keys))
    return made


def wanting(clock: Clock | None = None, **keys: Any) -> Audit:
    return audit(clock, keys=[entry("alice")], **keys)


def test_an_order_is_told_with_who_gave_it(lines: list[str]) -> None:
    wanting().tell(record(key="alice", asked="big"))
    assert lines == ["key alice from 10.0.0.5: POST /models/load big 200 [r1]"]


def test_what_only_uses_or_looks_is_not_told(lines: list[str]) -> None:
    made = wanting()
    for method, path in (
        (b"POST", b"/v1/chat/completions"),
        (b"GET", b"/v1/models"),
        (b"GET", b"/activity"),
        (b"OPTIONS", b"/models/load"),
    ):
        made.tell(record(method, path, key="alice"))
    assert lines == []


@pytest.mark.parametrize("status", [401, 403, 429])
def test_a_refused_request_is_told_with_the_reason(lines: list[str], status: int) -> None:
    refused = record(path=b"/v1/chat/completions", status=status)
    refused.failed("no_right", "It has no right.")
    wanting().tell(refused)
    assert lines == [
        f"nobody from 10.0.0.5: POST /v1/chat/completions {status} [r1]: It has no right."
    ]


def test_what_an_engine_refuses_is_its_own(lines: list[str]) -> None:
    wanting().tell(record(path=b"/v1/chat/completions", status=401))
    assert lines == []


@pytest.mark.parametrize("path", [b"/models/unload", b"/%6dodels/unload", b"/upstream/m/x"])
def test_an_order_is_known_however_its_path_is_written(lines: list[str], path: bytes) -> None:
    wanting().tell(record(path=path))
    assert len(lines) == 1


def test_who_logs_in_and_out_is_told(lines: list[str]) -> None:
    made = wanting()
    for path in (b"/ui/login", b"/ui/logout"):
        made.tell(record(path=path, status=204))
    assert len(lines) == 2


def test_no_secret_and_no_control_character_is_told(lines: list[str]) -> None:
    made = wanting()
    made.tell(record(path=f"/upstream/{SECRET}%1b[31m%0a/x".encode(), asked="m\x1b[2J\n"))
    [line] = lines
    assert SECRET not in line
    assert line.isprintable()


def test_of_a_flood_of_refusals_some_are_told_and_how_many_more(lines: list[str]) -> None:
    clock = Clock()
    made = wanting(clock)
    refused = record(status=401)
    refused.failed("invalid_api_key", "No.")
    for _ in range(MOST_REFUSALS + 100):
        made.tell(refused)
    assert len(lines) == MOST_REFUSALS
    # Orders are told all the same.
    made.tell(record(key="alice"))
    assert len(lines) == MOST_REFUSALS + 1
    clock.advance(SPAN_SEC)
    made.tell(refused)
    assert lines[-2] == "100 more requests were refused"
    assert len(lines) == MOST_REFUSALS + 3


def test_a_change_of_the_keys_is_told_by_their_names(lines: list[str]) -> None:
    made = wanting()
    made.keys(Keyring([entry("a", 1), entry("b", 2)]))
    assert lines == [], "those that are read first are no change"
    made.keys(Keyring([entry("a", 1, enabled=False), entry("c", 3)]))
    made.keys(Keyring([entry("a", 1, enabled=False), entry("c", 3)]))
    assert lines == ["keys: added c; changed a; removed b"]


def test_it_hears_of_requests_only_where_keys_are_wanted_or_it_has_a_file(
    lines: list[str], tmp_path: Path
) -> None:
    records = Listeners[Record]()
    made = Audit(Clock(), records)
    path = tmp_path / "audit.jsonl"
    for keys, heard in (
        ({}, 0),
        ({"keys": [entry("alice")]}, 1),
        ({}, 1),
        ({"audit_log": str(path)}, 1),
        ({"keys": []}, 2),
    ):
        made.apply(configuration(local_model("m"), **keys))
        records.tell(record())
        assert len(lines) == heard
    assert len(path.read_text().splitlines()) == 1


def test_a_file_has_a_line_of_json_for_each(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    made = audit(audit_log=str(path))
    made.tell(record(key="alice", asked="big"))
    [told] = map(json.loads, path.read_text().splitlines())
    assert told.pop("time").endswith("+00:00")
    assert told == {
        "audit": "order",
        "key": "alice",
        "client": "10.0.0.5",
        "method": "POST",
        "path": "/models/load",
        "model": "big",
        "status": 200,
        "reason": None,
        "id": "r1",
    }
    assert path.stat().st_mode & 0o777 == 0o600
    assert lines == []


def test_a_file_that_was_moved_is_begun_anew_at_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    made = audit(audit_log=str(path))
    made.tell(record())
    os.rename(path, tmp_path / "old")
    made.apply(configuration(local_model("m"), audit_log=str(path)))
    made.tell(record())
    assert len(path.read_text().splitlines()) == 1
    assert len((tmp_path / "old").read_text().splitlines()) == 1


def test_a_file_that_cannot_be_opened_is_told_and_the_log_has_the_lines(
    lines: list[str], tmp_path: Path
) -> None:
    made = audit(audit_log=str(tmp_path / "missing" / "audit.jsonl"))
    made.tell(record(key="alice"))
    assert "cannot be opened: No such file or directory" in lines[0]
    assert lines[1].startswith("key alice from")
