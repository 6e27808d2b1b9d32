"""The `llm` command, with the gateway among its models: streamed, and JSON by a schema."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm") is None,
    reason="llm is not installed: run `make test-clients`",
)

QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.fixture
def llm(gateway: str, tmp_path: Path) -> Callable[..., str]:
    """Runs the command, with a folder of its own, and gives what it printed."""
    models = [
        {
            "model_id": "local",
            "model_name": "smollm2",
            "api_base": gateway,
            "supports_schema": True,
            "supports_tools": True,
        }
    ]
    # JSON is YAML
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))

    def run(*arguments: str) -> str:
        given = ["-m", "local", "-o", "temperature", "0", "-o", "max_tokens", "80", *arguments]
        return subprocess.run(
            [sys.executable, "-m", "llm", "prompt", *given],
            # No plugins: SmolLM2's package is one, which needs what is not installed here.
            env={**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=120,
            check=True,
            text=True,
        ).stdout

    return run


def test_prompt(llm: Callable[..., str]) -> None:
    assert "Paris" in llm(QUESTION)


def test_schema(llm: Callable[..., str]) -> None:
    assert set(json.loads(llm("--schema", "name, rivers int", QUESTION))) == {"name", "rivers"}
