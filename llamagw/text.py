"""
Text for people: of unknown origin, made harmless for logs and terminals; and lengths of time.

Control and formatting characters are escaped; the caller says how long the text may be.
"""

from __future__ import annotations

import re

#: Characters that a terminal or log viewer interprets instead of showing: control characters
#: except the tab, line and paragraph separators, and those that change the direction of text or are
#: invisible. Lone surrogates are included because they cannot be encoded; the two joiners (200C,
#: 200D) are not, because scripts and emoji need them.
_INTERPRETED = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


#: The same, without the line feed.
_NO_LINE = re.compile(_INTERPRETED.pattern.replace("\x0a", "\x0b", 1))


def harmless(text: str, limit: int | None = None) -> str:
    """
    Escape each character that a terminal would interpret, such as ``\\x1b``.

    :param text: any text
    :param limit: characters of the result at most; None for any number
    :return: the text on one line; if shortened, it ends with "…"
    """
    if limit is not None and len(text) > limit:
        # Escape only what can be shown: the text may be megabytes.
        text = text[: limit + 1]
    text = _INTERPRETED.sub(_escaped, text)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def harmless_lines(text: str) -> str:
    """
    As `harmless`, for a text of several lines: these stay.

    :param text: any text
    """
    return _NO_LINE.sub(_escaped, text.replace("\r\n", "\n"))


class _Escapes(dict[str, str]):
    """How each character that was met is written out: a text may have 100,000 of them."""

    def __missing__(self, character: str) -> str:
        number = ord(character)
        if number < 0x100:
            escape = f"\\x{number:02x}"
        else:
            escape = f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
        self[character] = escape
        return escape


_escapes = _Escapes()


def _escaped(found: re.Match[str]) -> str:
    return _escapes[found[0]]


def amount(size: int) -> str:
    """
    An amount of memory for people, such as ``4.2 GiB`` or ``512 MiB``.

    :param size: bytes
    """
    mib = size / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1023.5 else f"{mib:.0f} MiB"


def span(seconds: float) -> str:
    """
    A length of time for people, such as ``3 min``.

    :param seconds: its length
    """
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s" if seconds >= 1 else f"{seconds:.1f} s"
