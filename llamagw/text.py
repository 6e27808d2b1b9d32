"""
Text of unknown origin, made harmless for logs and terminals.

Only the text is changed, never judged; who shows it decides how much of it there may be.
"""

from __future__ import annotations

import re

#: What a terminal or a reader of logs acts upon instead of showing it: control characters but the
#: tab, line and paragraph separators, and those that turn the direction of text or are invisible.
#: Lone surrogates belong here because they cannot be encoded. The two joiners (200C, 200D) do not:
#: scripts and emoji are written with them.
_ACTED_UPON = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def harmless(text: str, limit: int | None = None) -> str:
    """
    A text with each character that a terminal acts upon written out, such as ``\\x1b``.

    :param text: any text
    :param limit: characters that it may have at most; None for any number
    :return: the text on one line; what was longer ends with "…"
    """
    if limit is not None and len(text) > limit:
        # Only so much of it is looked at: it may be megabytes.
        text = text[: limit + 1]
    text = _ACTED_UPON.sub(_written_out, text)
    return text if limit is None or len(text) <= limit else text[: limit - 1] + "…"


def _written_out(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
