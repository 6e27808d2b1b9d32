"""
The files of a model: their paths, their size, and whether they are there.

Their content is read by gguf.py.
"""

from __future__ import annotations

import os
import re
from itertools import islice
from typing import TypeAlias

#: A part of several, as llama.cpp's gguf-split names them.
_PART = re.compile(r"(.*-)(\d{5})(-of-(\d{5})\.gguf)")

#: How many missing parts are named.
_NAMED = 3

#: By what a file that has changed is known: device, inode, size and time, of each part.
Stamp: TypeAlias = tuple[tuple[int, int, int, int], ...]


def parts(path: str) -> list[str]:
    """
    All files of a model.

    :param path: its file; the first part of one that is split
    :return: the paths of its parts, whether they exist or not; only the path itself if it is not
        split
    """
    found = _PART.fullmatch(path)
    if found is None or int(found[2]) != 1:
        return [path]
    return [f"{found[1]}{number:05}{found[3]}" for number in range(1, int(found[4]) + 1)]


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


def stamp(path: str) -> Stamp | None:
    """
    What changes when a model's files are changed or replaced.

    :param path: its file; the first part of one that is split
    :return: None if one of them is missing
    """
    try:
        stats = [os.stat(part) for part in parts(path)]
    except OSError:
        return None
    return tuple((one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) for one in stats)


def absent(path: str) -> str:
    """
    Why a model cannot be loaded, as far as can be seen without a look into its files.

    :param path: its file; the first part of one that is split
    :return: "" if all of its files are there
    """
    if os.path.isdir(path):
        return f"{path} is a folder; give the .gguf file in it"
    if not os.path.isfile(path):
        other = "is neither a file nor a folder" if os.path.exists(path) else ""
        return f"{path} {other}" if other else f"there is no file {path}"
    found = _PART.fullmatch(path)
    if found is None:
        return ""
    number, count = int(found[2]), int(found[4])
    if number != 1:
        return (
            f"{path} is part {number} of {count}; give the first, {found[1]}{1:05}{found[3]}, "
            f"and llama-server finds the others"
        )
    lost = (os.path.basename(part) for part in parts(path) if not os.path.isfile(part))
    missing = [*islice(lost, _NAMED + 1)]
    if not missing:
        return ""
    more = " and more" if len(missing) > _NAMED else ""
    return f"{path} is the first of {count} parts; missing: {', '.join(missing[:_NAMED])}{more}"
