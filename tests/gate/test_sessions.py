"""Promises of llamagw.gate.sessions: how long a session lives, how many there are, what is held."""

from __future__ import annotations

import pytest

from llamagw.gate.sessions import (
    IDLE_SEC,
    LONGEST_SEC,
    MOST,
    MOST_OF_A_KEY,
    Sessions,
    token_of,
)


def test_a_session_is_found_by_its_token_alone() -> None:
    sessions = Sessions()
    token, session = sessions.begin("sha256:a", 0.0)
    other, _ = sessions.begin("sha256:a", 0.0)
    assert sessions.find(token, 1.0) is session
    assert session.digest == "sha256:a"
    assert token != other
    assert sessions.find(token[:-1] + b"?", 1.0) is None


def test_a_token_is_of_256_random_bits_and_held_by_nobody() -> None:
    sessions = Sessions()
    token, session = sessions.begin("sha256:a", 0.0)
    assert len(token) == 43  # of base64url, six bits each
    held = [*sessions._open, session.csrf.encode(), session.digest.encode()]
    assert not any(token in one for one in held)


def test_a_session_ends_when_unused_for_long_and_use_makes_it_live_on() -> None:
    sessions = Sessions()
    unused, _ = sessions.begin("sha256:a", 0.0)
    used, _ = sessions.begin("sha256:a", 0.0)
    assert sessions.find(used, IDLE_SEC - 1) is not None
    assert sessions.find(unused, IDLE_SEC) is None
    assert sessions.find(used, 2 * IDLE_SEC - 2) is not None
    assert len(sessions) == 1


def test_however_much_it_is_used_it_ends_after_a_week() -> None:
    sessions = Sessions()
    token, session = sessions.begin("sha256:a", 0.0)
    now = 0.0
    while now < LONGEST_SEC - IDLE_SEC / 2:
        assert sessions.find(token, now) is session
        now += IDLE_SEC / 2
    assert sessions.find(token, LONGEST_SEC) is None
    assert len(sessions) == 0


def test_there_are_so_many_at_most_and_the_one_unused_for_longest_goes() -> None:
    sessions = Sessions()
    tokens = [sessions.begin(f"sha256:{number}", 0.0)[0] for number in range(MOST)]
    assert sessions.find(tokens[0], 1.0) is not None
    sessions.begin("sha256:new", 2.0)
    assert len(sessions) == MOST
    assert sessions.find(tokens[0], 3.0) is not None
    assert sessions.find(tokens[1], 3.0) is None


def test_who_logs_in_often_ends_no_session_of_another_key() -> None:
    sessions = Sessions()
    token, _ = sessions.begin("sha256:a", 0.0)
    for _ in range(2 * MOST):
        sessions.begin("sha256:b", 1.0)
    assert len(sessions) == 1 + MOST_OF_A_KEY
    assert sessions.find(token, 2.0) is not None


def test_a_session_that_was_ended_is_found_no_more() -> None:
    sessions = Sessions()
    token, _ = sessions.begin("sha256:a", 0.0)
    sessions.end(token)
    sessions.end(token)
    assert sessions.find(token, 1.0) is None


@pytest.mark.parametrize(
    ("sent", "proves"),
    [([b"own"], True), ([], False), ([b"other"], False), ([b"own", b"own"], False), ([b""], False)],
)
def test_only_its_own_csrf_token_proves_a_session(sent: list[bytes], proves: bool) -> None:
    _, session = Sessions().begin("sha256:a", 0.0)
    values = [session.csrf.encode() if value == b"own" else value for value in sent]
    assert session.is_proved_by(values) is proves


TOKEN = b"x" * 43


@pytest.mark.parametrize(
    ("cookies", "found"),
    [
        ([b"llamagw_session=" + TOKEN], TOKEN),
        ([b"a=b; llamagw_session=" + TOKEN + b" ; c"], TOKEN),
        ([b"a=b", b"llamagw_session=" + TOKEN], TOKEN),
        ([b"llamagw_session=" + TOKEN, b"llamagw_session=" + TOKEN], TOKEN),
        ([b"llamagw_session=" + TOKEN + b"; llamagw_session=" + b"y" * 43], None),
        ([b"llamagw_session=" + TOKEN + b"; llamagw_session="], None),
        ([b"llamagw_session=" + TOKEN + b"x"], None),
        ([b"llamagw_session=\xff" + TOKEN[1:]], None),
        ([b"Llamagw_Session=" + TOKEN], None),
        ([b"xllamagw_session=" + TOKEN], None),
        ([b";;=;" * 4000], None),
        ([], None),
    ],
)
def test_a_request_has_one_token_or_none(cookies: list[bytes], found: bytes | None) -> None:
    assert token_of({b"Cookie": cookies}) == found
