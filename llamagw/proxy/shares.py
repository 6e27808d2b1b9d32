"""Whose turn a request is while it waits: by its caller, its size, and what it says itself."""

from __future__ import annotations

from llamagw.dialects import SLOTTED
from llamagw.errors import BadRequest
from llamagw.fleet import ALIKE, LOWEST, Share
from llamagw.gate import ANYBODY, BYTES_A_TOKEN
from llamagw.proxy.origins import decoded_path
from llamagw.proxy.request import Request

#: Tokens of an answer, by rule of thumb.
ANSWER_TOKENS = 500

#: The header by which a request says its class.
PRIORITY = b"X-Priority"


def share_of(request: Request) -> Share | None:
    """
    Whose turn a request is.

    ``X-Priority`` lowers its class, or raises it up to that of its key; without keys, to 0.

    :return: None if it takes no slot of the engine
    :raises BadRequest: if that header is no such number
    """
    path = request.path
    if path not in SLOTTED and (
        b"%" not in path or decoded_path(path).encode("latin-1") not in SLOTTED
    ):
        return None
    caller = request.caller
    given = request.given.get(PRIORITY)
    if caller is ANYBODY and given is None:
        return ALIKE
    priority = caller.priority if given is None else min(_number(given), caller.priority)
    cost = len(request.body) / BYTES_A_TOKEN + ANSWER_TOKENS
    return Share(caller.name, priority, caller.share, cost)


def _number(values: list[bytes]) -> int:
    text = values[-1]
    if len(text) <= 4 and text.removeprefix(b"-").isdigit() and LOWEST <= int(text) <= -LOWEST:
        return int(text)
    raise BadRequest("X-Priority must be a whole number from -100 to 100.")
