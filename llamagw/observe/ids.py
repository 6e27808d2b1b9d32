"""The id of a request: the client's own, if it has a fit one, else one that is made here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import count
from secrets import token_hex

#: What an id may be: it is logged, sent on in a header, and stands in paths of the API, where dots
#: and slashes alone would lead elsewhere.
_FIT = re.compile(rb"(?=.*[0-9A-Za-z])[0-9A-Za-z._:/+=@~-]{1,128}")

#: Tells the requests of one gateway from those of another, and of the same one restarted.
_PREFIX = token_hex(6)
_numbers = count(1)


def request_id(given: Sequence[bytes] | None) -> str:
    """
    The id of a request.

    :param given: the values of its header ``X-Request-Id``; None without one
    :return: the header's value, if it has one of up to 128 letters, digits and ``._:/+=@~-``, a
        letter or digit among them
    """
    if given is not None and len(given) == 1 and _FIT.fullmatch(given[0]):
        return given[0].decode()
    return f"{_PREFIX}-{next(_numbers):x}"
