"""Promises of what `llamagw top` knows, and how it tells it."""

from __future__ import annotations

from typing import Any

import pytest

from llamagw.cli.board import MOST, STALE, Board
from tests.cli.test_activity import HOSTILE, a_live, an_entry
from tests.cli.test_cli import an_account


def a_model(name: str, value: str = "unloaded", **more: Any) -> dict[str, Any]:
    status = {"value": value, **more.pop("said", {})}
    return {"id": name, "aliases": [], "status": status, "in_flight": 0, "waiting": 0, **more}


def a_board(*models: dict[str, Any], health: dict[str, Any] | None = None) -> Board:
    board = Board()
    board.take("health", health or {}, 0.0)
    board.take("models", {"data": list(models)}, 0.0)
    return board


def told(board: Board, kind: str, **more: Any) -> None:
    board.take("event", {"event": kind, **more}, 0.0)


def test_what_is_in_memory_comes_first() -> None:
    board = a_board(
        *(a_model("cold"), a_model("broken", said={"failed": True})),
        a_model("warm", "loaded", in_flight=2, waiting=3, memory={"rss": 2**30}),
    )
    rows = [[cell.text for cell in row.cells] for row in board.model_rows(0.0)]
    assert rows == [
        ["warm", "loaded", "1.0 GiB", "2", "3", "-"],
        ["cold", "unloaded", "-", "0", "0", "-"],
        ["broken", "failed", "-", "0", "0", "-"],
    ]


@pytest.mark.parametrize(
    ("model", "report", "note"),
    [
        (a_model("a", said={"failed": True, "error": "no room"}), {}, "no room"),
        (a_model("a", said={"failed": True}), {}, "it has failed"),
        (a_model("a", "loading"), {"load_sec": 3.2, "usual_sec": 12.0}, "for 3 s, usually 12 s"),
        (a_model("a", "loading"), {"usual_sec": 12.0}, "usually 12 s"),
        (a_model("a", "loaded", pinned=True), {"unloads_in_sec": 90}, "pinned; unloads in 1 min"),
        (
            a_model("a", waiting=2, waiting_sec=7.1, waiting_for="room: `b` is busy", port=8081),
            {},
            "the first waits for 7 s, for room: `b` is busy; port 8081",
        ),
        (a_model("a", "loaded", socket="/run/1-1.sock"), {}, "a UNIX socket"),
    ],
)
def test_a_model_s_note_tells_why(model: dict[str, Any], report: dict[str, Any], note: str) -> None:
    board = a_board(model, health={"models": [{"id": "a", **report}]})
    assert board.model_rows(0.0)[0].note == note


@pytest.mark.parametrize(
    ("live", "state", "note"),
    [
        (
            a_live("x", "waiting", position=3, waiting_for="room: `b` is busy"),
            "waiting (3)",
            "for room: `b` is busy",
        ),
        (
            a_live("x", "loading", position=1, waiting_for="its load"),
            "loading",
            "for its load, usually 12 s",
        ),
        (a_live("x", "processing"), "processing", "prefill"),
        (
            a_live("x", bytes_out=2867, first_byte_sec=0.31),
            "answering",
            "2.8 KiB sent, the first after 0.3 s",
        ),
    ],
)
def test_a_request_tells_what_it_waits_for_or_how_far_it_is(
    live: dict[str, Any], state: str, note: str
) -> None:
    board = a_board()
    told(board, "begun", request=live)
    [row] = board.live_rows(2.5)
    assert [cell.text for cell in row.cells] == [
        *("5.5 s", "smollm2", state, "127.0.0.1", "/v1/chat/completions")
    ]
    assert row.note == note


def test_requests_come_move_and_go() -> None:
    board = a_board()
    told(board, "snapshot", now=[a_live("x", "waiting"), a_live("y")], last=[], more=7)
    assert board.more(2) == "2 requests under way, and 7 more"
    told(board, "moved", request=a_live("x", "processing"))
    told(board, "begun", request=a_live("z"))
    states = [row.cells[2].text for row in board.live_rows(0.0)]
    assert states == ["processing", "answering", "answering"]
    told(board, "ended", request=an_entry("y"))
    told(board, "ended", request=an_entry("nobody"))
    assert [row.key[0] for row in board.live_rows(0.0)] == ["x", "z"]
    assert {name: value for value, name in board.totals(0.0)}["requests/s"] == "2.0"
    told(board, "snapshot", now=[], last=[])
    assert board.more(0) == "No request is under way"


def test_one_id_that_two_clients_chose_is_two_requests() -> None:
    board = a_board()
    told(board, "snapshot", now=[a_live("x"), a_live("x", time=5.0)], last=[])
    told(board, "ended", request=an_entry("x", time=5.0))
    assert len(board.live_rows(0.0)) == 1


def test_totals_are_of_the_whole_gateway() -> None:
    board = a_board(
        *(a_model("a", "loaded", in_flight=2), a_model("b", waiting=4)),
        health={"max_loaded_models": 3, "version": "1.2", "uptime_sec": 7300},
    )
    assert board.title() == "1.2 · up 2 h"
    assert board.totals(0.0) == [
        *(("1 of 3", "loaded"), ("2", "active"), ("4", "waiting")),
        *(("0.0", "requests/s"), ("0.0", "tokens/s")),
    ]
    uncounted = a_board(a_model("a", "loaded"), health={"max_loaded_models": None})
    assert uncounted.totals(0.0)[0] == ("1", "loaded")


