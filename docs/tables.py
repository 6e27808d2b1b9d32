"""
The tables of the documents that follow from the code.

    python docs/tables.py            writes them anew

A table stands below a line ``<!-- made by docs/tables.py: NAME -->`` and ends with its last row.
What a key of the configuration means is the comment above it in config.example.yaml; when an error
is answered is in the docstring of its class. All else is in config/schema.py, errors.py and
dialects/routes.py. tests/test_docs.py refuses a table that is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo

from llamagw.config import ConfigFile, ModelEntry, ReplicaEntry
from llamagw.config.walk import takes
from llamagw.dialects import ANY, OWN, ROUTES
from llamagw.errors import GatewayError

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "config.example.yaml"

#: A table in a document: the line that names it, and its rows.
PLACE = re.compile(r"(<!-- made by docs/tables\.py: (\w+) -->\n)(?:\|.*\n)*")

#: The keys of a model that lives elsewhere; all others are of one that llamagw starts itself.
ELSEWHERE = ("url", "replicas", *ReplicaEntry.__struct_fields__[1:], "paths")

#: A line of the example that has a key, or a comment.
_KEY, _COMMENT = re.compile(r"[ #-]*([a-z_]+):(?: |$)"), re.compile(r" *# (.*)")

#: What is shown as code in a text of the configuration: lists, texts in quotes, flags, addresses.
_CODE = re.compile(
    r'\[[^]…]*\]:?[\w:]*|\{.*?\}|"[^"]*"|--[a-z][a-z-]*|\b[\w/-]+\.md\b|\b[A-Za-z]+_\w+'
    r"|\b(?:unix|ssl|https?):\S*\w"
)

#: What Markdown would take as more than text.
_SPECIAL = re.compile(r"[\\*_|<>\[\]]")


def tables() -> dict[str, str]:
    """The tables in Markdown, by name."""
    local = [name for name in ModelEntry.__struct_fields__ if name not in ELSEWHERE]
    return {
        "gateway": keys(ConfigFile, ConfigFile.__struct_fields__),
        "model": keys(ModelEntry, local),
        "elsewhere": keys(ModelEntry, ELSEWHERE),
        "endpoints": endpoints(),
        "errors": errors(),
    }


def keys(struct: type[Struct], names: Iterable[str]) -> str:
    """
    A table of keys of the configuration.

    :param struct: one of config/schema.py
    :param names: the keys
    """
    fields = {field.name: field for field in msgspec.structs.fields(struct)}
    wanted, said = takes(struct), meanings(struct)
    rows = [
        (f"`{name}`", default(fields[name]), markdown(wanted[name]), markdown(said[name]))
        for name in names
    ]
    return table(("key", "default", "takes", "what it is for"), rows)


def default(field: FieldInfo) -> str:
    """
    A key's default, as it would be written.

    :param field: the key
    :return: "" if the default is none, or empty
    """
    if field.required:
        return "required"
    factory = field.default_factory
    value = field.default if factory is msgspec.NODEFAULT else factory()
    if isinstance(value, Struct) or (not value and not isinstance(value, int | float)):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


@cache
def meanings(struct: type[Struct]) -> dict[str, str]:
    """
    What each key is for, from the comments of the example.

    :param struct: the file, or a model's entry: a key of either may be one of the other too
    """
    top, line, models = EXAMPLE.read_text().partition("\nmodels:\n")
    text = top + line if struct is ConfigFile else models
    found: dict[str, str] = {}
    comment: list[str] = []
    for line in text.splitlines():
        key, words = _KEY.match(line), _COMMENT.match(line)
        if key and key[1] in struct.__struct_fields__:
            if comment:
                found.setdefault(key[1], " ".join(comment))
            comment = []
        elif words:
            comment.append(words[1])
        else:
            comment = []
    return found


def endpoints() -> str:
    """The paths, from the table of routes."""
    rows = []
    for route in ROUTES:
        methods = "any method" if route.methods is ANY else ", ".join(route.methods)
        paths = "<br>".join(f"`{path}`" for path in route.paths)
        scope = route.scope.name.lower()
        rows.append((f"{methods} {paths}", route.where.value, scope, route.what))
    rows += [(f"{own.method} `{own.path}`", "", own.scope.name.lower(), own.what) for own in OWN]
    rows.append(("OPTIONS on any of them", "", "", "CORS preflight"))
    return table(("path", "the model's name is in", "scope", "what it does"), rows)


def errors() -> str:
    """The gateway's own errors, by status."""
    rows = []
    for error in sorted(GatewayError.__subclasses__(), key=lambda error: error.status):
        assert error.__doc__ is not None
        when = " ".join(error.__doc__.strip().split("\n\n")[0].split())
        rows.append((str(error.status), f"`{error.code}`", when.replace("``", "`")))
    return table(("status", "`code`", "when"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    A table in Markdown; it ends with a line feed.

    :param head: the headings of the columns
    :param rows: the cells, in Markdown
    """

    def line(cells: Sequence[str]) -> str:
        return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|\n"

    return line(head) + "|" + "---|" * len(head) + "\n" + "".join(map(line, rows))


def markdown(text: str) -> str:
    """
    Plain text in Markdown, with what is a value, a key or a flag as code.

    :param text: one line
    """
    parts, at = [], 0
    for code in _CODE.finditer(text):
        parts += [_SPECIAL.sub(r"\\\g<0>", text[at : code.start()]), f"`{code[0]}`"]
        at = code.end()
    return "".join([*parts, _SPECIAL.sub(r"\\\g<0>", text[at:])])


def with_tables(document: str) -> str:
    """
    A document with its tables made anew.

    :param document: its text
    """
    made = tables()
    return PLACE.sub(lambda place: place[1] + made[place[2]], document)


if __name__ == "__main__":
    for path in sorted((ROOT / "docs").glob("*.md")):
        before = path.read_text()
        after = with_tables(before)
        if after != before:
            path.write_text(after)
            print(f"{path} is written")
