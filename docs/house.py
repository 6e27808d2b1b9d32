"""
The house as its imports draw it: which room of llamagw/ imports which.

    python docs/house.py            writes docs/house.svg
    python docs/house.py --list     prints every import between rooms

A room is a package or a module directly below llamagw/. `FLOORS` is the one table of what may
import what; tests/test_house.py holds the code to it, and docs/architecture.md shows the picture.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent / "llamagw"

#: From the top of the house to its ground: a room imports from floors below its own only.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("tap",),
    ("service", "api"),
    ("web",),
    ("proxy", "announce"),
    ("gate", "fleet"),
    ("launch",),
    ("net",),
    ("apart", "logs", "system"),
    ("dialects", "models", "config", "listeners", "observe"),
    ("errors",),
    ("text", "state"),
)

#: What each room is for, in a few words, for the picture.
WORDS = {
    "cli": "the llamagw command",
    "tap": "twistd's plugin: options, wiring",
    "service": "start, reload, stop",
    "api": "the tree, lists, management",
    "web": "pages for browsers",
    "proxy": "bytes of clients; the story of a request",
    "gate": "who may",
    "fleet": "who runs, who waits, who goes",
    "launch": "processes and remote servers",
    "net": "bytes to backends",
    "announce": "what a person reads at the start",
    "logs": "how the log looks",
    "apart": "commands in other processes",
    "system": "signals, limits, event loop",
    "dialects": "routes and APIs",
    "observe": "records, access log, counters",
    "models": "files of models",
    "config": "the configuration",
    "listeners": "callbacks for news",
    "errors": "ways to fail",
    "text": "text made harmless",
    "state": "small files that outlive a gateway",
}


class Import(NamedTuple):
    """
    One import of a name of this package.

    :ivar source: the module that imports, such as ``llamagw.proxy.relay``
    :ivar target: the module that is imported
    :ivar line: where it stands
    """

    source: str
    target: str
    line: int


def room(module: str) -> str:
    """The room of a module; "" for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def floor(name: str) -> int:
    """The number of a room's floor, from the top."""
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


@cache
def imports() -> tuple[Import, ...]:
    """Every import of llamagw in llamagw, those for type checkers among them."""
    return tuple(_imports())


def _imports() -> Iterator[Import]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        source = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [_module(node.module, alias.name) for alias in node.names]
            else:
                continue
            for name in names:
                if name.split(".")[0] == PACKAGE.name:
                    yield Import(source, name, node.lineno)


def _module(module: str, name: str) -> str:
    """What ``from module import name`` imports: the package, if it has that name at its door."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    if name in _door(path):
        return module
    found = (path / name).with_suffix(".py").exists() or (path / name).is_dir()
    return f"{module}.{name}" if found else module


@cache
def _door(package: Path) -> frozenset[str]:
    """The public names of a package."""
    path = package / "__init__.py"
    if not path.exists():
        return frozenset()
    body = ast.parse(path.read_text()).body
    return frozenset(
        alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names
    )


@cache
def arrows() -> dict[tuple[str, str], int]:
    """How many imports lead from one room to another."""
    found: dict[tuple[str, str], int] = {}
    for one in imports():
        pair = room(one.source), room(one.target)
        if all(pair) and pair[0] != pair[1]:
            found[pair] = found.get(pair, 0) + 1
    return found


def picture() -> str:
    """
    The floors as an SVG: a row for each room, with a dot under each room that it imports.

    The columns stand in the order of the rows, so that all dots are on the right of the diagonal.
    """
    rooms = [name for names in FLOORS for name in names]
    left, top, cell = 300, 84, 30
    width, height = left + cell * len(rooms) + 60, top + cell * len(rooms) + 16
    shapes = [
        f'<rect x="16" y="{top + cell * rooms.index(names[0])}" width="{width - 76}" '
        f'height="{cell * len(names)}" class="floor{number % 2}"/>'
        for number, names in enumerate(FLOORS)
    ]
    for place, name in enumerate(rooms):
        x, y = left + cell * place, top + cell * place
        shapes.append(
            f'<text x="26" y="{y + 20}" class="name">{name}</text>'
            f'<text x="106" y="{y + 20}">{WORDS[name]}</text>'
            f'<rect x="{x + 6}" y="{y + 6}" width="{cell - 12}" height="{cell - 12}" class="self"/>'
            f'<text transform="translate({x + 12} {top - 6}) rotate(-50)">{name}</text>'
        )
    for (source, target), count in sorted(arrows().items()):
        x = left + cell * rooms.index(target) + cell // 2
        y = top + cell * rooms.index(source) + cell // 2
        shapes.append(
            f'<circle cx="{x}" cy="{y}" r="11"/>'
            f'<text x="{x}" y="{y + 4}" class="count">{count}</text>'
        )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="system-ui, sans-serif" font-size="12">',
            "<title>The rooms of llamagw, by floor, and how often each imports which</title>",
            "<style>text{fill:#57606a}.name{font-weight:600;font-size:14px;fill:#1f2328}"
            ".count{fill:#fff;text-anchor:middle;font-size:11px}.self{fill:#8c959f}"
            ".floor0{fill:#f6f8fa}.floor1{fill:#eaeef2}circle{fill:#0969da}</style>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *shapes,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    if "--list" in sys.argv:
        for one in imports():
            if room(one.source) != room(one.target):
                print(f"{one.source}:{one.line} imports {one.target}")
    else:
        target = Path(__file__).with_name("house.svg")
        target.write_text(picture())
        print(f"{target} is written")
