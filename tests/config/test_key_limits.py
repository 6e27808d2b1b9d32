"""Promises of the limits of a key in a file: read alike in every form, and all faults told."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamagw.config import ConfigError, LimitsEntry, read_keys

HASH = "sha256:" + "0" * 64
LINE = f'- {{"name": "alice", "hash": "{HASH}", "limits": LIMITS}}'
BLOCK = f"- name: alice\n  hash: {HASH}\n  limits: LIMITS"


def read(folder: Path, form: str, limits: str) -> LimitsEntry | None:
    path = folder / "keys.yaml"
    path.write_text("keys:\n" + form.replace("LIMITS", limits))
    path.chmod(0o600)
    [key] = read_keys(str(path))
    return key.limits


@pytest.mark.parametrize("form", [LINE, BLOCK])
def test_each_limit_is_read_and_what_is_missing_is_not_limited(tmp_path: Path, form: str) -> None:
    some = '{"requests_per_min": 60, "max_body_mb": 0.5, "parallel": 2}'
    assert read(tmp_path, form, some) == LimitsEntry(
        requests_per_min=60, max_body_mb=0.5, parallel=2
    )
    everything = {
        "requests_per_min": 1,
        "tokens_per_min": 2,
        "tokens_per_day": 3,
        "parallel": 4,
        "max_body_mb": 5.0,
        "max_tokens": 6,
    }
    assert read(tmp_path, form, str(everything).replace("'", '"')) == LimitsEntry(
        requests_per_min=1,
        tokens_per_min=2,
        tokens_per_day=3,
        parallel=4,
        max_body_mb=5,
        max_tokens=6,
    )
    assert read(tmp_path, form, "{ }") == LimitsEntry()
    assert read(tmp_path, form, "null") is None


@pytest.mark.parametrize("form", [LINE, BLOCK])
@pytest.mark.parametrize(
    ("limits", "place", "message"),
    [
        ('{"parallel": 0}', ".parallel", "expected a whole number, 1 or more"),
        ('{"parallel": 1.5}', ".parallel", "expected a whole number, 1 or more"),
        ('{"parallel": 1e30}', ".parallel", "expected a whole number, 1 or more"),
        ('{"max_body_mb": 0}', ".max_body_mb", "expected a number of megabytes"),
        ('{"request_per_min": 1}', ".request_per_min", "did you mean requests_per_min?"),
        ('{"parallel": 1, "parallel": 2}', ".parallel", "is given twice"),
        ("[1]", "", "expected limits such as {requests_per_min: 60"),
        ("60", "", "expected limits such as {requests_per_min: 60"),
    ],
)
def test_what_is_no_limit_is_told(
    tmp_path: Path, form: str, limits: str, place: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, form, limits)
    [fault, *_] = caught.value.faults
    # One that is given twice in the inner mapping of a line has the place of the entry.
    assert fault.place in (f"keys[0].limits{place}", f"keys[0]{place}")
    assert message in fault.message
