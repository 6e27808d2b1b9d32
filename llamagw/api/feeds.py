"""
Answers that the gateway itself goes on writing: changes of the models' states, an engine's output.

A client that reads too slowly is not written to, and told so or brought up to date when it reads
again, so that nothing piles up for it. There are so many at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from llamagw.api.listing import router_event
from llamagw.errors import ServerBusy
from llamagw.fleet import Change, Dispatcher
from llamagw.proxy import Request

#: Seconds between signs of life on a stream of events, for whatever stands between.
PING_SEC = 15.0

#: How many clients may follow something at a time: each costs time at every change.
MOST_FOLLOWERS = 64


@implementer(IPushProducer)
class _Feed:
    """
    :param again: called when the client reads on and has missed something
    """

    def __init__(self, request: Request, content_type: bytes, again: Callable[[], None]) -> None:
        self._request = request
        self._again = again
        self._paused = self._missed = False
        self._hooks: list[Callable[[], object]] = []
        request.notifyFinish().addErrback(lambda _: self._stop())
        head = [(b"Content-Type", content_type), (b"Cache-Control", b"no-cache")]
        request.begin(200, b"OK", head, b"")
        request.registerProducer(self, True)

    def until_end(self, stop: Callable[[], object]) -> None:
        """Call this when the feed ends, whoever ends it."""
        self._hooks.append(stop)

    def send(self, data: bytes) -> None:
        """Write, or leave it out if the client does not read."""
        if self._paused:
            self._missed = True
        elif data:
            self._request.pass_on(data)

    def end(self) -> None:
        """There is no more."""
        self._stop()
        if self._request.unanswered:
            self._request.unregisterProducer()
            self._request.finish()

    def _stop(self) -> None:
        hooks, self._hooks = self._hooks, []
        for stop in hooks:
            stop()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        missed, self._missed = self._missed, False
        if missed:
            self._again()

    def stopProducing(self) -> None:
        self._stop()


class Feeds:
    """
    All that goes on at a time.

    :param clock: for the signs of life
    """

    def __init__(self, dispatcher: Dispatcher, clock: IReactorTime) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._open: set[_Feed] = set()

    def changes(self, request: Request) -> None:
        """
        ``GET /models/sse``: how every model is, and from then on each change.

        :raises ServerBusy: when there are too many feeds already
        """
        dispatcher = self._dispatcher

        def snapshot() -> None:
            changes = [
                Change(
                    model=report.id,
                    status=report.status,
                    error=report.error,
                    exit_code=report.exit_code,
                )
                for report in dispatcher.report()
            ]
            # In one piece: one that is paused in its middle would begin anew, again and again.
            feed.send(b"".join(_event(router_event(c, "model_status")) for c in changes))

        def changed(change: Change | None) -> None:
            if change is None:
                feed.end()
            else:
                feed.send(_event(router_event(change)))

        feed = self._begin(request, b"text/event-stream", snapshot)
        snapshot()
        feed.until_end(dispatcher.watch(changed))
        ping = LoopingCall(feed.send, b": still here\n\n")
        ping.clock = self._clock
        ping.start(PING_SEC, now=False)
        feed.until_end(ping.stop)

    def log(self, request: Request, name: str, count: int) -> None:
        """
        ``GET /models/logs?follow=true``: the engine's last lines, and from then on each further.

        :param count: how many lines to begin with; -1 for all that are kept
        :raises ServerBusy: when there are too many feeds already
        """

        def left_out() -> None:
            feed.send(b"[lines were left out here: they were not read in time]\n")

        def ended(change: Change | None) -> None:
            if change is None:
                feed.end()

        log = self._dispatcher.log(name)
        feed = self._begin(request, b"text/plain; charset=utf-8", left_out)
        feed.send(as_text(last(log.lines, count)))
        feed.until_end(log.follow(lambda lines: feed.send(as_text(lines))))
        feed.until_end(self._dispatcher.watch(ended))

    def _begin(self, request: Request, content_type: bytes, again: Callable[[], None]) -> _Feed:
        if len(self._open) >= MOST_FOLLOWERS:
            raise ServerBusy(
                f"{MOST_FOLLOWERS} clients follow events or logs already, as many as may.",
                retry_after=5,
            )
        feed = _Feed(request, content_type, again)
        self._open.add(feed)
        feed.until_end(lambda: self._open.discard(feed))
        return feed


def last(lines: Sequence[str], count: int) -> Sequence[str]:
    """So many of the last lines; all of them for -1."""
    return lines if count < 0 else [*lines][max(len(lines) - count, 0) :]


def as_text(lines: Iterable[str]) -> bytes:
    """Lines as they are sent."""
    return "".join(f"{line}\n" for line in lines).encode()


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)
