"""`llamagw top` and `llamagw activity` with a real engine: a request is seen, cancelled, told."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from llamagw.cli.client import Client
from tests.whole.harness import DEADLINE, Gateway, model

pytest.importorskip("textual", reason="pip install -r tests/requirements.txt")

from llamagw.cli.screen import Top
from tests.cli.test_top import see


def test_a_request_is_watched_and_cancelled_and_its_model_unloaded() -> None:
    gateway = Gateway([model("smol")])

    async def story() -> None:
        app = Top(Client(f"http://127.0.0.1:{gateway.port}"))
        async with app.run_test(size=(120, 30), notifications=True) as pilot:
            await see(pilot, "smol", "unloaded", "No request is under way")
            await pilot.press("l")
            await see(pilot, "smol is loaded", "MiB")
            stream = await asyncio.to_thread(gateway.stream, "smol", 1500)
            await asyncio.to_thread(stream.read_events, 3)
            await see(pilot, "1 request under way", "answering", "sent")
            await pilot.press("c", "y")
            assert b"cancelled" in await asyncio.to_thread(stream.rest)
            await see(pilot, "No request is under way", "0 active")
            await pilot.press("u")
            await see(pilot, "smol is unloaded")
            await pilot.press("q")

    try:
        gateway.start()
        asyncio.run(story())
        done = subprocess.run(
            [sys.executable, "-c", "from llamagw.cli.main import main; main()", "activity"],
            cwd=gateway.folder,
            env=gateway.environ,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert "cancelled" in done.stdout.splitlines()[1], done
        gateway.stop()
    finally:
        gateway.clean_up()
