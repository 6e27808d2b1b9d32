"""
Sizes of memory as the configuration has them: ``48GB``, ``22GiB``.

Which keys take them is said in schema.py.
"""

from __future__ import annotations

import re

#: A number and its unit.
SIZE = r"\A[0-9]{1,9}(\.[0-9]{1,6})?\s?[MGT]i?B\Z"

_UNITS = {
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


def size(text: str) -> int:
    """
    A size in bytes.

    :param text: that `SIZE` matches
    """
    number, unit = re.split(r"\s?(?=[MGT])", text, maxsplit=1)
    return round(float(number) * _UNITS[unit])
