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
    ("proxy",),
    ("fleet",),
    ("launch",),
    ("net",),
    ("announce", "apart", "system"),
    ("dialects", "models", "config", "listeners"),
    ("errors",),
    ("text",),
)

#: What each room is for, in a few words, for the picture.
WORDS = {
    "cli": "the llamagw command",
    "tap": "twistd's plugin: options, wiring",
    "service": "start, reload, stop",
    "api": "the tree, lists, management",
    "proxy": "bytes of clients; the story of a request",
    "fleet": "who runs, who waits, who goes",
    "launch": "processes and remote servers",
    "net": "bytes to backends",
    "announce": "what a person reads at the start",
    "apart": "commands in other processes",
    "system": "signals, limits, event loop",
    "dialects": "routes and APIs",
    "models": "files of models",
    "config": "the configuration",
    "listeners": "callbacks for news",
    "errors": "ways to fail",
    "text": "text made harmless",
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
    """The floors as an SVG: a box for each room, a line for each pair that imports."""
    width, height, gap = 760, 54, 34
    boxes: dict[str, tuple[float, float, float]] = {}
    lines = []
    for number, rooms in enumerate(FLOORS):
        each = (width - 20 * (len(rooms) + 1)) / len(rooms)
        for place, name in enumerate(rooms):
            boxes[name] = 20 + place * (each + 20), 16 + number * (height + gap), each
    total = 16 + len(FLOORS) * (height + gap)
    for (source, target), count in sorted(arrows().items()):
        if source not in boxes or target not in boxes:
            continue
        x, y, wide = boxes[source]
        u, v, broad = boxes[target]
        start, end = x + wide * _share(source, target), u + broad * _share(target, source)
        middle = (y + height + v) / 2
        lines.append(
            f'<path d="M{start:.0f} {y + height} C{start:.0f} {middle:.0f} {end:.0f} {middle:.0f} '
            f'{end:.0f} {v}" stroke-width="{min(1 + count / 6, 4):.1f}"/>'
        )
    texts = [
        f'<rect x="{x:.0f}" y="{y}" width="{w:.0f}" height="{height}" rx="6"/>'
        f'<text x="{x + w / 2:.0f}" y="{y + 23}" class="name">{name}</text>'
        f'<text x="{x + w / 2:.0f}" y="{y + 41}">{WORDS[name]}</text>'
        for name, (x, y, w) in boxes.items()
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" '
            'font-family="system-ui, sans-serif" font-size="12">',
            "<title>The rooms of llamagw and their imports, which only point down</title>",
            "<style>rect{fill:#f6f8fa;stroke:#57606a}text{text-anchor:middle;fill:#57606a}"
            ".name{font-weight:600;font-size:14px;fill:#1f2328}"
            "path{fill:none;stroke:#0969da;stroke-opacity:.35}</style>",
            f'<rect width="{width}" height="{total}" style="fill:#fff;stroke:none"/>',
            *lines,
            *texts,
            "</svg>\n",
        ]
    )


def _share(one: str, other: str) -> float:
    """Where on its box's edge a line begins: in the order of the other ends."""
    pairs = arrows()
    ends = sorted(
        {b for a, b in pairs if a == one} | {a for a, b in pairs if b == one},
        key=lambda name: (floor(name) if name in WORDS else 0, name),
    )
    return (ends.index(other) + 1) / (len(ends) + 1)


if __name__ == "__main__":
    if "--list" in sys.argv:
        for one in imports():
            if room(one.source) != room(one.target):
                print(f"{one.source}:{one.line} imports {one.target}")
    else:
        target = Path(__file__).with_name("house.svg")
        target.write_text(picture())
        print(f"{target} is written")
