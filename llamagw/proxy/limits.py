"""
A request within the limits of its key: how long its answer may be, and the wait for its turn.

Called when its body has arrived and its model is known, and only for keys with limits; what is left
of those is kept by `llamagw.gate`.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from llamagw.dialects import LONGEST, TEXTS
from llamagw.errors import BadRequest
from llamagw.gate import BYTES_A_TOKEN, Ticket
from llamagw.proxy.call import Call
from llamagw.proxy.connections import LARGE
from llamagw.proxy.origins import decoded_path
from llamagw.proxy.request import Request
from llamagw.proxy.rewrite import LENGTHS, as_number

_ABSENT, _NULL = Raw(b""), Raw(b"null")

#: More answers than any engine gives at once.
_MOST_ANSWERS = 1000


class _Lengths(Struct):
    """What a body says of the length of its answer, in any dialect; and how many it wants."""

    max_tokens: Raw = _ABSENT
    max_completion_tokens: Raw = _ABSENT
    max_output_tokens: Raw = _ABSENT
    n_predict: Raw = _ABSENT
    n: Raw = _ABSENT


_lengths = msgspec.json.Decoder(_Lengths).decode


async def keep_within(request: Request, call: Call, clock: IReactorTime) -> None:
    """
    Check how long the answer may be, and wait until the limits of the key let the request go on.

    :param call: what it asks for; gets the longest answer that it may have
    :raises BadRequest: if it asks for a longer answer than its key may have
    :raises RateLimited: if it would have to wait, or has waited, for too long
    """
    ticket, meter = request.ticket, request.meter
    if ticket is None or meter is None:
        return
    longest = meter.limits.max_tokens if call.shaped else None
    if longest is not None or meter.counts_tokens:
        if len(request.body) > LARGE:
            await request.turn()
        # In the table by its path as it came, or as the tree has decoded it.
        path = decoded_path(request.path).encode("latin-1")
        asked = _asked(request, longest, path) if call.shaped else 0.0
        if longest is not None:
            call.longest = LONGEST[path], longest
        prompt = len(request.body) / BYTES_A_TOKEN if path in TEXTS else 0.0
        ticket.reserve(prompt + asked, clock.seconds())
    if not ticket.has_place:
        await _place(request, ticket, clock, meter.patience)
    wait = ticket.at - clock.seconds()
    if wait > 0:
        await deferLater(clock, wait)


async def _place(request: Request, ticket: Ticket, clock: IReactorTime, patience: float) -> None:
    """
    Wait until the request is one of those that its key may have at once.

    :raises RateLimited: if that takes too long
    """
    placed: Deferred[None] = Deferred()
    ticket.placed = lambda: placed.callback(None)
    timer = clock.callLater(patience, placed.errback, ticket.too_long())
    try:
        await placed
    finally:
        ticket.placed = None
        if timer.active():
            timer.cancel()


def _asked(request: Request, longest: int | None, path: bytes) -> float:
    """
    How many tokens the answers may have, all together; 0 if the request does not say.

    :param longest: how many each may have at most; None for any number
    :raises BadRequest: if it asks for more
    """
    try:
        found = _lengths(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0.0  # it is no object: what is wrong was said when its model was looked for
    told = []
    for name in LENGTHS:
        given = getattr(found, name)
        if given in (_ABSENT, _NULL):
            continue
        number = as_number(given)
        if longest is not None and (number is None or not 0 <= number <= longest):
            whose = f"the API key `{request.caller.name}`"
            raise BadRequest(
                f"`{name}` must be a whole number of 0 to {longest}, the max_tokens of {whose}.",
                param=name,
            )
        if number is not None and number >= 0:
            told.append(number)
    answers = max(int(min(as_number(found.n) or 1.0, _MOST_ANSWERS)), 1)
    if request.record is not None:
        request.record.answers = answers
    return max(told, default=float(longest or 0)) * answers
