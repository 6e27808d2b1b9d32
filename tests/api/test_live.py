"""
Promises of the live table: who watches hears of each request that comes, moves on and ends; and of
a cancel, which ends one wherever it is.

The real Api in memory (support/bench.py), on the real fleet.
"""

from __future__ import annotations

import gc
import json
from itertools import pairwise
from typing import Any

from llamagw.api import live
from llamagw.api.feeds import MOST_FOLLOWERS
from llamagw.api.live import AGAIN_SEC, CANCELS_A_TURN, LOOK_SEC, MOST_SHORT
from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import CHAT, STREAM_HEAD, Answer, answers, event, request, response
from tests.support.wire import HIGH_WATER, Wire

UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def named(request_id: str) -> list[tuple[str, str]]:
    """The header that gives a request its id."""
    return [("X-Request-Id", request_id)]


class Watcher:
    """Somebody who follows GET /activity/sse."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.wire = bench.client(request(path="/activity/sse"))
        self._heard = 0

    def events(self) -> list[dict[str, Any]]:
        """What was told since this was asked last."""
        [answer] = answers(bytes(self.wire.heard))
        lines = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
        new, self._heard = lines[self._heard :], len(lines)
        return [json.loads(line) for line in new]

    def look(self, seconds: float = LOOK_SEC) -> list[dict[str, Any]]:
        """What was told in so many seconds."""
        self.bench.reactor.pump([LOOK_SEC] * round(seconds / LOOK_SEC))
        return self.events()

    def told(self, seconds: float = LOOK_SEC) -> list[tuple[str, str, str | None]]:
        """The same, in short: what happened to which request, and how it is now."""
        return [
            (told["event"], told["request"]["id"], told["request"].get("state"))
            for told in self.look(seconds)
        ]


class WatchTests(BenchTestCase):
    """GET /activity/sse."""

    def ask(self, request_id: str, model: str = "small", **more: object) -> Wire:
        return self.bench.client(request({"model": model, **more}, headers=named(request_id)))

    def test_first_comes_what_is_under_way_and_what_has_ended(self) -> None:
        self.ask("old")
        self.bench.backend().says(response(b"{}"))
        self.bench.settle()
        self.bench.reactor.advance(1)
        self.ask("new", stream=True)
        self.bench.reactor.advance(2)
        [snapshot] = Watcher(self.bench).events()
        self.assertEqual((snapshot["event"], snapshot["more"]), ("snapshot", 0))
        self.assertEqual([entry["id"] for entry in snapshot["last"]], ["old"])
        [now] = snapshot["now"]
        self.assertLess(abs(now.pop("time") - snapshot["last"][0]["time"] - 1), 0.1)
        self.assertEqual(
            now,
            {
                "id": "new",
                "client": "192.0.2.7",
                "key": None,
                "method": "POST",
                "path": CHAT,
                "asked": "small",
                "model": "small",
                "stream": True,
                "state": "processing",
                "position": None,
                "waiting_for": None,
                "waited_sec": 0,
                "usual_sec": None,
                "first_byte_sec": None,
                "bytes_out": 0,
                "elapsed_sec": 2,
            },
        )

    def test_a_request_is_told_when_it_begins_moves_on_and_ends(self) -> None:
        watcher = Watcher(self.bench)
        watcher.events()
        self.ask("a", stream=True)
        self.assertEqual(watcher.told(), [("begun", "a", "processing")])
        backend = self.bench.backend()
        backend.says(STREAM_HEAD)
        self.assertEqual(watcher.told(), [])
        backend.says(event(b"data: 1\n\n"))
        [moved] = watcher.look()
        self.assertEqual((moved["event"], moved["request"]["state"]), ("moved", "answering"))
        self.assertEqual(moved["request"]["first_byte_sec"], 1)
        backend.says(b"0\r\n\r\n")
        [ended] = watcher.look()
        self.assertEqual((ended["event"], ended["request"]["outcome"]), ("ended", "ok"))
        self.assertEqual(ended["request"]["bytes_out"], len(b"data: 1\n\n"))
        self.assertEqual(watcher.look(10 * AGAIN_SEC), [])

    def test_one_that_goes_on_is_told_once_a_second(self) -> None:
        watcher = Watcher(self.bench)
        self.bench.streaming()
        watcher.look()
        told = watcher.look(3 * AGAIN_SEC)
        self.assertEqual([one["event"] for one in told], ["moved"] * 3)
        elapsed = [one["request"]["elapsed_sec"] for one in told]
        self.assertEqual([round(b - a, 3) for a, b in pairwise(elapsed)], [1, 1])

    def test_who_waits_is_told_its_place_and_what_it_waits_for(self) -> None:
        self.bench = Bench(loaded=False)
        self.bench.hold_loads()
        watcher = Watcher(self.bench)
        watcher.events()
        first = self.ask("a")
        self.bench.reactor.advance(0.01)
        self.ask("b")
        begun = [told["request"] for told in watcher.look()]
        self.assertEqual(
            [(r["id"], r["state"], r["position"], r["waiting_for"], r["model"]) for r in begun],
            [("a", "loading", 1, "its load", "small"), ("b", "loading", 2, "its load", "small")],
        )
        first.hangs_up()
        ended, moved = watcher.look()
        self.assertEqual((ended["event"], ended["request"]["outcome"]), ("ended", "client_left"))
        self.assertEqual((moved["request"]["id"], moved["request"]["position"]), ("b", 1))
        self.bench.ready()
        [moved] = watcher.look()
        self.assertEqual(moved["request"]["state"], "processing")
        self.assertEqual((moved["request"]["position"], moved["request"]["waited_sec"]), (None, 1))

    def test_one_that_ends_between_two_looks_is_told_as_begun_and_as_ended(self) -> None:
        watcher = Watcher(self.bench)
        watcher.events()
        self.ask("a")
        self.bench.backend().says(response(b"{}"))
        self.bench.asks(request({"model": "nope"}, headers=named("b")))
        self.assertEqual(
            watcher.told(),
            [
                ("begun", "a", "answering"),
                ("ended", "a", None),
                ("begun", "b", "waiting"),
                ("ended", "b", None),
            ],
        )

    def test_of_thousands_of_those_the_last_are_told(self) -> None:
        watcher = Watcher(self.bench)
        watcher.events()
        says = [request({"model": "nope"}, headers=named(f"r{n}")) for n in range(MOST_SHORT + 5)]
        self.bench.asks(*says)
        told = watcher.told()
        self.assertEqual(len(told), 2 * MOST_SHORT)
        self.assertEqual((told[0][1], told[-1][1]), ("r5", f"r{MOST_SHORT + 4}"))

    def test_requests_of_one_id_are_two_lines(self) -> None:
        watcher = Watcher(self.bench)
        watcher.events()
        clients = [self.ask("same"), self.ask("same")]
        self.assertEqual(watcher.told(), [("begun", "same", "processing")] * 2)
        clients[0].hangs_up()
        self.assertEqual(watcher.told(), [("ended", "same", None)])

    def test_no_more_are_told_than_may_be_and_who_waits_comes_first(self) -> None:
        self.patch(live, "MOST_TOLD", 2)
        self.bench = Bench(loaded=False)
        self.bench.hold_loads()
        watcher = Watcher(self.bench)
        watcher.events()
        clients = {}
        for name in ("w1", "w2", "w3"):
            clients[name] = self.ask(name)
            self.bench.reactor.advance(0.01)
        told = watcher.look()
        self.assertEqual([one["request"]["id"] for one in told[:2]], ["w1", "w2"])
        self.assertEqual(told[2:], [{"event": "more", "more": 1}])
        self.bench.ready()
        self.ask("late")
        self.bench.hold_loads()
        self.ask("w4", model="org/big")
        watcher.look(2)
        # Its place goes to one that waits, though others came before.
        clients["w1"].hangs_up()
        told = [one["request"] for one in watcher.look() if one["event"] == "begun"]
        self.assertEqual([one["id"] for one in told], ["w4"])
        clients["w2"].hangs_up()
        told = [one["request"] for one in watcher.look() if one["event"] == "begun"]
        self.assertEqual([one["id"] for one in told], ["late"])
        [snapshot] = Watcher(self.bench).events()
        self.assertEqual((len(snapshot["now"]), snapshot["more"]), (2, 1))

    def test_who_does_not_read_gets_a_new_snapshot_when_it_reads_on(self) -> None:
        watcher = Watcher(self.bench)
        watcher.events()
        watcher.wire.stalls()
        self.bench.streaming()
        self.bench.reactor.pump([LOOK_SEC] * 1000)
        self.assertLess(len(watcher.wire.waiting), 2 * HIGH_WATER)
        watcher.wire.reads_on()
        told = watcher.look()
        self.assertEqual(told[-1]["event"], "snapshot")
        self.assertEqual([one["state"] for one in told[-1]["now"]], ["answering"])
        self.assertEqual([told["event"] for told in watcher.look(1)], ["moved"])

    def test_nothing_is_looked_at_unless_somebody_watches(self) -> None:
        looks = 0

        def standings() -> dict[object, object]:
            nonlocal looks
            looks += 1
            return {}

        self.patch(self.bench.dispatcher, "standings", standings)
        before = len(self.bench.reactor.getDelayedCalls()), repr(self.bench.records)
        watchers = [Watcher(self.bench) for _ in range(3)]
        client, _ = self.bench.streaming()
        looks = 0
        self.bench.reactor.advance(LOOK_SEC)
        self.assertEqual(looks, 1, "one look for all of them")
        for watcher in watchers:
            watcher.wire.hangs_up()
        self.bench.settle()
        self.bench.reactor.pump([LOOK_SEC] * 4)
        self.assertEqual(looks, 1)
        self.assertEqual(repr(self.bench.live), "<Live: 0 watch 0 requests>")
        client.hangs_up()
        self.bench.settle()
        after = len(self.bench.reactor.getDelayedCalls()), repr(self.bench.records)
        self.assertEqual(after, before)

    def test_who_watches_again_hears_of_none_of_the_old_ones(self) -> None:
        watcher = Watcher(self.bench)
        client = self.ask("a")
        watcher.look()
        watcher.wire.hangs_up()
        client.hangs_up()
        self.bench.settle()
        [snapshot] = Watcher(self.bench).events()
        self.assertEqual((snapshot["now"], len(snapshot["last"])), ([], 1))

    def test_no_more_watch_than_may(self) -> None:
        for _ in range(MOST_FOLLOWERS):
            Watcher(self.bench)
        [answer] = self.bench.asks(request(path="/activity/sse"))
        self.assert_envelope(answer, 503, open_to_all=False)

    def test_to_ask_for_its_head_begins_nothing(self) -> None:
        before = len(self.bench.reactor.getDelayedCalls())
        for path in ("/activity/sse", "/models/sse"):
            client = self.bench.client(request(path=path, method="HEAD"))
            self.bench.reactor.pump([LOOK_SEC] * 40)
            [answer] = answers(bytes(client.heard), "HEAD")
            self.assertEqual((answer.status, answer.body), (200, b""))
            client.hangs_up()
            self.bench.settle()
        self.assertEqual(len(self.bench.reactor.getDelayedCalls()), before)

    def test_it_ends_with_the_gateway(self) -> None:
        watcher = Watcher(self.bench)
        self.bench.dispatcher.drain()
        self.bench.settle()
        self.assertTrue(bytes(watcher.wire.heard).endswith(b"0\r\n\r\n"))
        self.assertEqual(len(self.bench.reactor.getDelayedCalls()), 1, "the idle connection's")

    def test_a_look_that_fails_is_not_the_last(self) -> None:
        watcher = Watcher(self.bench)
        watcher.events()
        standings = self.bench.dispatcher.standings
        self.patch(self.bench.dispatcher, "standings", lambda: 1 / 0)
        self.ask("a")
        self.assertEqual(watcher.look(), [])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.patch(self.bench.dispatcher, "standings", standings)
        [snapshot] = watcher.look()
        self.assertEqual([told["id"] for told in snapshot["now"]], ["a"])

    def test_a_head_leaves_nobody_who_looks_and_nothing_that_is_held(self) -> None:
        """Else the bodies of what was told would stay in memory until somebody watches again."""
        self.ask("a")
        self.bench.client(request(path="/activity/sse", method="HEAD"))
        self.assertEqual(repr(self.bench.live), "<Live: 0 watch 0 requests>")

    def test_a_request_that_has_ended_is_not_held_until_the_next_look(self) -> None:
        """Its body counts no longer among those that are held."""
        self.bench = Bench(loaded=False)
        self.bench.hold_loads()
        watcher = Watcher(self.bench)
        client = self.ask("a")
        watcher.look()
        [held] = self.bench.site.under_way()
        client.hangs_up()
        holders = {type(one).__name__ for one in gc.get_referrers(held)}
        self.assertNotIn(live._Line.__name__, holders)
        self.assertEqual(watcher.told(), [("ended", "a", None)])


class CancelTests(BenchTestCase):
    """POST /activity/{id}/cancel."""

    def ask(self, request_id: str = "a", path: str = CHAT, **more: object) -> Wire:
        body = {"model": "small", **more}
        return self.bench.client(request(body, path, headers=named(request_id)))

    def cancel(self, request_id: str = "a") -> Answer:
        [answer] = self.bench.asks(request(b"", path=f"/activity/{request_id}/cancel"))
        return answer

    def cancels(self, client: Wire, method: str = "POST") -> Answer:
        """What a client is answered whose request, `a`, is cancelled; nothing of it is left."""
        told: list[tuple[str, str]] = []
        self.bench.records.add(
            lambda r: told.append((r.outcome.value, r.error)) if r.asked else None
        )
        self.assertEqual(self.cancel().json(), {"success": True, "cancelled": 1})
        self.bench.settle()
        self.assertEqual(told, [("refused", "cancelled")])
        self.assertEqual((self.bench.in_flight, self.bench.waiting), (0, 0))
        self.assert_quiet()
        self.assert_envelope(self.cancel(), 404, open_to_all=False)
        [answer] = answers(bytes(client.heard), method)
        return answer

    def assert_cancelled(self, answer: Answer) -> None:
        error = self.assert_envelope(answer, 499)
        self.assertEqual((answer.reason, error["code"]), ("Cancelled", "cancelled"))
        self.assertEqual(answer.json()["request_id"], "a")

    def test_one_that_waits_in_the_queue(self) -> None:
        self.bench = Bench(loaded=False)
        self.bench.hold_loads()
        client = self.ask()
        self.assertEqual(self.bench.waiting, 1)
        self.assert_cancelled(self.cancels(client))
        # And the connection serves on.
        client.says(request(path="/health"))
        self.assertEqual(len(answers(bytes(client.heard), "POST")), 2)

    def test_of_many_with_one_id_some_are_cancelled_in_a_turn(self) -> None:
        """So that others are answered meanwhile."""
        self.bench = Bench(loaded=False)
        self.bench.hold_loads()
        many = 3 * CANCELS_A_TURN
        for _ in range(many):
            self.ask()
        self.assertEqual(self.bench.live.cancel("a", lambda _: True), many)
        self.assertEqual(self.bench.waiting, many - CANCELS_A_TURN)
        self.bench.reactor.advance(0)
        self.assertEqual(self.bench.waiting, 0)

    def test_one_that_waits_with_comments(self) -> None:
        self.bench = Bench(loaded=False, keepalive=1)
        self.bench.hold_loads()
        client = self.ask(stream=True)
        self.bench.reactor.advance(1)
        answer = self.cancels(client)
        self.assertEqual((answer.status, answer.whole), (200, True))
        self.assertIn(b'"code":"cancelled"', answer.body)
        self.assertNotIn(b"[DONE]", answer.body)

    def test_one_whose_backend_is_being_connected_to(self) -> None:
        client = self.ask()
        self.assertTrue(self.bench.wanted())
        self.assert_cancelled(self.cancels(client))
        self.assertFalse(self.bench.wanted())

    def test_one_that_was_sent(self) -> None:
        client = self.ask()
        backend = self.bench.backend()
        self.assert_cancelled(self.cancels(client))
        self.assert_over(backend)

    def test_a_stream_in_the_middle(self) -> None:
        client = self.ask(stream=True)
        backend = self.bench.backend()
        backend.says(STREAM_HEAD + event(b"data: 1\n\n"))
        answer = self.cancels(client)
        self.assertEqual((answer.status, answer.whole), (200, True))
        before, _, last = answer.body.rpartition(b"\n\ndata: ")
        self.assertEqual(before, b"data: 1\n\n")
        self.assertEqual(json.loads(last)["error"]["code"], "cancelled")
        self.assert_over(backend)

    def test_a_stream_of_anthropic_s(self) -> None:
        client = self.ask(path="/v1/messages", stream=True)
        self.bench.backend().says(STREAM_HEAD + event(b"data: 1\n\n"))
        answer = self.cancels(client)
        self.assertIn(b"\n\nevent: error\ndata: ", answer.body)

    def test_a_stream_that_its_client_does_not_read(self) -> None:
        client = self.ask(stream=True)
        backend = self.bench.backend()
        client.stalls()
        backend.says(STREAM_HEAD + event(b"data: %b\n\n" % (b"x" * 2 * HIGH_WATER)))
        self.assertTrue(backend.paused)
        self.cancel()
        self.assert_over(backend)
        client.reads_on()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertIn(b'"code":"cancelled"', answer.body)

    def test_an_answer_in_the_middle_that_is_no_stream(self) -> None:
        client = self.ask()
        backend = self.bench.backend()
        backend.says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of ")
        answer = self.cancels(client)
        self.assertEqual((answer.body, answer.whole), (b"half of ", False))
        self.assertFalse(client.connected)
        self.assert_over(backend)

    def test_one_that_was_cut_off_and_is_not_read_to_its_end_is_not_cancelled_again(self) -> None:
        client = self.ask()
        client.stalls()
        self.bench.backend().says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of ")
        self.assertEqual(self.cancel().status, 200)
        self.assertTrue(client.connected)
        self.assertEqual(self.cancel().status, 404)
        client.reads_on()
        self.bench.settle()
        self.assertFalse(client.connected)

    def test_a_tunnel(self) -> None:
        client = self.bench.client(
            request(path="/upstream/small/ws", headers=[*UPGRADE, *named("a")])
        )
        backend = self.bench.backend()
        backend.says(SWITCH + b"hello")
        self.cancel()
        self.bench.settle()
        self.assertTrue(bytes(client.heard).endswith(b"hello"))
        self.assertFalse(client.connected)
        self.assert_over(backend)

    def test_whoever_waits_behind_it_has_its_turn(self) -> None:
        self.bench = Bench(["small", "org/big"], max_loaded_models=1, loaded=False)
        self.bench.load("small")
        self.ask()
        self.bench.client(request({"model": "org/big"}))
        self.bench.settle()
        self.assertEqual(self.bench.waiting, 1)
        self.cancel()
        self.bench.settle()
        self.assertEqual(self.bench.waiting, 0)

    def test_all_of_one_id_and_no_others(self) -> None:
        clients = [self.ask(), self.ask(), self.ask("b")]
        self.assertEqual(self.cancel().json(), {"success": True, "cancelled": 2})
        self.bench.settle()
        self.assertEqual(self.bench.in_flight, 1)
        statuses = [answers(bytes(c.heard), "POST")[0].status for c in clients[:2]]
        self.assertEqual((statuses, bytes(clients[2].heard)), ([499, 499], b""))

    def test_any_id_that_a_client_may_give(self) -> None:
        for given, path in (
            ("a/b", "a/b"),
            ("a/b", "a%2Fb"),
            ("/a//", "/a//"),
            ("x/cancel", "x/cancel"),
            ("cancel", "cancel"),
            ("a+b=@~:._-", "a+b=@~:._-"),
            ("../a", "../a"),
            ("sse", "sse"),
            ("a" * 128, "a" * 128),
        ):
            client = self.ask(given)
            self.assertEqual(self.cancel(path).status, 200, given)
            [answer] = answers(bytes(client.heard), "POST")
            self.assertEqual(answer.json()["request_id"], given)

    def test_an_id_that_would_lead_elsewhere_is_none(self) -> None:
        for given in (".", "..", "//", "/../"):
            client = self.bench.client(request({"model": "nope"}, headers=named(given)))
            [answer] = answers(bytes(client.heard), "POST")
            self.assertNotEqual(answer.headers["X-Request-Id"], given)

    def test_an_unknown_id_is_told_as_such(self) -> None:
        for given in ("b", "%FF", "x" * 10_000, "%1B[2J", "a b", "/"):
            answer = self.cancel(given)
            self.assertIn(answer.status, (400, 404), given)
            error = answer.json()["error"]
            self.assertLess(len(error["message"]), 300)
            self.assertTrue(error["message"].isprintable())
        self.assertEqual(self.cancel("b").json()["error"]["code"], "not_found")
        [answer] = self.bench.asks(request(b"", path="/activity/" + "x" * 2**20 + "/cancel"))
        self.assertEqual(answer.status, 400)

    def test_pages_of_other_origins_may_neither_cancel_nor_look(self) -> None:
        self.ask()
        page = [("Origin", "https://evil.example"), ("Host", "localhost")]
        for says in (
            request(b"", path="/activity/a/cancel", headers=page[:1]),
            request(path="/activity/a", headers=page[:1]),
            request(path="/activity/sse", headers=page[:1]),
        ):
            [answer] = self.bench.asks(says)
            self.assert_envelope(answer, 403, open_to_all=False)
        self.assertEqual(self.bench.in_flight, 1)

    def test_it_takes_a_post(self) -> None:
        [answer] = self.bench.asks(request(b"", path="/activity/a"))
        self.assert_envelope(answer, 405)
        [answer] = self.bench.asks(request(path="/activity/a/cancel"))
        self.assert_envelope(answer, 404, open_to_all=False)
