"""Promises of `llamagw usage`, and of limits in `llamagw keys`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llamagw.cli.main import cli
from llamagw.cli.usage import MOST_DAYS
from llamagw.config import LimitsEntry, read_keys
from llamagw.gate import KEPT_DAYS
from tests.support.scripted_gateway import ScriptedGateway


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedGateway]:
    gateway = ScriptedGateway()
    monkeypatch.setenv("LLAMAGW_URL", gateway.url)
    yield gateway
    gateway.down()


def run(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == status, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def row(day: str = "2026-11-25", key: str = "alice", **more: Any) -> dict[str, Any]:
    numbers = {"requests": 3, "prompt_tokens": 100, "completion_tokens": 2000}
    return {"day": day, "key": key, "model": "small", **numbers, **more}


# ---- usage ------------------------------------------------------------------------------------


def test_a_row_for_each_and_the_sum(gateway: ScriptedGateway) -> None:
    rows = [row(), row("2026-11-24", "bob", requests=10)]
    gateway.answers["/usage"] = 200, {"data": rows, "more": False}
    assert run("usage", "--days", "2", "--key", "alice").output == (
        "DAY         KEY    MODEL  REQUESTS  PROMPT  ANSWER\n"
        "2026-11-25  alice  small         3     100    2000\n"
        "2026-11-24  bob    small        10     100    2000\n"
        "all                             13     200    4000\n"
    )
    assert gateway.asked[-1][:2] == ("GET", "/usage?days=2&key=alice")
    assert json.loads(run("usage", "--json").output) == {"data": rows, "more": False}
    assert gateway.asked[-1][:2] == ("GET", "/usage?days=30")


def test_nothing_and_too_much_are_said(gateway: ScriptedGateway) -> None:
    gateway.answers["/usage"] = 200, {"data": [], "more": False}
    done = run("usage")
    assert (done.stdout, done.stderr) == ("", "nothing was used\n")
    gateway.answers["/usage"] = 200, {"data": [row()], "more": True}
    assert "there is more: ask for fewer --days" in run("usage").stderr


def test_what_no_gateway_says_is_told_in_a_line(gateway: ScriptedGateway) -> None:
    answers: list[Any] = [[], {"data": 5}, {"data": [{}]}, {"data": [row(requests="3")]}]
    for strange in answers:
        gateway.answers["/usage"] = 200, strange
        assert "is it another server?" in run("usage", status=1).stderr


def test_no_text_reaches_the_terminal_raw(gateway: ScriptedGateway) -> None:
    gateway.answers["/usage"] = 200, {"data": [row(key="\x1b]0;x\x07", model="a\u202eb")]}
    assert run("usage").output.replace("\n", "").isprintable()


def test_as_many_days_as_are_kept() -> None:
    assert MOST_DAYS == KEPT_DAYS
    assert "401 is not in the range" in run("usage", "--days", "401", status=2).stderr


# ---- limits of keys ---------------------------------------------------------------------------


def test_limits_are_written_listed_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = ("--keys-file", "keys.yaml")
    given = ("--requests-per-min", "60", "--tokens-per-min", "9000", "--tokens-per-day", "100000")
    more = ("--parallel", "2", "--max-body-mb", "0.5", "--max-tokens", "500")
    run("keys", "new", "alice", *file, *given, *more)
    run("keys", "new", "bob", *file)
    limits = LimitsEntry(
        requests_per_min=60,
        tokens_per_min=9000,
        tokens_per_day=100_000,
        parallel=2,
        max_body_mb=0.5,
        max_tokens=500,
    )
    for command in ((), ("disable",), ("rotate",)):
        if command:
            run("keys", *command, "alice", *file)
        alice, bob = read_keys("keys.yaml")
        assert (alice.limits, bob.limits) == (limits, None)
    listed = run("keys", "list", *file).output.splitlines()
    assert listed[0].split() == ["NAME", "STATE", "SCOPES", "MODELS", "LIMITS", "EXPIRES"]
    short = "60 req/min, 9000 tok/min, 100000 tok/day, 2 at once, 0.5 MB, 500 tok/answer"
    assert short in listed[1]
    assert listed[2].split()[-2:] == ["none", "never"]
    told = json.loads(run("keys", "list", "--json", *file).output)
    assert told[0]["limits"]["max_body_mb"] == 0.5
    assert told[1]["limits"] == {}


@pytest.mark.parametrize("wrong", ["0", "-1", "x", "1.5", "9" * 30])
def test_what_is_no_limit_makes_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run("keys", "new", "a", "--keys-file", "k", "--parallel", wrong, status=2)
    run("keys", "new", "a", "--keys-file", "k", "--max-body-mb", "0", status=2)
    run("keys", "new", "a", "--keys-file", "k", "--max-body-mb", "1e9", status=2)
    assert not Path("k").exists()
