"""Promises of `llamagw top`: where it runs, what it shows, and what its keys do."""

from __future__ import annotations

import asyncio
import html
import importlib.util
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner

from llamagw.cli.client import Client
from llamagw.cli.main import cli
from tests.cli.test_activity import HOSTILE, a_live, an_entry
from tests.cli.test_board import a_model
from tests.cli.test_cli import an_account, in_a_fresh_python
from tests.support.scripted_gateway import ScriptedGateway
from tests.whole.harness import DEADLINE

pytest.importorskip("textual", reason="pip install -r tests/requirements.txt")

from textual.pilot import Pilot

from llamagw.cli import screen, watch
from llamagw.cli.screen import Top

Story = Callable[[Pilot[int]], Awaitable[None]]

#: How wide a character is in a screenshot.
WIDTH = 12.2

GIB = 2**30
MODELS = [
    a_model("cold", waiting=1, waiting_sec=7.0, waiting_for="room: `busy` is busy"),
    a_model("busy", "loaded", in_flight=2, memory={"rss": GIB}, context_size=4096),
    a_model("idle", "loaded", pinned=True),
    a_model("broken", said={"failed": True, "error": "out of memory " * 20}),
]
HEALTH = {
    **{"status": "ok", "version": "1.2", "uptime_sec": 7300, "max_loaded_models": 2},
    "devices": [{"device": "host", "total": 16 * GIB, "free": 8 * GIB, "used_by_models": 4 * GIB}],
    "models": [],
}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedGateway]:
    monkeypatch.setattr(watch, "PAUSE", 0.05)
    monkeypatch.setattr(screen, "EVERY", 0.05)
    gateway = ScriptedGateway()
    gateway.answers["/models"] = 200, {"data": MODELS}
    gateway.answers["/health"] = 200, HEALTH
    for path in ("/models/load", "/models/unload", "/models/pin", "/activity/x-1/cancel"):
        gateway.answers[path] = 200, {"success": True}
    yield gateway
    gateway.down()


def play(gateway: ScriptedGateway, story: Story, size: tuple[int, int] = (80, 24)) -> int | None:
    """Run it in a terminal of that size; its exit code, None if the story did not end it."""

    async def run() -> int | None:
        app = Top(Client(gateway.url))
        async with app.run_test(size=size, notifications=True) as pilot:
            await story(pilot)
        return app.return_value

    return asyncio.run(run())


def shown(pilot: Pilot[int]) -> str:
    """What is on the screen, line by line."""
    svg = pilot.app.export_screenshot()
    parts = r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*clip-path[^>]*>([^<]*)</text>'
    lines: dict[float, str] = {}
    for x, y, text in re.findall(parts, svg):
        before = lines.get(float(y), "").ljust(round(float(x) / WIDTH))
        lines[float(y)] = before + html.unescape(text).replace("\xa0", " ")
    return "\n".join(line.rstrip() for _, line in sorted(lines.items()))


async def until(pilot: Pilot[int], condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"still not: {what}\n{shown(pilot)}"
        await pilot.pause(0.02)


async def see(pilot: Pilot[int], *words: str) -> str:
    """Wait until all of them are on the screen."""
    await until(pilot, lambda: all(word in shown(pilot) for word in words), f"{words} shown")
    return shown(pilot)


def _matches(pilot: Pilot[int], pattern: str) -> bool:
    return re.search(pattern, shown(pilot)) is not None


def posted(gateway: ScriptedGateway) -> list[tuple[str, Any]]:
    return [(path, body) for method, path, body in gateway.asked if method == "POST"]


# ---- Where it runs ------------------------------------------------------------------------------


def test_without_textual_one_line_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(cli, ["top"])
    assert done.exit_code == 2
    assert done.stderr == "Error: this needs Textual: pip install 'llamagw[top]'\n"


def test_without_a_terminal_one_line_tells_what_to_use() -> None:
    done = CliRunner().invoke(cli, ["top"])
    assert done.exit_code == 2
    assert done.stderr == "Error: this needs a terminal; llamagw ps and llamagw activity do not\n"


def test_no_other_command_loads_textual() -> None:
    in_a_fresh_python(
        "import sys, llamagw.cli.main\n"
        "assert not {'textual', 'rich'} & {name.split('.')[0] for name in sys.modules}\n"
    )


# ---- What it shows ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (60, 20)])
def test_models_requests_totals_and_memory_are_shown(
    gateway: ScriptedGateway, size: tuple[int, int]
) -> None:
    gateway.now = [a_live("x-1"), a_live("x-2", "waiting", position=2, model="cold")]

    async def story(pilot: Pilot[int]) -> None:
        words = ("busy", "waiting (2)", "llamagw 1.2 · up 2 h", "2 of 2 loaded", "q Quit")
        said = await see(pilot, "2 requests under way", *words)
        assert re.search(r"host +█+░+ models 4\.0 GiB, others 4\.0 GiB of", said)
        assert re.search(r"busy +loaded +1\.0 GiB +2 +0", said)
        assert said.index("busy") < said.index("idle") < said.index("cold")
        assert ("CLIENT" in said) == (size[0] >= screen.WIDE)
        assert max(map(len, said.splitlines())) <= size[0]

    play(gateway, story, size)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (60, 20)])
