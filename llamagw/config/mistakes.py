"""
What PyYAML says of a text that is not YAML, in plain words, with the line and a mark beneath it.

Knows YAML only; the keys of a configuration are defined in schema.py.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import yaml

#: Characters of a line that are shown, before and from the mark on.
_BEFORE, _AFTER = 50, 30

_INDENT = "; each key of a model stands exactly below the one before it"

#: What a parser says (libyaml or PyYAML's own), where that is told best, and what it means. The
#: first that fits is taken.
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (r"tab character|'\\t'", "problem", "a tab; indent with spaces only"),
    (
        r"mapping values are not allowed",
        "problem",
        "a key and its value may not begin here; is the line indented too far, or does a text with "
        '": " in it lack quotes?',
    ),
    (
        r"did not find expected key|expected <block end>, but found '<block mapping start>'",
        "problem",
        "the line is indented otherwise than those that it belongs to" + _INDENT,
    ),
    (
        r"did not find expected '-' indicator|expected <block end>, but found",
        "problem",
        'the line is indented less than the keys of the item above, and does not begin with "- "',
    ),
    (
        r"could not find expected ':'|expected ':'",
        "context",
        'a key without its ": "; write "key: value", with a space after the colon',
    ),
    (r"unexpected end of stream", "context", "a quote is opened here and never closed"),
    (
        r"expected ',' or '[]}]'",
        "context",
        "a bracket is opened here and not closed; or a comma is missing after it",
    ),
    (
        r"character.*that cannot start any token",
        "problem",
        "a text that begins with this character needs quotes",
    ),
)


class Mistake(NamedTuple):
    """
    Why a text is not YAML.

    :ivar message: what is wrong and what would be right
    :ivar line: from 1; None if the parser does not say where
    :ivar excerpt: that line, and a mark beneath it; empty if there is nothing to show
    """

    message: str
    line: int | None
    excerpt: tuple[str, ...]


def explain(error: yaml.MarkedYAMLError, text: str) -> Mistake:
    """
    Put an error of the parser in plain words.

    :param error: the error
    :param text: what was parsed
    """
    said = " ".join(str(error.problem or error.context).split())
    where = "problem"
    for pattern, place, meaning in _MEANINGS:
        if re.search(pattern, said):
            said, where = meaning, place
            break
    mark = error.problem_mark or error.context_mark
    if where == "context" and error.context_mark:
        mark = error.context_mark
    if "alias" in str(error.context):
        said += '; a text that begins with * or & needs quotes, such as "*"'
    if mark is None:
        return Mistake(said, None, ())
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: mark.column + 1] and not line[: mark.column].strip():
        said, column = _MEANINGS[0][2], line.index("\t")
    else:
        column = min(mark.column, len(line))
    return Mistake(said, mark.line + 1, _excerpt(line, column))


def _excerpt(line: str, column: int) -> tuple[str, ...]:
    """The part of a line around a column, and a mark below that."""
    # A log may be read by others than the file.
    if not line.strip() or re.search("key|token|secret|password", line, re.IGNORECASE):
        return ()
    begin = max(column - _BEFORE, 0)
    part = line[begin : column + _AFTER].replace("\t", "→")
    shown = "".join(c if c.isprintable() else "?" for c in part)
    before = "…" if begin else ""
    after = "…" if column + _AFTER < len(line) else ""
    return (
        f"    {before}{shown}{after}",
        f"    {' ' * (column - begin + len(before))}^",
    )
