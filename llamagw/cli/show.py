"""Formatting for the terminal: tables, sizes, times. Returns text; the commands print it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from llamagw.text import span

GAP = "  "

#: How many lines a note may have on a terminal.
NOTE_LINES = 8


def plain(text: str) -> str:
    """
    A text of unknown origin, made harmless for a terminal.

    :param text: any text
    :return: on one line, with "?" for each character that is not printable
    """
    return "".join(c if c.isprintable() else "?" for c in text)


def size(count: float) -> str:
    """
    A size for people, such as ``92.1 MiB``.

    :param count: bytes
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"


def ago(seconds: float) -> str:
    """
    A time for people, such as ``3 min ago``.

    :param seconds: since then
    """
    return "just now" if seconds < 5 else f"{span(seconds)} ago"


def note(text: str, width: int | None = None, lines: int | None = NOTE_LINES) -> str:
    """
    A sentence below a table, or an error.

    :param text: any number of words
    :param width: characters of a line at most, but for longer words; None for no limit
    :param lines: at most; None for no limit
    :return: as it is without a width; else in lines of which all but the first are indented
    """
    if width is None:
        return text
    return textwrap.fill(
        text,
        width,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
        max_lines=lines,
        placeholder=" …",
    )


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    dispensable: Sequence[str] = (),
    shortened: str | None = None,
) -> list[list[str]]:
    """
    Lay out a table.

    A column of numbers (each cell is one, or "-" or empty) is aligned to the right.

    :param columns: the heads
    :param rows: the cells
    :param width: characters of a line at most; None for no limit
    :param dispensable: columns that are left out, in this order, if lines are too long; after
        that, the cells of `shortened` are shortened in the middle
    :param shortened: a column; None for the first
    :return: the cells, padded to the width of their column, line by line; the heads come first
    """
    table = [list(columns), *(list(row) for row in rows)]
    for name in dispensable:
        if width is not None and _width(table) > width:
            at = table[0].index(name)
            for row in table:
                del row[at]
    if width is not None and _width(table) > width:
        at = 0 if shortened is None else table[0].index(shortened)
        longest = max(len(row[at]) for row in table)
        allowed = max(longest - (_width(table) - width), 12)
        for row in table:
            row[at] = middle(row[at], allowed)
    for at in range(len(table[0])):
        cells = [row[at] for row in table[1:] if row[at] not in ("-", "")]
        right = bool(cells) and all(cell.replace(".", "", 1).isdigit() for cell in cells)
        longest = max(len(row[at]) for row in table)
        for row in table:
            row[at] = row[at].rjust(longest) if right else row[at].ljust(longest)
    return table


def _width(table: Sequence[Sequence[str]]) -> int:
    columns = range(len(table[0]))
    return sum(max(len(row[at]) for row in table) for at in columns) + len(GAP) * (len(columns) - 1)


def middle(text: str, length: int) -> str:
    """
    A text, shortened in its middle.

    :param length: characters at most, 2 or more
    """
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[len(text) - tail :]
