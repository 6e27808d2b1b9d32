"""Promises of llamagw.gate.secret: how a secret looks, and what is kept of it."""

from __future__ import annotations

import hashlib
import re
import secrets

import pytest

from llamagw.gate import digest_of, looks_whole, new_secret


def test_a_secret_is_found_by_its_look() -> None:
    for _ in range(100):
        assert re.fullmatch(r"lgw_[A-Za-z0-9_-]{49}", new_secret())


def test_each_has_256_random_bits_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int | None] = []
    real = secrets.token_urlsafe

    def drawn(count: int | None = None) -> str:
        asked.append(count)
        return real(count)

    monkeypatch.setattr(secrets, "token_urlsafe", drawn)
    assert len({new_secret() for _ in range(100)}) == 100
    assert asked == [32] * 100


def test_what_is_kept_is_the_sha_256_of_all_of_it() -> None:
    secret = new_secret()
    assert digest_of(secret.encode()) == f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def test_a_typo_is_told_from_a_stranger_s() -> None:
    secret = new_secret()
    assert looks_whole(secret.encode())
    for at in range(4, len(secret)):
        other = "A" if secret[at] != "A" else "B"
        assert not looks_whole((secret[:at] + other + secret[at + 1 :]).encode()), at
    for cut in (secret[:-1], secret[1:], secret + "A", secret.upper(), "", "lgw_", f"{secret}\n"):
        assert not looks_whole(cut.encode())
