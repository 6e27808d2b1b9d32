"""
The documents name the tests that hold a promise: each of those tests exists.

A file is named by its path from the root, from `tests/` or from `tests/faults/`; a test in it, or a
class of tests, after `::`. An ellipsis instead of the file stands for one that the document names.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md"))
    if path.name != "CHANGELOG.md"  # the past
)

#: A file of tests, a test in one, or a test in a file that was named before.
NAMED = re.compile(r"(?P<file>[\w/.]*\btest_\w+\.py|…)(?:::(?P<test>\w+))?")
#: Any other path below tests/.
PATH = re.compile(r"(?<![\w/])tests/[\w/.-]*\w")


def found(name: str) -> Path | None:
    """The file of tests that a document calls that."""
    for folder in (ROOT, ROOT / "tests", ROOT / "tests" / "faults"):
        if (folder / name).is_file():
            return folder / name
    return None


def defines(path: Path, test: str) -> bool:
    return re.search(rf"^ *(def|class) {test}\b", path.read_text(), re.MULTILINE) is not None


def missing(text: str) -> list[str]:
    """What a document names and the tests do not have."""
    faults = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    files = []
    for named in NAMED.finditer(text):
        name, test = named["file"], named["test"]
        if name != "…":
            path = found(name)
            if path is None:
                faults.append(name)
                continue
            files.append(path)
            if test is not None and not defines(path, test):
                faults.append(named[0])
        elif test is not None and not any(defines(path, test) for path in files):
            faults.append(named[0])
    return faults


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_that_a_document_names_exists(document: str) -> None:
    assert missing((ROOT / document).read_text()) == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    text = (
        "`test_queues.py::test_nothing`, `…::test_nobody`, `tests/test_none.py`, `…::test_queues`"
    )
    assert missing(text) == [
        "tests/test_none.py",
        "test_queues.py::test_nothing",
        "…::test_nobody",
        "tests/test_none.py",
        "…::test_queues",
    ]
