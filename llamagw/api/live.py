"""
The live table: the requests for models that are under way, for whoever watches, and their cancel.

Nothing is noted when a request comes or moves on: while somebody watches, all connections are
looked at twice a second, and what differs from what was told last is sent to all watchers. The
streams themselves are those of feeds.py, the requests that have ended those of activity.py.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from llamagw.api.feeds import Feed, Feeds
from llamagw.errors import RequestNotFound
from llamagw.fleet import Change, Dispatcher, Lease, Standing
from llamagw.listeners import Listeners
from llamagw.observe import Activity, Record, beginning
from llamagw.proxy import Request

_log = Logger(namespace="llamagw.api")

#: Seconds between two looks at what is under way; and after which a request is told again although
#: only its times and bytes have changed.
LOOK_SEC, AGAIN_SEC = 0.5, 1.0

#: How many requests under way are told at most. One that is told keeps its place until it ends. A
#: free place goes to the request that has waited longest for its model; if none waits, to the
#: newest.
MOST_TOLD = 200

#: How many requests that have begun and ended between two looks are told at most: the last ones.
MOST_SHORT = 100

#: How many requests with one id are cancelled in one turn of the reactor: each takes some 0.25 ms.
CANCELS_A_TURN = 50

#: How many requests that have ended are in a snapshot.
LAST = 100


class _Line:
    """
    One request of the table.

    :param request: it
    :param since_epoch: seconds since the epoch at which the clock was 0
    :ivar record: its record
    :ivar beginning: what does not change of it
    :ivar live: what was told last
    :ivar at: when that was
    """

    __slots__ = ("at", "beginning", "live", "record", "request")

    def __init__(self, request: Request, since_epoch: float) -> None:
        assert request.record is not None, "it is under way"
        #: None when it has ended.
        self.request: Request | None = request
        self.record = request.record
        self.beginning = beginning(self.record, since_epoch)
        self.live: dict[str, Any] = {}
        self.at = float("-inf")

    def arrived(self) -> float:
        """When it arrived, in seconds of the clock."""
        return self.record.arrived or 0.0

    def look(self, standings: Mapping[Deferred[Lease], Standing], now: float) -> bool:
        """
        Compare the request with what was told last.

        :param standings: of all that wait
        :return: whether it is to be told again
        """
        assert self.request is not None, "it is under way"
        waiting = self.request.waiting
        standing = None if waiting is None else standings.get(waiting)
        live = live_entry(self.beginning, self.record, self.request, standing, now)
        # Half a look earlier: a look may come a little too soon.
        same = now - self.at < AGAIN_SEC - LOOK_SEC / 2 and all(
            live[key] == self.live[key] for key in ("state", "position", "waiting_for", "model")
        )
        if not same:
            self.live, self.at = live, now
        return not same


class Live:
    """
    Tells of the requests under way.

    :param dispatcher: knows where those stand that wait
    :param under_way: gives the requests
    :param activity: the last ones that have ended
    :param records: told of each that ends
    :param clock: the reactor, or a Clock
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        under_way: Callable[[], Iterable[Request]],
        activity: Activity,
        records: Listeners[Record],
        clock: IReactorTime,
    ) -> None:
        self._dispatcher = dispatcher
        self._under_way = under_way
        self._activity = activity
        self._records = records
        self._clock = clock
        self._feeds: set[Feed] = set()
        #: Those of them that are to get a snapshot next.
        self._behind: set[Feed] = set()
        #: What was told as under way, by the identity of the record.
        self._told: dict[int, _Line] = {}
        self._more = 0
        #: Those that have ended since the last look.
        self._ended: deque[Record] = deque(maxlen=MOST_SHORT)
        self._deaf: Callable[[], None] = lambda: None
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock

    def __repr__(self) -> str:
        return f"<Live: {len(self._feeds)} watch {len(self._told)} requests>"

    def follow(self, request: Request, feeds: Feeds) -> None:
        """
        ``GET /activity/sse``: a snapshot, then each change.

        :raises ServerBusy: if there are too many feeds
        """

        def told(change: Change | None) -> None:
            if change is None:
                feed.end()

        feed = feeds.events(request, lambda: self._behind.add(feed))
        if not self._feeds:
            self._deaf = self._records.add(self._heard)
            self._looking.start(LOOK_SEC, now=False)
        self._feeds.add(feed)
        self._behind.add(feed)
        feed.until_end(lambda: self._leave(feed))
        if self._feeds:  # else it has ended already: its head alone was asked for
            # So that its snapshot is of this moment.
            self._look()
        # It ends when the gateway drains.
        feed.until_end(self._dispatcher.watch(told))

    def told(self, request_id: str, may: Callable[[Record], bool]) -> dict[str, Any]:
        """
        What is known of one request: the newest with this id, its content included.

        :param may: says whether a request may be told of; one that may not is as if it were none
        :raises RequestNotFound: if it is neither under way nor among the last ones
        """
        now = self._clock.seconds()
        since_epoch = time.time() - now
        record = self._activity.find(request_id)
        if record is not None and not may(record):
            record = None
        told = None if record is None else self._activity.entry(record, since_epoch)
        for request in self._with_id(request_id, may):
            record = request.record
            assert record is not None, "it is under way"
            waiting = request.waiting
            standing = None if waiting is None else self._dispatcher.standing(waiting)
            known = beginning(record, since_epoch)
            told = live_entry(known, record, request, standing, now)
        if told is None or record is None:
            raise RequestNotFound(request_id, "under way, or among the last ones")
        captured = self._activity.capture.get(record.captured)
        told["captured"] = captured is not None
        return told if captured is None else {**told, **captured.told()}

    def cancel(self, request_id: str, may: Callable[[Record], bool]) -> int:
        """
        End the requests with an id; their clients get `llamagw.errors.RequestCancelled`.

        :param may: says which of them may be ended
        :return: how many there are; of many, some end a little later
        :raises RequestNotFound: if there was none
        """
        found = [request for request in self._with_id(request_id, may) if request.unanswered]
        if not found:
            raise RequestNotFound(request_id, "under way")
        self._end(found)
        return len(found)

    def _end(self, requests: list[Request]) -> None:
        """Cancel requests, `CANCELS_A_TURN` in a turn of the reactor."""
        for request in requests[:CANCELS_A_TURN]:
            request.cancel()
        if len(requests) > CANCELS_A_TURN:
            self._clock.callLater(0, self._end, requests[CANCELS_A_TURN:])

    def _with_id(self, request_id: str, may: Callable[[Record], bool]) -> list[Request]:
        return [
            request
            for request in self._under_way()
            if request.record is not None
            and request.record.id == request_id
            and may(request.record)
        ]

    def _leave(self, feed: Feed) -> None:
        self._feeds.discard(feed)
        self._behind.discard(feed)
        if not self._feeds:
            self._looking.stop()
            self._deaf()
            self._told.clear()
            self._ended.clear()

    def _heard(self, record: Record) -> None:
        if record.asked is not None:
            self._ended.append(record)
            line = self._told.get(id(record))
            if line is not None:
                # Not held until the next look: it may have a body, which counts no longer.
                line.request = None

    def _look(self) -> None:
        """Send what has changed to those who have a snapshot, and one to the others."""
        try:
            now = self._clock.seconds()
            changes = b"".join(map(_event, self._changes(now, time.time() - now)))
            for feed in self._feeds - self._behind:
                feed.send(changes)
            if self._behind:
                behind, self._behind = self._behind, set()
                snapshot = _event(self._snapshot(time.time() - now))
                for feed in behind:
                    feed.send(snapshot)
        except Exception:
            # The next look may succeed; what was to be told now is in a snapshot then.
            self._behind |= self._feeds
            _log.failure("what is under way could not be told")

    def _snapshot(self, since_epoch: float) -> dict[str, Any]:
        return {
            "event": "snapshot",
            "now": [line.live for line in self._told.values()],
            "more": self._more,
            "last": self._activity.entries(since_epoch, count=LAST),
        }

    def _changes(self, now: float, since_epoch: float) -> list[dict[str, Any]]:
        """The events since the last look."""
        under_way = {id(request.record): request for request in self._under_way()}
        events = self._endings(under_way, since_epoch)
        standings = self._dispatcher.standings()
        for line in self._told.values():
            if line.look(standings, now):
                events.append({"event": "moved", "request": line.live})
        new = [request for key, request in under_way.items() if key not in self._told]
        chosen = nsmallest(MOST_TOLD - len(self._told), new, _rank)
        for line in sorted((_Line(r, since_epoch) for r in chosen), key=_Line.arrived):
            self._told[id(line.record)] = line
            line.look(standings, now)
            events.append({"event": "begun", "request": line.live})
        more = len(new) - len(chosen)
        if more != self._more:
            self._more = more
            events.append({"event": "more", "more": more})
        return events

    def _endings(self, under_way: dict[int, Request], since_epoch: float) -> list[dict[str, Any]]:
        """Events for those that have ended since the last look, in the order of their ends."""
        ended = {id(record): record for record in self._ended}
        ended |= {key: line.record for key, line in self._told.items() if key not in under_way}
        self._ended.clear()
        events = []
        for key, record in sorted(ended.items(), key=lambda pair: pair[1].last):
            if self._told.pop(key, None) is None:
                known = beginning(record, since_epoch)
                live = live_entry(known, record, None, None, record.last)
                events.append({"event": "begun", "request": live})
            events.append({"event": "ended", "request": self._activity.entry(record, since_epoch)})
        return events


