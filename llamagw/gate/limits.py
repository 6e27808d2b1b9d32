"""
How much a key may use: requests and tokens a minute, tokens a day, requests at once.

Pure: it is told the time. A request enters when its head is complete, with what can be told of its
tokens then; it may have to wait, or is refused; what it has really used is settled at its end. Who
waits, and how a refusal is answered, is for `llamagw.proxy`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from llamagw.config import LimitsEntry
from llamagw.dialects import Left
from llamagw.errors import RateLimited

#: Seconds of a day.
DAY = 86400

#: How many meters there are at least before those that are as good as new are forgotten.
_FEW = 1000


class Bucket:
    """
    What is left of something that is limited a minute: at most a minute's worth, refilled steadily.

    It may be less than nothing: what was promised for later, and what was used beyond an estimate.

    :param limit: how much a minute
    :param now: seconds of the clock
    :ivar left: how much was left at the last look
    """

    __slots__ = ("_at", "left", "limit")

    def __init__(self, limit: float, now: float) -> None:
        self.limit = limit
        self.left = limit
        self._at = now

    def __repr__(self) -> str:
        return f"<Bucket: {self.left:g} of {self.limit:g} left>"

    def look(self, now: float) -> float:
        """How much is left at a time."""
        self.left = min(self.left + (now - self._at) * self.limit / 60, self.limit)
        self._at = now
        return self.left

    def wait(self, amount: float, now: float) -> float:
        """How many seconds it takes until so much is left."""
        return max(amount - self.look(now), 0.0) * 60 / self.limit

    def take(self, amount: float, now: float) -> None:
        """Take so much, or give it back if it is less than nothing."""
        self.left = min(self.look(now) - amount, self.limit)

    def told(self, now: float) -> Left:
        """What a client is told of it."""
        left = self.look(now)
        return Left(int(self.limit), max(int(left), 0), (self.limit - left) * 60 / self.limit)


class Meter:
    """
    What a key uses of its limits.

    :param name: the key's
    :param limits: as configured
    :param meters: has what all of them share
    :param now: seconds of the clock
    """

    __slots__ = ("_meters", "_queue", "_requests", "_reserved", "_running", "_tokens", "limits",
                 "name")  # fmt: skip

    def __init__(self, name: str, limits: LimitsEntry, meters: Meters, now: float) -> None:
        self.name = name
        self._meters = meters
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        #: Requests that have a place of those for requests at once, and those that wait for one.
        self._running = 0
        self._queue: deque[Ticket] = deque()
        #: Tokens that are expected of the requests that have entered.
        self._reserved = 0.0
        self.adapt(limits, now)

    def __repr__(self) -> str:
        waiting = len(self._queue)
        return f"<Meter of {self.name}: {self._running} running, {waiting} waiting>"

    def adapt(self, limits: LimitsEntry, now: float) -> None:
        """Take other limits; what was used counts on."""
        self.limits = limits
        self._requests = _adapted(self._requests, limits.requests_per_min, now)
        self._tokens = _adapted(self._tokens, limits.tokens_per_min, now)
        self._fill()

    @property
    def patience(self) -> float:
        """Seconds that a request waits at most."""
        return self._meters.patience

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how many tokens a request may use."""
        return self._tokens is not None or self.limits.tokens_per_day is not None

    def is_idle(self, now: float) -> bool:
        """Whether a new one would be the same."""
        return not (self._running or self._queue) and all(
            bucket is None or bucket.look(now) >= bucket.limit
            for bucket in (self._requests, self._tokens)
        )

    def enter(self, tokens: float, now: float) -> Ticket:
        """
        Let a request in.

        :param tokens: that it is expected to use, as far as that is known
        :raises RateLimited: if it would have to wait for too long; then nothing is taken
        """
        self._check_day()
        requests = self._requests
        wait = 0.0
        if requests is not None:
            wait = requests.wait(1, now)
            if wait > self._meters.patience:
                most = self.limits.requests_per_min
                raise self._refused(f"sends over {most} requests a minute", wait)
        parallel = self.limits.parallel
        if parallel is not None and len(self._queue) >= parallel:
            raise self._full()
        ticket = Ticket(self, now + wait)
        ticket.reserve(tokens, now)
        if requests is not None:
            requests.take(1, now)
        self._queue.append(ticket)
        self._fill()
        return ticket

    def told(self, now: float) -> tuple[Left | None, Left | None]:
        """What a client is told of its requests and of its tokens; None where nothing limits it."""
        tokens = None if self._tokens is None else self._tokens.told(now)
        day = self.limits.tokens_per_day
        if day is not None:
            left = max(day - self._meters.used(self.name) - int(self._reserved), 0)
            if tokens is None or left < tokens.remaining:
                tokens = Left(day, left, self._meters.until_midnight())
        return None if self._requests is None else self._requests.told(now), tokens

    def now_is(self) -> float:
        """Seconds since the epoch."""
        return self._meters.epoch()

    def _check_day(self) -> None:
        day = self.limits.tokens_per_day
        if day is None:
            return
        used = self._meters.used(self.name)
        if used >= day:
            again = self._meters.until_midnight()
            raise self._refused(f"has used its {day} tokens of this day (UTC)", again)
        if used + self._reserved >= day:
            what = f"has requests under way that may use the rest of its {day} tokens of this day"
            raise self._refused(f"{what} (UTC)", self._meters.patience)

    def _fill(self) -> None:
        """Give those who wait the places that are free."""
        parallel = self.limits.parallel
        while self._queue and (parallel is None or self._running < parallel):
            ticket = self._queue.popleft()
            self._running += 1
            ticket.got_place()

    def _full(self) -> RateLimited:
        return self._refused(f"has {self.limits.parallel} requests at once, as many as it may", 0)

    def _refused(self, what: str, wait: float) -> RateLimited:
        return RateLimited(f"The API key `{self.name}` {what}.", retry_after=wait)


