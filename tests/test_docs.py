"""
What the documents name is there: the tests that hold a promise, files, and what links lead to.
Their tables are those that docs/tables.py makes from the code.

A file of tests is named by its path from the root, from `tests/` or from `tests/faults/`; a test in
it, or a class of tests, after `::`. An ellipsis instead of the file stands for one that the
document names. Any other file is named by its path from the root, or by the end of it.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

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
#: What stands as code in a line; a file in it, not below / or a home; where a link leads.
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"(?<![^\s(])[\w.+][\w./+-]*\.(?:py|yaml|md)(?![\w/])")
LINK = re.compile(r"\]\(([^)\s:]*)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

#: Files of a user, of a client, and of the examples in CONTRIBUTING.md.
THEIRS = frozenset(
    {
        "config.yaml",
        "./config.yaml",
        "57.feature.1.md",
        "+typo.doc.md",
        "extra-openai-models.yaml",
    }
)
#: Where docs/architecture.md says that something to come has its place.
TO_COME = frozenset({"dialects/ollama.py", "models/estimate.py"})
FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("benchmarks", "deploy", "docs", "llamagw", "tests", "twisted")
    for path in (ROOT / folder).rglob("*.*")
] + [path.name for path in ROOT.glob("*.*")]


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


def unknown_files(text: str) -> list[str]:
    """Which files a document names that are not there."""
    named = {name for code in CODE.findall(text) for name in FILE.findall(code)}
    ends = {name: f"/{name}" for name in named - THEIRS - TO_COME}
    return sorted(n for n, end in ends.items() if not any(f"/{f}".endswith(end) for f in FILES))


def anchors(text: str) -> set[str]:
    """What a link can lead to within a document."""
    words = (re.sub(r"[^\w -]", "", heading.lower()) for heading in HEADING.findall(text))
    return {word.strip().replace(" ", "-") for word in words}


def dead_links(document: Path, text: str) -> list[str]:
    """Which links of a document lead to nothing in this repository."""
    dead = []
    for link in LINK.findall(text):
        name, _, anchor = link.partition("#")
        path = document.parent / name if name else document
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            dead.append(link)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    assert unknown_files((ROOT / document).read_text()) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_somewhere(document: str) -> None:
    assert dead_links(ROOT / document, (ROOT / document).read_text()) == []


def test_a_file_or_a_link_that_leads_nowhere_is_noticed() -> None:
    text = "`fleet/none.py`, `python docs/none.py -h`, `room.py`, `/etc/none.yaml`, `config.yaml`"
    assert unknown_files(text) == ["docs/none.py", "fleet/none.py"]
    text = "[a](README.md#more) [b](#none) [c](docs/none.md) [d](README.md#none) [e](http://e.e)"
    assert dead_links(ROOT / "README.md", text) == ["#none", "docs/none.md", "README.md#none"]


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


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_tables_of_a_document_are_those_of_the_code(tables: ModuleType, document: str) -> None:
    text = (ROOT / document).read_text()
    assert tables.with_tables(text) == text, "python docs/tables.py writes them anew"


def test_every_table_of_the_code_is_in_one_document(tables: ModuleType) -> None:
    texts = [(ROOT / document).read_text() for document in DOCUMENTS]
    placed = [place[2] for text in texts for place in tables.PLACE.finditer(text)]
    assert sorted(placed) == sorted(tables.tables())


def test_a_table_that_is_out_of_date_is_noticed(tables: ModuleType) -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    assert tables.with_tables(text.replace("`body_too_large`", "`too_large`")) == text
    assert tables.with_tables(text.replace("| 413 |", "| 414 |")) == text


def test_every_key_of_the_configuration_has_a_meaning(tables: ModuleType) -> None:
    for struct in (tables.ConfigFile, tables.ModelEntry):
        said = tables.meanings(struct)
        assert [name for name in struct.__struct_fields__ if not said.get(name)] == []