def live_entry(
    known: dict[str, Any],
    record: Record,
    request: Request | None,
    standing: Standing | None,
    now: float,
) -> dict[str, Any]:
    """
    A request under way as JSON has it.

    :param known: what `beginning` says of it
    :param request: it; None if it has ended
    :param standing: its place in the queue of its model; None if it does not wait
    :param now: seconds of the reactor's clock
    """
    arrived = now if record.arrived is None else record.arrived
    waits = record.admitted is None or (request is not None and request.waiting is not None)
    if standing is not None:
        state = standing.state
    elif waits:
        state = "waiting"
    else:
        state = "processing" if record.first is None else "answering"
    waited = record.waited if not waits else 0.0 if record.queued is None else now - record.queued
    return {
        **known,
        "model": record.model or (standing.model if standing else None),
        "state": state,
        "position": standing.position if standing else None,
        "waiting_for": standing.waiting_for if standing else None,
        "waited_sec": round(waited, 3),
        "usual_sec": standing.usual_sec if standing else None,
        "first_byte_sec": None if record.first is None else round(record.first - arrived, 3),
        "bytes_out": record.bytes_out if request is None else request.sentLength,
        "elapsed_sec": round(now - arrived, 3),
    }


def _rank(request: Request) -> tuple[bool, float]:
    """The order in which requests get free places: see `MOST_TOLD`."""
    record = request.record
    assert record is not None, "it is under way"
    if request.waiting is not None and record.queued is not None:
        return False, record.queued
    return True, -(record.arrived or 0.0)


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)
