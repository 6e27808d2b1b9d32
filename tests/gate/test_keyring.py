"""Promises of llamagw.gate.keyring: which secrets are valid, and what is said of the others."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest
from msgspec.structs import replace
from twisted.web.http_headers import Headers

from llamagw.config import ConfigError, KeyEntry, when
from llamagw.dialects import Scope
from llamagw.errors import Unauthorized
from llamagw.gate import Keyring, digest_of, new_secret, read_keyring
from llamagw.gate.keyring import secret_of
from tests.support.configs import configuration
from tests.support.keys import STRANGE, Secrets

NOW = when("2027-01-15")


def refused(keyring: Keyring, secret: str | bytes, now: float = NOW) -> str:
    """What is said of a secret that is not valid."""
    with pytest.raises(Unauthorized) as caught:
        keyring.find(secret if isinstance(secret, bytes) else secret.encode(), now)
    assert caught.value.invalid
    return caught.value.message


# ---- Which are valid --------------------------------------------------------------------------


def test_a_key_has_the_rights_of_its_entry() -> None:
    made = Secrets()
    alice = made.make("alice", "infer", "manage", models=["qwen*"])
    made.make("bob")
    caller = made.keyring().find(alice.encode(), NOW)
    assert (caller.name, caller.scopes) == ("alice", frozenset((Scope.INFER, Scope.MANAGE)))
    assert caller.may_use("qwen-7b")
    assert not caller.may_use("small")


def test_the_hash_is_no_secret() -> None:
    made = Secrets()
    made.make("alice")
    [entry] = made.entries
    for text in (entry.hash, entry.hash.removeprefix("sha256:")):
        assert "no API key of this server" in refused(made.keyring(), text)


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (STRANGE, "does not know that API key"),
        (STRANGE[:-1], "mistyped or cut"),
        (STRANGE.lower(), "mistyped or cut"),
        ("lgw_", "mistyped or cut"),
        ("sk-1234", "they begin with `lgw_`"),
        (b"\xff\xfe", "they begin with `lgw_`"),
    ],
)
def test_what_is_none_is_told_by_its_look_and_never_repeated(
    secret: str | bytes, said: str
) -> None:
    made = Secrets()
    made.make("alice")
    message = refused(made.keyring(), secret)
    assert said in message
    assert STRANGE[4:20] not in message
    assert "1234" not in message
    assert "alice" not in message


@pytest.mark.parametrize("near", range(4, 53, 7))
def test_a_near_miss_is_a_miss(near: int) -> None:
    made = Secrets()
    secret = made.make("alice")
    other = "A" if secret[near] != "A" else "B"
    refused(made.keyring(), secret[:near] + other + secret[near + 1 :])


def test_a_disabled_key_is_none() -> None:
    made = Secrets()
    secret = made.make("alice", enabled=False)
    assert refused(made.keyring(), secret) == "The API key `alice` is disabled."


def test_a_key_is_valid_until_it_expires_and_not_at_that_moment() -> None:
    made = Secrets()
    secret = made.make("alice", expires="2027-01-15")
    keyring = made.keyring()
    assert keyring.find(secret.encode(), NOW - 0.001).name == "alice"
    said = "The API key `alice` has expired (2027-01-15)."
    assert refused(keyring, secret, NOW) == said
    # A clock that is set back makes it valid again: nothing is remembered.
    assert keyring.find(secret.encode(), NOW - 1).name == "alice"


def rotated(**more: object) -> tuple[Keyring, str, str]:
    """A keyring with one key that was rotated; its old and its new secret."""
    old, new = new_secret(), new_secret()
    hashes = {"hash": digest_of(new.encode()), "old_hash": digest_of(old.encode())}
    values: dict[str, object] = {"name": "alice", **hashes, "old_expires": "2027-01-15", **more}
    return Keyring([KeyEntry(**values)]), old, new  # type: ignore[arg-type]


def test_both_secrets_of_a_rotated_key_are_valid_for_a_while() -> None:
    keyring, old, new = rotated()
    assert keyring.find(old.encode(), NOW - 1) is keyring.find(new.encode(), NOW - 1)
    said = "The API key `alice` has expired (2027-01-15); it was replaced by a new one."
    assert refused(keyring, old, NOW) == said
    assert keyring.find(new.encode(), NOW).name == "alice"


def test_a_rotated_key_ends_with_both_of_its_secrets() -> None:
    keyring, old, new = rotated(enabled=False)
    for secret in (old, new):
        assert "is disabled" in refused(keyring, secret, NOW - 1)
    keyring, old, new = rotated(expires="2027-01-10")
    for secret in (old, new):
        assert "has expired (2027-01-10)." in refused(keyring, secret, NOW - 1)


# ---- How they are found -------------------------------------------------------------------------


def test_secrets_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Secrets()
    secret = made.make("alice")
    compared: list[object] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    refused(made.keyring(), secret)
    assert compared == [(made.entries[0].hash,) * 2]


# ---- Where a request has it ---------------------------------------------------------------------


def sent(*headers: tuple[str, str]) -> bytes | None:
    """The secret of a request with these headers."""
    given: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        given.setdefault(name.encode(), []).append(value.encode())
    return secret_of(given)


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer k")],
        [("Authorization", "bearer k")],
        [("Authorization", "BEARER   k ")],
        [("X-Api-Key", "k")],
        [("Api-Key", "k")],
        [("Authorization", "Bearer k"), ("X-Api-Key", "k")],
        [("Authorization", "Basic YTpi"), ("X-Api-Key", "k")],
        [("Authorization", "Bearer k"), ("Authorization", "Bearer k")],
        [("Authorization", "Bearer"), ("Api-Key", "k")],
    ],
)
def test_a_secret_is_in_one_of_three_headers(headers: list[tuple[str, str]]) -> None:
    assert sent(*headers) == b"k"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "k")],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "Basic k")],
        [("Authorization", "Bearerk")],
        [("X-Api-Key", "")],
        [("Proxy-Authorization", "Bearer k")],
        [("Cookie", "api-key=k")],
    ],
)
def test_nothing_else_is_one(headers: list[tuple[str, str]]) -> None:
    assert sent(*headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer k"), ("Authorization", "Bearer l")],
        [("Authorization", "Bearer k"), ("X-Api-Key", "l")],
        [("X-Api-Key", "k"), ("Api-Key", "l")],
        [("X-Api-Key", "k"), ("X-Api-Key", "l")],
    ],
)
def test_of_two_secrets_none_is_chosen(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(Unauthorized, match="several API keys; send one") as caught:
        sent(*headers)
    assert caught.value.invalid


def test_one_that_is_too_long_is_not_hashed() -> None:
    assert sent(("X-Api-Key", "k" * 256)) == b"k" * 256
    with pytest.raises(Unauthorized, match="too long"):
        sent(("X-Api-Key", "k" * 257))


def test_the_names_are_those_that_twisted_makes_of_them() -> None:
    headers = Headers({"authorization": [""], "x-api-key": ["k"], "API-KEY": [""]})
    assert secret_of(dict(headers.getAllRawHeaders())) == b"k"
    assert {name for name, _ in headers.getAllRawHeaders()} == {
        b"Authorization",
        b"X-Api-Key",
        b"Api-Key",
    }


# ---- Where the keys come from -------------------------------------------------------------------


def entry(name: str, digit: str) -> KeyEntry:
    return KeyEntry(name=name, hash=f"sha256:{digit * 64}")


def write(folder: Path, *entries: KeyEntry) -> str:
    path = folder / "keys.yaml"
    lines = [f'- {{"name": "{one.name}", "hash": "{one.hash}"}}\n' for one in entries]
    path.write_text("keys:\n" + "".join(lines))
    path.chmod(0o600)
    return str(path)


def test_without_keys_there_is_no_keyring(tmp_path: Path) -> None:
    assert read_keyring(configuration()) is None
    # An empty one lets nobody in.
    for config in (configuration(keys=[]), configuration(keys_file=write(tmp_path))):
        keyring = read_keyring(config)
        assert keyring is not None
        assert len(keyring) == 0
        refused(keyring, STRANGE)


def test_those_of_the_configuration_and_of_the_file_are_one_keyring(tmp_path: Path) -> None:
    path = write(tmp_path, entry("bob", "b"))
    keyring = read_keyring(configuration(keys=[entry("alice", "a")], keys_file=path))
    assert keyring is not None
    assert repr(keyring) == "<Keyring: 2 keys>"


@pytest.mark.parametrize(
    ("twin", "said"),
    [
        (entry("alice", "b"), "keys[0].name: alice is the name of the configuration's keys too"),
        (entry("bob", "a"), "keys[0].hash: is that of the configuration's keys too"),
    ],
)
def test_one_that_is_in_both_is_a_fault(tmp_path: Path, twin: KeyEntry, said: str) -> None:
    path = write(tmp_path, twin)
    with pytest.raises(ConfigError) as caught:
        read_keyring(configuration(keys=[entry("alice", "a")], keys_file=path))
    assert said in str(caught.value)
    assert str(caught.value).startswith(path)


def test_no_text_about_it_has_a_secret_or_a_hash() -> None:
    made = Secrets()
    secret = made.make("alice")
    keyring = made.keyring()
    texts = (repr(keyring), repr(keyring.find(secret.encode(), NOW)), repr(made.gate()))
    for text in texts:
        assert secret[4:] not in text
        assert made.entries[0].hash[7:] not in text


# ---- Certificates -----------------------------------------------------------------------------


def test_a_name_in_a_certificate_stands_for_the_secret() -> None:
    key = replace(entry("alice", "a"), certificate="alice.lan")
    keyring = Keyring([key, entry("bob", "b")])
    caller = keyring.certified(lambda: ("", "x.lan", "alice.lan"), NOW)
    assert caller is not None
    assert caller.name == "alice"
    assert keyring.certified(lambda: ("", "bob"), NOW) is None


def test_a_certificate_of_a_key_that_is_not_valid_is_refused() -> None:
    key = replace(entry("alice", "a"), certificate="alice.lan", enabled=False)
    with pytest.raises(Unauthorized, match="disabled"):
        Keyring([key]).certified(lambda: ("alice.lan",), NOW)


def test_nobody_is_asked_for_a_certificate_if_no_key_has_one() -> None:
    def names() -> tuple[str, ...]:
        raise AssertionError("to take them out of a certificate costs some")

    assert Keyring([entry("alice", "a")]).certified(names, NOW) is None


def test_two_keys_of_one_certificate_are_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path, entry("alice", "a"), entry("bob", "b"))
    file = tmp_path / "keys.yaml"
    file.write_text(file.read_text().replace('"}', '", "certificate": "x.lan"}'))
    with pytest.raises(ConfigError, match=r"keys\[1\]\.certificate: is that of keys\[0\]"):
        read_keyring(configuration(keys_file=path))


# ---- Which are known --------------------------------------------------------------------------


def test_a_key_that_is_gone_disabled_or_expired_is_not_known() -> None:
    keyring = Keyring(
        [
            entry("alice", "a"),
            replace(entry("bob", "b"), enabled=False),
            replace(entry("carol", "c"), expires="2027-01-14"),
            replace(entry("dora", "d"), expires="2027-01-16"),
        ]
    )
    known = {name: keyring.knows(name, NOW) for name in ("alice", "bob", "carol", "dora", "eve")}
    assert known == {"alice": True, "bob": False, "carol": False, "dora": True, "eve": False}
