"""
Text of unknown origin, made harmless: for logs, errors and terminals.

What an engine prints, a remote server answers or a client sends may hold characters that move a
terminal's cursor, forge a line, or fill a screen. Here they become visible, and texts short.
"""

from __future__ import annotations

import re

#: What a terminal, or a reader's eye, may take for more than text: control characters (C0 but the
#: tab, DEL, C1), line and paragraph separators, marks that change the direction of what follows,
#: zero-width characters, tags, and halves of surrogate pairs.
_ACTIVE = re.compile(
    "[\0-\x08\x0a-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def harmless(text: str, limit: int | None = None) -> str:
    r"""
    A text on one line, with nothing in it that acts on a terminal.

    :param text: any text
    :param limit: how many of its characters are kept at most; None for all
    :return: the text; characters that act are written as Python writes them, such as ``\x1b``
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return _ACTIVE.sub(lambda found: ascii(found[0])[1:-1], text)
