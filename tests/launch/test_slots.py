"""What an engine answers of its slots, as llama-server 10068 writes it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from llamagw.launch.slots import idle_slots, make_folder, save_folder, tokens_erased


def test_only_slots_without_a_request_are_erased() -> None:
    body = (
        b'[{"id":0,"n_ctx":8192,"is_processing":false,"params":{"n":[1]}},'
        b'{"id":1,"is_processing":true},{"id":2}]'
    )
    assert idle_slots(body) == [0]


def test_no_more_slots_are_erased_than_an_engine_has() -> None:
    slots = [{"id": number % 1000, "is_processing": False} for number in range(5000)]
    assert idle_slots(msgspec.json.encode(slots)) == list(range(256))


@pytest.mark.parametrize("body", [b"", b"[", b'{"error": 1}', b'[{"id": "0"}]', b"\xff"])
def test_an_answer_that_is_none_is_told(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        idle_slots(body)


def test_the_tokens_are_counted() -> None:
    assert tokens_erased(b'{"id_slot":2,"n_erased":602}') == 602


def test_the_folder_is_made_and_nobody_writes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    make_folder()
    make_folder()
    assert os.stat(save_folder()).st_mode & 0o777 == 0o500
