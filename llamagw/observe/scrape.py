"""
The door to prometheus.py, which is imported when somebody scrapes first: it takes 3 MB of memory;
and what is told to those who may know of some models only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from llamagw.observe.families import Family

#: How the lines of keys begin: a key that may use some models only is not told of others.
_OF_KEYS = b"llamagw_key_"

#: The label with a model's name, in a line; and what is escaped in its text.
_MODEL = re.compile(rb'[{,]model="((?:[^"\\]|\\.)*)"')
_ESCAPED, _MEANT = re.compile(rb"\\([\\\"n])"), {b"\\": b"\\", b'"': b'"', b"n": b"\n"}


def exposition(
    families: Iterable[Family], engines: Mapping[str, bytes], accept: str
) -> tuple[bytes, str]:
    """
    All metrics as text.

    :param families: the gateway's own
    :param engines: what each engine told, by name of the model; not trusted
    :param accept: the scraper's Accept header; chooses between Prometheus' format and OpenMetrics
    :return: the text, and its Content-Type
    """
    from llamagw.observe import prometheus

    return prometheus.exposition(families, engines, accept)


def only(text: bytes, sees: Callable[[str], bool]) -> bytes:
    """
    An exposition without the series of some models, and of keys; the others stay.

    :param text: as from `exposition`
    :param sees: says whether a model's stay, by its name
    """
    known: dict[bytes, bool] = {}
    lines = []
    for line in text.split(b"\n"):
        if line.startswith(_OF_KEYS):
            continue
        found = None if line.startswith(b"#") else _MODEL.search(line)
        if found is not None:
            label = found[1]
            if label not in known:
                name = _ESCAPED.sub(lambda one: _MEANT[one[1]], label).decode(errors="replace")
                known[label] = sees(name)
            if not known[label]:
                continue
        lines.append(line)
    return b"\n".join(lines)
