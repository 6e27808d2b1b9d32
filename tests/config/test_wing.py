"""The wing is entered by its public names, and knows nothing of what is above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import llamagw

PACKAGE = Path(llamagw.__file__).parent


def imported(path: Path) -> Iterator[str]:
    """The modules of llamagw that a file imports from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name for name in names if name.split(".")[0] == "llamagw")


def test_it_imports_nothing_of_llamagw_but_itself_and_errors() -> None:
    below = {"llamagw.config", "llamagw.errors", "llamagw.text"}
    for path in (PACKAGE / "config").glob("*.py"):
        for name in imported(path):
            assert ".".join(name.split(".")[:2]) in below, (path, name)


def test_everything_else_imports_its_public_names_only() -> None:
    others = [path for path in PACKAGE.rglob("*.py") if path.parent.name != "config"]
    assert others
    for path in others:
        for name in imported(path):
            assert not name.startswith("llamagw.config."), (path, name)