class Ticket:
    """
    A request within the limits of its key, from its head to its end.

    :param meter: the key's
    :param at: from when on it may go on, in seconds of the clock
    :ivar placed: called when it has a place among the requests at once, if it is set before that
    """

    __slots__ = ("_meter", "_reserved", "_state", "_taken", "at", "placed")

    def __init__(self, meter: Meter, at: float) -> None:
        self.at = at
        self.placed: Callable[[], object] | None = None
        self._meter = meter
        #: Tokens that are expected of it, and those of them that were taken from the bucket.
        self._reserved = self._taken = 0.0
        self._state = _WAITS

    def __repr__(self) -> str:
        return f"<Ticket of {self._meter.name}: {self._state}, {self._reserved:g} tokens expected>"

    @property
    def has_place(self) -> bool:
        """Whether it is one of the requests at once."""
        return self._state == _RUNS

    def reserve(self, tokens: float, now: float) -> None:
        """
        Say how many tokens it may use, all in all; more than a minute's worth wait for that much.

        :raises RateLimited: if it would have to wait for too long; nothing is taken for that
        """
        meter, bucket = self._meter, self._meter._tokens
        if bucket is not None:
            more = min(tokens, bucket.limit) - self._taken
            wait = bucket.wait(more, now) if more > 0 else 0.0
            if wait > meter._meters.patience:
                most = f"{meter.limits.tokens_per_min} tokens a minute"
                raise meter._refused(f"uses over {most} with this request's {tokens:.0f}", wait)
            bucket.take(more, now)
            self._taken += more
            self.at = max(self.at, now + wait)
        meter._reserved += tokens - self._reserved
        self._reserved = tokens

    def too_long(self) -> RateLimited:
        """Why it is refused, when it has waited for a place for too long."""
        return self._meter._full()

    def got_place(self) -> None:
        """It is one of the requests at once."""
        self._state = _RUNS
        if self.placed is not None:
            self.placed()

    def end(self, tokens: float, now: float, refused: bool = False) -> None:
        """
        Settle what it has used; its place is free. Later calls do nothing.

        :param tokens: that it has really used
        :param refused: whether it was refused for its limits, and so counts as none
        """
        meter, state = self._meter, self._state
        if state == _ENDED:
            return
        self._state, self.placed = _ENDED, None
        if state == _RUNS:
            meter._running -= 1
        else:
            meter._queue.remove(self)
        meter._reserved -= self._reserved
        if meter._tokens is not None:
            meter._tokens.take(tokens - self._taken, now)
        if refused and meter._requests is not None:
            meter._requests.take(-1, now)
        meter._fill()


#: The states of a ticket.
_WAITS, _RUNS, _ENDED = "waits", "runs", "ended"


class Meters:
    """
    The meters of all keys that have limits, as far as they are in use.

    :param epoch: tells the time, in seconds since the epoch
    :ivar patience: seconds that a request waits for its key's limits at most
    :ivar used: how many tokens a key has used in this day
    """

    def __init__(self, epoch: Callable[[], float] = time.time) -> None:
        self.epoch = epoch
        self.patience = 5.0
        self.used: Callable[[str], int] = lambda _: 0
        self._known: dict[str, Meter] = {}
        self._most = _FEW

    def __repr__(self) -> str:
        return f"<Meters of {len(self._known)} keys>"

    def of(self, name: str, limits: LimitsEntry, now: float) -> Meter:
        """
        The meter of a key; the same one for as long as it is in use, whatever is read again.

        :param name: the key's
        :param limits: as they are configured now
        :param now: seconds of the clock
        """
        meter = self._known.get(name)
        if meter is None:
            if len(self._known) >= self._most:
                self._known = {n: m for n, m in self._known.items() if not m.is_idle(now)}
                self._most = max(2 * len(self._known), _FEW)
            meter = self._known[name] = Meter(name, limits, self, now)
        elif meter.limits is not limits:
            meter.adapt(limits, now)
        return meter

    def until_midnight(self) -> float:
        """Seconds until the next day of UTC."""
        return DAY - self.epoch() % DAY


def _adapted(bucket: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if limit is None or (bucket is not None and bucket.limit == limit):
        return None if limit is None else bucket
    new = Bucket(limit, now)
    if bucket is not None:
        new.left = min(bucket.look(now), limit)
    return new
