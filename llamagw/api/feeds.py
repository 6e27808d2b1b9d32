"""
Streams that the gateway itself writes: changes of the models' states, an engine's output, and
events that others send (live.py).

Nothing is buffered for a client that does not read: what it misses is left out, and when it reads
again it gets a new snapshot, or a note that lines are missing. The number of streams is limited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from llamagw.api.listing import progress_event, router_event
from llamagw.errors import ServerBusy
from llamagw.fleet import Change, Dispatcher, Progress
from llamagw.proxy import Request
from llamagw.text import harmless

#: Seconds between comments in a stream of events, so that proxies do not close it as idle.
PING_SEC = 15.0

#: Seconds between events that tell how far models are.
PROGRESS_SEC = 1.0

#: Maximum number of streams at a time: each takes time at every change.
MOST_FOLLOWERS = 64

#: Lines of all models' logs that are told at first, shared among the models that have any; each of
#: them has one at least.
MOST_LINES = 2000


@implementer(IPushProducer)
class Feed:
    """
    One stream to one client.

    :param request: the client's; its answer is begun
    :param content_type: of the answer
    :param again: called when the client reads again after data was left out
    """

    def __init__(self, request: Request, content_type: bytes, again: Callable[[], None]) -> None:
        self._request = request
        self._again = again
        self._paused = self._missed = self._over = False
        self._hooks: list[Callable[[], object]] = []
        request.notifyFinish().addErrback(lambda _: self._stop())
        head = [(b"Content-Type", content_type), (b"Cache-Control", b"no-cache")]
        request.begin(200, b"OK", head, b"")
        request.registerProducer(self, True)
        if request.method == b"HEAD":
            self.end()

    def __repr__(self) -> str:
        return f"<Feed to {self._request!r}{', paused' if self._paused else ''}>"

    def until_end(self, stop: Callable[[], object]) -> None:
        """
        Register a function to be called when the feed ends, or the client disconnects.

        :param stop: called once, without arguments; at once if the feed has ended
        """
        self._hooks.append(stop)
        if self._over:
            self._stop()

    def send(self, data: bytes, passing: bool = False) -> None:
        """
        Write data, or leave it out while the client does not read.

        :param passing: whether it is out of date soon anyway, and so not missed
        """
        if self._paused:
            self._missed = self._missed or not passing
        elif data and not self._over:
            self._request.pass_on(data)

    def end(self) -> None:
        """End the answer."""
        self._stop()
        if self._request.unanswered:
            self._request.unregisterProducer()
            self._request.finish()

    def _stop(self) -> None:
        self._over = True
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
    The open feeds.

    :param dispatcher: reports the states of the models, and has their logs
    :param clock: the reactor, or a Clock
    """

    def __init__(self, dispatcher: Dispatcher, clock: IReactorTime) -> None:
        self._dispatcher = dispatcher
        self._clock = clock
        self._open: set[Feed] = set()
        #: Those of `changes`, and the loop that tells them how far models are: it runs while there
        #: are any.
        self._watching: set[Feed] = set()
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = clock
        #: The models of which it was told in the last turn.
        self._told: set[str] = set()

    def changes(self, request: Request) -> None:
        """
        ``GET /models/sse``: an event for the state of every model, then one for each change.

        While models load or have requests in their queues: one for each of these every second.

        :raises ServerBusy: if `MOST_FOLLOWERS` feeds are open
        """
        dispatcher = self._dispatcher

        def snapshot() -> None:
            changes = [
                Change(
                    model=report.id,
                    status=report.status,
                    error=report.error,
                    exit_code=report.exit_code,
                    failed_at=report.failed_at,
                )
                for report in dispatcher.report()
            ]
            # In one write: if it were paused within a snapshot, it would start over each time.
            told = b"".join(_event(router_event(c, "model_status")) for c in changes)
            progress = dispatcher.progress()
            self._told |= progress.keys()
            feed.send(told + _progress(progress))

        def changed(change: Change | None) -> None:
            if change is None:
                feed.end()
            else:
                feed.send(_event(router_event(change)))

        feed = self.events(request, snapshot)
        self._watching.add(feed)
        if not self._ticking.running:
            self._ticking.start(PROGRESS_SEC, now=False)
        feed.until_end(lambda: self._watch_no_more(feed))
        snapshot()
        feed.until_end(dispatcher.watch(changed))

    def _watch_no_more(self, feed: Feed) -> None:
        self._watching.discard(feed)
        if not self._watching and self._ticking.running:
            self._ticking.stop()
            self._told.clear()

    def _tick(self) -> None:
        """Tell all who watch how far each model is that loads or is waited for, then once more."""
        progress = self._dispatcher.progress(self._told)
        self._told = {name for name, how in progress.items() if how.state in ("loading", "waiting")}
        if progress:
            data = _progress(progress)
            for feed in list(self._watching):
                feed.send(data, passing=True)

    def logs(self, request: Request, count: int) -> None:
        """
        ``GET /models/logs?all=true&follow=true``: as `log`, for all models in one stream.

        :param count: how many lines of each model to begin with (see `all_logs`)
        :raises ServerBusy: if `MOST_FOLLOWERS` feeds are open
        """
        dispatcher = self._dispatcher
        followed: set[str] = set()

        def left_out() -> None:
            feed.send(b"[lines were left out here: they were not read in time]\n")

        def follow(name: str) -> None:
            followed.add(name)
            log = dispatcher.log(name)
            feed.until_end(log.follow(lambda lines: feed.send(named(name, lines))))

        def changed(change: Change | None) -> None:
            if change is None:
                feed.end()
            elif change.model in dispatcher.catalogue and change.model not in followed:
                # It runs for the first time; what it printed in this turn is there already.
                follow(change.model)
                feed.send(named(change.model, dispatcher.log(change.model).lines))

        feed = self._begin(request, b"text/plain; charset=utf-8", left_out)
        feed.send(all_logs(dispatcher, count))
        for entry in dispatcher.catalogue:
            if entry.log.lines:
                follow(entry.model.name)
        feed.until_end(dispatcher.watch(changed))

    def log(self, request: Request, name: str, count: int) -> None:
        """
        ``GET /models/logs?follow=true``: the engine's last lines, then each new one.

        :param name: the model's name or alias
        :param count: how many lines to begin with; -1 for all that are kept
        :raises ModelNotFound: if no model has this name
        :raises ServerBusy: if `MOST_FOLLOWERS` feeds are open
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

    def events(self, request: Request, again: Callable[[], None]) -> Feed:
        """
        Begin a stream of events, with a comment now and then.

        :param again: called when the client reads again after data was left out
        :raises ServerBusy: if `MOST_FOLLOWERS` feeds are open
        """
        feed = self._begin(request, b"text/event-stream", again)
        ping = LoopingCall(feed.send, b": still here\n\n", passing=True)
        ping.clock = self._clock
        ping.start(PING_SEC, now=False)
        feed.until_end(ping.stop)
        return feed

    def _begin(self, request: Request, content_type: bytes, again: Callable[[], None]) -> Feed:
        if len(self._open) >= MOST_FOLLOWERS:
            raise ServerBusy(
                f"{MOST_FOLLOWERS} clients follow events or logs already, as many as may.",
                retry_after=5,
            )
        feed = Feed(request, content_type, again)
        self._open.add(feed)
        feed.until_end(lambda: self._open.discard(feed))
        return feed


def all_logs(dispatcher: Dispatcher, count: int) -> bytes:
    """
    The last lines of all models, model by model, those that run at the end.

    :param count: how many of each; -1 for all, as far as `MOST_LINES` allows
    """
    entries = [entry for entry in dispatcher.catalogue if entry.log.lines]
    entries.sort(key=lambda entry: any(instance.life for instance in entry.instances))
    share = max(1, MOST_LINES // max(1, len(entries)))
    count = share if count < 0 else min(count, share)
    return b"".join(named(entry.model.name, last(entry.log.lines, count)) for entry in entries)


def named(name: str, lines: Iterable[str]) -> bytes:
    """
    Lines of one model among those of others, as `as_text`.

    :param name: the model's; stands before each line, with a tab after it
    """
    name = harmless(name).replace("\t", " ")
    return as_text(f"{name}\t{line}" for line in lines)


def last(lines: Sequence[str], count: int) -> Sequence[str]:
    """
    The last lines.

    :param count: how many; -1 for all
    """
    return lines if count < 0 else [*lines][max(len(lines) - count, 0) :]


def as_text(lines: Iterable[str]) -> bytes:
    """Lines as the body of a text/plain answer."""
    return "".join(f"{line}\n" for line in lines).encode()


def _progress(of: Mapping[str, Progress]) -> bytes:
    """Events of how far models are, by name."""
    return b"".join(_event(progress_event(name, progress)) for name, progress in of.items())


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)