def test_charges_are_shown_where_memory_is_counted(
    gateway: ScriptedGateway, size: tuple[int, int]
) -> None:
    accounts = [
        an_account("host", ours=741, others=4096, free=19739),
        an_account("CUDA0", ours=5734, others=2048, free=16794),
    ]
    memory = {account["device"]: account for account in accounts}
    charges = {"host": 741 * 2**20, "CUDA0": 5734 * 2**20}
    models = [a_model("busy", "loaded", in_flight=2, charge=charges), a_model("cold")]

    async def story(pilot: Pilot[int]) -> None:
        said = await see(pilot, "busy", "2 of 2 loaded")
        assert "CHARGE" not in said
        gateway.answers["/models"] = 200, {"data": models}
        gateway.answers["/health"] = 200, {**HEALTH, "max_loaded_models": None, "memory": memory}
        # The bars are drawn a moment after the words.
        for bar in (
            r"host +█+░+ 741 MiB of 23\.0 GiB charged, 19\.3 GiB free",
            r"CUDA0 +█+░* 5\.6 GiB of 23\.0 GiB charged, 16\.4 GiB free",
        ):
            drawn = partial(_matches, pilot, bar)
            await until(pilot, drawn, bar)
        said = await see(pilot, "CHARGE", "1 loaded")
        assert ("others hold 4.0 GiB" in said) == (size[0] >= screen.WIDE)
        assert re.search(r"busy +loaded +- +6\.3 GiB +2 +0", said)
        assert re.search(r"cold +unloaded +- +- +0 +0", said)
        assert "counted with 741 MiB + 5.6 GiB CUDA0" in said
        assert max(map(len, said.splitlines())) <= size[0]
        gateway.answers["/health"] = 200, HEALTH
        await until(pilot, lambda: "CHARGE" not in shown(pilot), "it is not counted any more")

    play(gateway, story, size)


def test_what_happens_is_shown(gateway: ScriptedGateway) -> None:
    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "No request is under way", "busy")
        gateway.begin(a_live("x-1", "waiting", position=1))
        await see(pilot, "1 request under way", "waiting (1)")
        gateway.move(a_live("x-1", bytes_out=1024))
        await see(pilot, "answering", "1.0 KiB sent")
        gateway.finish(an_entry("x-1"))
        await see(pilot, "No request is under way")
        gateway.answers["/models"] = 200, {"data": [a_model("new", "loading")]}
        await see(pilot, "new", "loading")
        assert "busy" not in shown(pilot)

    play(gateway, story)


def test_what_is_selected_is_told_in_full_and_stays_selected(gateway: ScriptedGateway) -> None:
    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "broken")
        await pilot.press("end")
        await see(pilot, "out of memory out of memory")
        gateway.answers["/models"] = 200, {"data": [*MODELS, a_model("first", "loaded")]}
        await see(pilot, "first")
        await pilot.press("l")
        await until(pilot, lambda: posted(gateway), "a load")
        assert posted(gateway) == [("/models/load", {"model": "broken", "wait": True})]

    play(gateway, story)


def test_nothing_is_taken_for_markup_or_acted_upon(gateway: ScriptedGateway) -> None:
    model = a_model(HOSTILE, said={"failed": True, "error": HOSTILE})
    gateway.answers["/models"] = 200, {"data": [model]}
    gateway.answers["/health"] = 200, {**HEALTH, "version": HOSTILE}
    error = {"message": f"no {HOSTILE}", "type": "t", "param": None, "code": "c"}
    gateway.answers["/models/load"] = 503, {"error": error}
    words = ("state", "client", "path", "method", "model", "waiting_for")
    gateway.now = [a_live(HOSTILE, **dict.fromkeys(words, HOSTILE))]

    async def story(pilot: Pilot[int]) -> None:
        said = await see(pilot, "[bold]", "1 request under way")
        assert not set(said) & set("\x1b\x07\x9b\u202e")
        await pilot.press("l")
        await see(pilot, "no ?]0;x")
        await pilot.press("c")
        said = await see(pilot, "Cancel ?]0;x", "[bold]")
        assert not set(said) & set("\x1b\x07\x9b\u202e")

    play(gateway, story, (120, 40))


def test_a_gateway_that_is_gone_is_told_and_comes_back(gateway: ScriptedGateway) -> None:
    gateway.now = [a_live("x-1")]

    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "1 request under way")
        gateway.down()
        await see(pilot, "Trying again: cannot reach llamagw at", "under way is not known")
        assert "busy" in shown(pilot), "what was known last"
        gateway.up()
        await see(pilot, "1 request under way", "2 of 2 loaded")
        assert "Trying again" not in shown(pilot)

    play(gateway, story)


