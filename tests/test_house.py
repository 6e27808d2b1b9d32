"""Promises of the house: imports point down, in no circle; a room is entered by its door."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def house() -> ModuleType:
    return load()


def test_every_room_has_its_floor_and_every_floor_its_rooms(house: ModuleType) -> None:
    rooms = {
        path.stem
        for path in house.PACKAGE.iterdir()
        if path.stem not in ("__init__", "__pycache__")
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert rooms == {name for floor in house.FLOORS for name in floor} == set(house.WORDS)


def test_no_import_runs_up_or_to_the_room_next_door(house: ModuleType) -> None:
    wrong = [
        f"{one.source}:{one.line} imports {one.target}"
        for one in house.imports()
        if house.room(one.source)
        and house.room(one.target)
        and house.room(one.source) != house.room(one.target)
        and house.floor(house.room(one.source)) >= house.floor(house.room(one.target))
    ]
    assert wrong == []


def test_there_is_no_circle_of_modules(house: ModuleType) -> None:
    below: dict[str, set[str]] = {}
    for one in house.imports():
        # A package's __init__ names its door; what is inside does not go out by it.
        if one.source != one.target:
            below.setdefault(one.source, set()).add(one.target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " imports ".join((*path[path.index(module) :], module))
        if module not in done:
            for target in below.get(module, ()):
                visit(target, (*path, module))
            done.add(module)

    for module in list(below):
        visit(module, ())


def test_a_room_is_entered_by_its_public_names(house: ModuleType) -> None:
    wrong = [
        f"{one.source}:{one.line} imports {one.target}"
        for one in house.imports()
        if house.room(one.source) != house.room(one.target)
        and one.target.count(".") > 1
        # The command has no door: it is what a user runs.
        and house.room(one.target) != "cli"
    ]
    assert wrong == []


def test_no_room_above_launch_asks_where_a_model_lives() -> None:
    asks = [
        f"{path.relative_to(ROOT)}:{number}"
        for room in ("fleet", "proxy", "api")
        for path in (ROOT / "llamagw" / room).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if any(word in line for word in (".remote:", ".remote ", "RemoteModel", "LocalModel"))
    ]
    assert asks == []


def test_the_picture_in_the_docs_is_of_these_imports(house: ModuleType) -> None:
    drawn = (ROOT / "docs" / "house.svg").read_text()
    assert drawn == house.picture(), "python docs/house.py draws it anew"
