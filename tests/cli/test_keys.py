"""Promises of `llamagw keys`: a secret is printed once, and the file has what the gateway takes."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from llamagw.cli.main import cli
from llamagw.config import KeyEntry, read_keys, when
from llamagw.errors import Unauthorized
from llamagw.gate import Keyring

SECRET = re.compile(r"lgw_[A-Za-z0-9_-]{49}")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "keys.yaml"


def run(*arguments: str, status: int = 0) -> Result:
    options = [] if "-c" in arguments or "bare" in arguments else ["--keys-file", "keys.yaml"]
    given = [one for one in arguments if one != "bare"]
    done = CliRunner().invoke(cli, ["keys", *given[:1], *options, *given[1:]])
    assert done.exit_code == status, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def made(*arguments: str) -> str:
    """The secret of a new key."""
    secret = run("new", *arguments).stdout.removesuffix("\n")
    assert SECRET.fullmatch(secret), secret
    return secret


def entry(path: Path, name: str = "alice") -> KeyEntry:
    return {key.name: key for key in read_keys(str(path))}[name]


def valid(path: Path, secret: str, after: float = 0) -> bool:
    """Whether a gateway would take a secret."""
    try:
        Keyring(read_keys(str(path))).find(secret.encode(), time.time() + after)
    except Unauthorized:
        return False
    return True


# ---- new --------------------------------------------------------------------------------------


def test_a_new_key_is_valid_at_once_and_its_secret_is_nowhere_else(path: Path) -> None:
    secret = made("alice")
    assert entry(path) == KeyEntry(name="alice", hash=entry(path).hash)
    assert valid(path, secret)
    assert secret not in path.read_text()
    assert secret[4:20] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_secret_alone_is_on_stdout_and_what_it_may_do_is_said_beside_it(path: Path) -> None:
    done = run("new", "alice", "--models", "qwen*,small", "--scope", "infer,observe")
    assert SECRET.fullmatch(done.stdout.strip())
    assert done.stderr == (
        f"alice: infer, observe with qwen*, small, without end; in {path}. It is not shown again. "
        "A gateway that runs with this file takes it within seconds.\n"
    )


def test_what_it_may_do_is_in_its_entry(path: Path) -> None:
    made("alice", "--models", " qwen*, small ", "--scope", "observe", "--expires", "2027-01-31")
    expected = KeyEntry(
        name="alice",
        hash=entry(path).hash,
        models=["qwen*", "small"],
        scopes=["observe"],
        expires="2027-01-31",
    )
    assert entry(path) == expected


@pytest.mark.parametrize(("span", "seconds"), [("30m", 1800), ("24h", 86400), ("90d", 90 * 86400)])
def test_it_expires_after_a_span_or_on_a_day(path: Path, span: str, seconds: int) -> None:
    secret = made("alice", "--expires", span)
    expires = entry(path).expires
    assert expires is not None
    assert abs(when(expires) - time.time() - seconds) < 60
    assert valid(path, secret, seconds - 60)
    assert not valid(path, secret, seconds + 60)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["al ice"], "al ice is no name of 1 to 64 letters"),
        (["../x"], "../x is no name of 1 to 64 letters"),
        (["alice", "--scope", "admin"], "admin is none of infer, observe, manage"),
        (["alice", "--scope", ","], "at least one is needed"),
        (["alice", "--models", ""], "at least one is needed"),
        (["alice", "--expires", "soon"], "soon is neither a span such as 90d nor a day"),
        (["alice", "--expires", "9999999d"], "9999999d is neither a span such as 90d nor a day"),
        (["alice", "--expires", "2027-02-31"], "2027-02-31 is neither a span such as 90d nor"),
        (["alice", "--expires", "2027-01-31\x1b12:00"], "that cannot be in a file of keys"),
        (
            ["alice", "--models", "m" * 257],
            "that cannot be in a file of keys: Expected `str` of length <= 256",
        ),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_made(
    path: Path, arguments: list[str], said: str
) -> None:
    done = CliRunner().invoke(cli, ["keys", "new", "--keys-file", "keys.yaml", *arguments])
    assert done.exit_code != 0
    assert isinstance(done.exception, SystemExit)
    assert said in " ".join(done.stderr.split())
    assert "lgw_" not in done.output
    assert "\x1b" not in done.output
    assert not path.exists()


def test_a_name_is_given_once(path: Path) -> None:
    secret = made("alice")
    done = run("new", "alice", status=1)
    assert "`llamagw keys rotate alice` gives it a new secret" in " ".join(done.stderr.split())
    assert "lgw_" not in done.output
    assert valid(path, secret)


# ---- The others ---------------------------------------------------------------------------------


def test_a_disabled_key_is_valid_again_when_it_is_enabled(path: Path) -> None:
    secret = made("alice")
    assert run("disable", "alice").output.startswith("alice is disabled. A gateway that runs")
    assert not valid(path, secret)
    run("enable", "alice")
    assert valid(path, secret)


def test_a_rotated_key_has_two_secrets_for_a_while(path: Path) -> None:
    old = made("alice", "--models", "qwen*")
    done = run("rotate", "alice", "--overlap", "7d")
    new = done.stdout.strip()
    assert SECRET.fullmatch(new)
    assert new != old
    assert entry(path).models == ["qwen*"]
    assert [valid(path, one) for one in (old, new)] == [True, True]
    week = 7 * 86400
    assert [valid(path, one, week + 60) for one in (old, new)] == [False, True]
    assert f"The old secret of alice works until {entry(path).old_expires}." in done.stderr


def test_of_a_key_that_is_rotated_twice_the_first_secret_is_gone(path: Path) -> None:
    first = made("alice")
    second = run("rotate", "alice").stdout.strip()
    third = run("rotate", "alice").stdout.strip()
    assert [valid(path, one) for one in (first, second, third)] == [False, True, True]


def test_a_removed_key_is_gone(path: Path) -> None:
    secret = made("alice")
    assert run("rm", "alice").output.startswith("alice is gone.")
    assert not valid(path, secret)
    assert read_keys(str(path)) == []


@pytest.mark.parametrize("command", ["disable", "enable", "rotate", "rm"])
def test_a_key_that_is_not_there_is_told(path: Path, command: str) -> None:
    made("alice")
    done = run(command, "bob", status=1)
    assert "there is no key called bob" in done.stderr
    assert "lgw_" not in done.output


# ---- list -------------------------------------------------------------------------------------


def test_the_list_has_each_with_its_state_and_no_hash(path: Path) -> None:
    made("alice")
    made("bob", "--models", "qwen*,small", "--scope", "infer,observe", "--expires", "2099-01-31")
    made("carol", "--expires", "2001-01-31")
    made("dave")
    run("disable", "bob")
    run("rotate", "dave")
    assert run("list").output == (
        "NAME   STATE     SCOPES         MODELS       EXPIRES\n"
        "alice  valid     infer          *            never\n"
        "bob    disabled  infer,observe  qwen*,small  2099-01-31\n"
        "carol  expired   infer          *            2001-01-31\n"
        "dave   rotating  infer          *            never\n"
    )


def test_the_list_for_programs_has_the_same(path: Path) -> None:
    made("alice", "--expires", "2099-01-31")
    [told] = json.loads(run("list", "--json").output)
    assert told == {
        "name": "alice",
        "state": "valid",
        "scopes": ["infer"],
        "models": ["*"],
        "limits": {},
        "expires": "2099-01-31",
        "old_expires": None,
    }
    run("rm", "alice")
    assert json.loads(run("list", "--json").output) == []


def test_without_keys_the_list_says_how_to_make_one(path: Path) -> None:
    assert run("list").output == f"No keys in {path}; `llamagw keys new NAME` makes one.\n"


def test_no_text_of_the_file_reaches_the_terminal_raw(path: Path) -> None:
    made("alice", "--models", "\x1b]0;owned\x07*,\u202egnp")
    told = run("list").output
    assert told.replace("\n", "").isprintable()
    assert "owned" in told


# ---- Which file -------------------------------------------------------------------------------


def configure(path: Path, more: str) -> None:
    engine = path.parent / "llama-server"
    engine.write_text("#!/bin/sh\n")
    engine.chmod(0o755)
    (path.parent / "m.gguf").write_bytes(b"GGUF")
    (path.parent / "config.yaml").write_text(
        f"llama_server_path: ./llama-server\nmodels: [{{name: m, model_path: m.gguf}}]\n{more}"
    )


def test_it_is_that_of_the_configuration_unless_another_is_named(path: Path) -> None:
    configure(path, "keys_file: lab/keys.yaml\n")
    (path.parent / "lab").mkdir()
    run("bare", "new", "alice")
    assert entry(path.parent / "lab" / "keys.yaml").name == "alice"
    run("new", "bob", "-c", "config.yaml")
    assert entry(path.parent / "lab" / "keys.yaml", "bob").name == "bob"
    assert not path.exists()


def test_a_configuration_without_one_says_which_line_is_lacking(path: Path) -> None:
    configure(path, "")
    done = run("bare", "new", "alice", status=1)
    assert "has no keys_file; add a line such as `keys_file: keys.yaml`" in " ".join(
        done.stderr.split()
    )
    assert "lgw_" not in done.output


def test_faults_of_the_file_are_told_with_their_lines(path: Path) -> None:
    path.write_text("keys:\n- {name: alice}\n")
    path.chmod(0o600)
    for arguments in (["list"], ["new", "bob"], ["disable", "alice"]):
        done = run(*arguments, status=1)
        assert "keys.yaml:2: keys[0].hash: is missing" in done.stderr
    path.chmod(0o644)
    assert f"chmod 600 {path}" in run("list", status=1).stderr


def test_without_a_configuration_it_says_how_to_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    done = CliRunner().invoke(cli, ["keys", "new", "alice"])
    assert done.exit_code == 1
    assert "name it with --keys-file" in done.output
