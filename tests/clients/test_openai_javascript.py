"""The `openai` JavaScript SDK on Node; openai_js.mjs does the asking, this the judging."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
NODE = shutil.which("node")


@pytest.fixture(scope="module")
def seen(gateway: str) -> Any:
    """What the script saw."""
    command = [NODE or "node", "openai_js.mjs", gateway]
    ran = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


pytestmark = pytest.mark.skipif(
    NODE is None or not (FOLDER / "node_modules" / "openai").exists(),
    reason="Node or its openai package is not installed: run `make test-clients`",
)


def test_models(seen: Any) -> None:
    assert seen["models"] == ["smollm2", "embedder"]


def test_chat(seen: Any) -> None:
    assert "Paris" in seen["chat"]


def test_stream(seen: Any) -> None:
    assert len(seen["pieces"]) > 1
    assert "Paris" in "".join(seen["pieces"])
    assert seen["finish"] in ("stop", "length")


def test_embeddings(seen: Any) -> None:
    assert seen["dimensions"] == 576


def test_unknown_model_is_not_found(seen: Any) -> None:
    assert seen["unknown"]["notFound"] is True
    assert "smollm2" in seen["unknown"]["message"]