def test_it_begins_without_a_gateway(gateway: ScriptedGateway) -> None:
    gateway.down()

    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "cannot reach llamagw at")
        gateway.up()
        await see(pilot, "2 of 2 loaded")

    play(gateway, story)


def test_it_follows_the_size_of_the_terminal(gateway: ScriptedGateway) -> None:
    gateway.now = [a_live("x-1")]

    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "answering")
        await pilot.resize_terminal(120, 40)
        await see(pilot, "CLIENT", "busy")
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "CLIENT" not in shown(pilot), "the narrow form")
        assert "busy" in shown(pilot)

    play(gateway, story)


# ---- What the keys do ---------------------------------------------------------------------------


def test_an_idle_model_is_unloaded_at_once(gateway: ScriptedGateway) -> None:
    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "idle")
        await pilot.press("down", "u")
        await see(pilot, "idle is unloaded")

    play(gateway, story)
    assert posted(gateway) == [("/models/unload", {"model": "idle", "force": False})]


@pytest.mark.parametrize(
    ("key", "asked"),
    [
        ("u", [("/models/unload", {"model": "busy", "force": False})]),
        ("f", [("/models/unload", {"model": "busy", "force": True})]),
        *(("n", []), ("escape", []), ("q", [])),
    ],
)
def test_a_busy_model_is_unloaded_when_asked_how(
    gateway: ScriptedGateway, key: str, asked: list[Any]
) -> None:
    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "busy")
        await pilot.press("u")
        await see(pilot, "busy is giving 2 answers.")
        assert posted(gateway) == []
        await pilot.press("x", key)
        await until(pilot, lambda: "is giving" not in shown(pilot), "it is closed")
        await until(pilot, lambda: len(posted(gateway)) == len(asked), "it is done")

    play(gateway, story)
    assert posted(gateway) == asked


def test_a_model_is_pinned_and_no_longer(gateway: ScriptedGateway) -> None:
    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "busy")
        await pilot.press("p")
        await see(pilot, "busy is pinned")
        await pilot.press("down", "p")
        await see(pilot, "idle is no longer pinned")

    play(gateway, story)
    assert posted(gateway) == [
        ("/models/pin", {"model": "busy", "pinned": True}),
        ("/models/pin", {"model": "idle", "pinned": False}),
    ]


def test_a_request_is_cancelled_after_asking(gateway: ScriptedGateway) -> None:
    gateway.now = [a_live("x-0"), a_live("x-1")]

    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "2 requests under way")
        await pilot.press("tab", "down", "c")
        await see(pilot, "Cancel POST /v1/chat/completions for smollm2 from 127.0.0.1?")
        await pilot.press("n", "c", "y")
        await see(pilot, "cancelled")

    play(gateway, story)
    assert posted(gateway) == [("/activity/x-1/cancel", {})]


def test_what_fails_is_told_in_the_gateway_s_words(gateway: ScriptedGateway) -> None:
    error = {"message": "busy cannot be loaded", "type": "t", "param": None, "code": "c"}
    gateway.answers["/models/load"] = 503, {"error": error}

    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "busy")
        await pilot.press("l")
        await see(pilot, "busy cannot be loaded")

    play(gateway, story)


def test_keys_do_nothing_where_there_is_nothing(gateway: ScriptedGateway) -> None:
    gateway.answers["/models"] = 200, {"data": []}

    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "0 of 2 loaded")
        await pilot.press("l", "u", "p", "c", "down", "end", "enter")
        await see(pilot, "No request is under way")

    play(gateway, story)
    assert posted(gateway) == []


def test_the_filter_shows_only_what_contains_a_text(gateway: ScriptedGateway) -> None:
    gateway.now = [a_live("x-1")]

    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "busy", "idle")
        await pilot.press("slash", *"bus", "enter")
        said = await see(pilot, "only “bus”", "No request passes the filter")
        assert "busy" in said
        assert "idle" not in said
        await pilot.press("u")
        await see(pilot, "busy is giving")
        await pilot.press("n", "escape")
        await see(pilot, "idle", "1 request under way")
        assert "only" not in shown(pilot)

    play(gateway, story)


def test_help_tells_the_keys(gateway: ScriptedGateway) -> None:
    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "busy")
        await pilot.press("question_mark")
        await see(pilot, "cancel the selected request", "any key ")
        await pilot.press("x")
        await until(pilot, lambda: "any key" not in shown(pilot), "it is closed")

    play(gateway, story)


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (["q"], 0),
        (["ctrl+c"], 130),
        (["question_mark", "ctrl+c"], 130),
        (["slash", "ctrl+c"], 130),
    ],
)
def test_it_ends(gateway: ScriptedGateway, keys: list[str], code: int) -> None:
    async def story(pilot: Pilot[int]) -> None:
        await see(pilot, "busy")
        await pilot.press(*keys)

    assert play(gateway, story) == code
