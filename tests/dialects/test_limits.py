"""Promises of the headers that tell what is left of limits: each API's own names and units."""

from __future__ import annotations

import pytest

from llamagw.dialects import ANTHROPIC, OPENAI, Left
from llamagw.dialects.openai import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, b"0ms"), (0.0004, b"1ms"), (0.12, b"120ms"), (1, b"1s"), (1.001, b"2s")),
        *((59.5, b"1m0s"), (360, b"6m0s"), (3605, b"1h0m5s"), (86400, b"24h0m0s")),
    ],
)
def test_durations_are_as_openai_writes_them(seconds: float, text: bytes) -> None:
    assert duration(seconds) == text


def test_openai() -> None:
    assert OPENAI.limits(Left(60, 59, 1.0), Left(1000, 0, 360.0), 0.0) == (
        b"x-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 59\r\n"
        b"x-ratelimit-reset-requests: 1s\r\n"
        b"x-ratelimit-limit-tokens: 1000\r\nx-ratelimit-remaining-tokens: 0\r\n"
        b"x-ratelimit-reset-tokens: 6m0s\r\n"
    )
    assert OPENAI.limits(None, None, 0.0) == b""


def test_anthropic() -> None:
    assert ANTHROPIC.limits(Left(60, 59, 1.0), None, 1_800_000_000.5) == (
        b"anthropic-ratelimit-requests-limit: 60\r\n"
        b"anthropic-ratelimit-requests-remaining: 59\r\n"
        b"anthropic-ratelimit-requests-reset: 2027-01-15T08:00:02Z\r\n"
    )
    assert ANTHROPIC.limits(None, None, 0.0) == b""