def test_memory_is_parted_into_models_others_and_free() -> None:
    devices = [
        {"device": "host", "total": 100, "free": 30, "used_by_models": 50},
        {"device": "odd", "total": 100, "free": -5, "used_by_models": 1000},
        {"device": "none", "total": 0, "free": 0},
        "nonsense",
    ]
    board = a_board(health={"devices": devices})
    assert [device[:4] for device in board.devices()] == [
        *(("host", 100, 50, 20), ("odd", 100, 100, 0))
    ]
    assert board.devices()[0].words == ("models 50 bytes, others 20 bytes of 100 bytes",)
    assert not board.counted


def test_where_memory_is_counted_charges_are_told() -> None:
    account = an_account("host", ours=741, others=4096, free=19739)
    broken = {**account, "budget": "much"}
    charges = {"charge": {"host": 741 * 2**20, "CUDA0": 2**30}, "charge_from": "learned"}
    board = a_board(
        *(a_model("a", "loaded", **charges), a_model("b")),
        health={
            "devices": [{"device": "host", "total": 100, "free": 30, "used_by_models": 50}],
            "memory": {"host": account, "odd": broken, "none": {**account, "total": 0}},
        },
    )
    [host] = board.devices()
    assert host[:4] == ("host", 24 * 2**30, 741 * 2**20, 4 * 2**30)
    assert host.words == (
        "741 MiB of 23.0 GiB charged, 19.3 GiB free; others hold 4.0 GiB",
        "741 MiB of 23.0 GiB charged, 19.3 GiB free",
    )
    rows = board.model_rows(0.0)
    assert [row.cells[3].text for row in rows] == ["1.7 GiB", "-"]
    assert [row.note for row in rows] == ["counted with 741 MiB + 1.0 GiB CUDA0 (learned)", ""]
    assert a_board(health={"devices": 7}).devices() == []


def test_a_gateway_that_is_gone_is_told_until_it_is_back() -> None:
    board = Board()
    assert board.trouble(0.0) == "connecting"
    board.take("models", {"data": []}, 1.0)
    assert board.trouble(1.0 + STALE) == ""
    assert board.trouble(1.5 + STALE) == "no answer for 6 s"
    told(board, "snapshot", now=[a_live("x")], last=[])
    board.take("gone", "cannot reach\x1b it", 2.0)
    board.take("deaf", "broke off", 2.0)
    assert board.trouble(2.0) == "cannot reach? it"
    assert board.live_rows(2.0) == [], "nobody knows whether they go on"
    board.take("models", {"data": []}, 3.0)
    assert board.trouble(3.0) == "no news of requests: broke off"
    told(board, "snapshot", now=[], last=[])
    assert board.trouble(3.0) == ""


def test_the_filter_looks_at_names_clients_paths_and_states() -> None:
    board = a_board(a_model("Smol", aliases=["tiny"]), a_model("big", "loaded"))
    told(board, "snapshot", now=[a_live("x"), a_live("y", "waiting", client="10.0.0.5")], last=[])
    for text, models, requests in (
        *(("smol", ["Smol"], 2), ("TINY", ["Smol"], 0), ("loaded", ["big", "Smol"], 0)),
        *(("10.0", [], 1), ("waiting", [], 1), ("chat", [], 2), ("", ["big", "Smol"], 2)),
    ):
        board.filter = text
        assert [row.key for row in board.model_rows(0.0)] == models, text
        assert len(board.live_rows(0.0)) == requests, text


@pytest.mark.parametrize("value", [None, "x", [], {}, True, 10**400, float("nan"), -1, HOSTILE])
def test_values_of_another_kind_are_shown_as_they_can_be(value: Any) -> None:
    keys = ("in_flight", "waiting", "memory", "aliases", "pinned", "waiting_sec", "waiting_for")
    model = {"id": "a", "status": {"value": value}, **dict.fromkeys(keys, value)}
    health = dict.fromkeys(("version", "uptime_sec", "devices", "models"), value)
    board = a_board(model, health=health)
    live = dict.fromkeys(a_live("x"), value)
    told(board, "begun", request=live)
    told(board, "moved", request=value)
    told(board, "snapshot", now=[live], last=value, more=value)
    rows = [*board.model_rows(0.0), *board.live_rows(0.0)]
    assert len(rows) == 2
    said = [board.title(), board.more(1), *(row.note for row in rows)]
    said += [cell.text for row in rows for cell in row.cells]
    said += [text for total in board.totals(0.0) for text in total]
    assert all(text.isprintable() for text in said)
    told(board, "ended", request=live)
    board.trouble(0.0)


def test_what_is_shown_is_bounded() -> None:
    board = a_board()
    told(board, "snapshot", now=[a_live(str(number)) for number in range(2 * MOST)], last=[])
    assert len(board.live) == MOST
