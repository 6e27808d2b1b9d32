"""
The files of a model: their paths and their size.

Their content is read by gguf.py.
"""

from __future__ import annotations

import os
import re

#: The first of several parts, as llama.cpp's gguf-split names them.
_FIRST_PART = re.compile(r"(.*-)00001(-of-(\d{5})\.gguf)")


def parts(path: str) -> list[str]:
    """
    All files of a model.

    :param path: its file; the first part of one that is split
    :return: the paths of its parts, whether they exist or not; only the path itself if it is not
        split
    """
    found = _FIRST_PART.fullmatch(path)
    if found is None:
        return [path]
    return [f"{found[1]}{number:05}{found[2]}" for number in range(1, int(found[3]) + 1)]


def size(path: str) -> int | None:
    """
    The size of a model.

    :param path: its file; the first part of one that is split
    :return: bytes, all parts together; None if one of them is missing
    """
    try:
        return sum(os.stat(part).st_size for part in parts(path))
    except OSError:
        return None
