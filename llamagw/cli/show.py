"""How things look in a terminal: tables, sizes, times. Makes text, and prints none."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "


def plain(text: str) -> str:
    """A text of unknown origin, on one line and harmless to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def size(count: float) -> str:
    """Bytes as people read them: ``92.1 MiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"


def ago(seconds: float) -> str:
    """How long ago something was: ``3 min ago``."""
    if seconds < 5:
        return "just now"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{int(seconds)} s ago"


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    dispensable: Sequence[str] = (),
) -> list[list[str]]:
    """
    The cells of a table, padded to the width of their column; the heads come first.

    Numbers (all of a column's cells, "-" aside, begin with a digit) stand to the right.

    :param width: how many characters a line may have; None for any number
    :param dispensable: columns that may go for that, in this order; after them, the first
        column's cells are shortened in their middle
    """
    table = [list(columns), *(list(row) for row in rows)]
    for name in dispensable:
        if width is not None and _width(table) > width:
            at = table[0].index(name)
            for row in table:
                del row[at]
    if width is not None and _width(table) > width:
        longest = max(len(row[0]) for row in table)
        allowed = max(longest - (_width(table) - width), 12)
        for row in table:
            row[0] = _shortened(row[0], allowed)
    for at in range(len(table[0])):
        cells = [row[at] for row in table[1:] if row[at] != "-"]
        right = bool(cells) and all(cell.isdigit() for cell in cells)
        longest = max(len(row[at]) for row in table)
        for row in table:
            row[at] = row[at].rjust(longest) if right else row[at].ljust(longest)
    return table


def _width(table: Sequence[Sequence[str]]) -> int:
    columns = range(len(table[0]))
    return sum(max(len(row[at]) for row in table) for at in columns) + len(GAP) * (len(columns) - 1)


def _shortened(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return text[: length - 1 - tail] + "…" + text[len(text) - tail :]
