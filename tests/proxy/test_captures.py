"""
Promises of captured requests: what a client asked and what it was answered, for those models only,
whichever way the answer goes.

The real Api in memory (support/bench.py); what is kept of a body is observe/test_capture.py's.
"""

from __future__ import annotations

from typing import Any

from llamagw.config import CaptureEntry
from llamagw.proxy import exchange
from llamagw.proxy.exchange import Exchange
from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import CHAT, STREAM_HEAD, Answer, event, request, response

ID = [("X-Request-Id", "a")]
ALL = CaptureEntry(models=["*"], requests=3, max_kb=1)


class CaptureTests(BenchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.capture(ALL)

    def capture(self, entry: CaptureEntry, **more: Any) -> None:
        self.bench = Bench(capture=entry, **more)
        self.bench.relay.apply(self.bench.config)

    def ask(self, model: str = "small") -> None:
        """A request that is answered."""
        client = self.bench.client(request({"model": model}, headers=ID))
        backend = self.bench.backend()
        backend.says(response(b"{}"))
        for wire in (client, backend):
            wire.hangs_up()
        self.bench.settle()

    def look(self) -> Answer:
        [answer] = self.bench.asks(request(path="/activity/a"))
        return answer

    def told(self) -> Any:
        answer = self.look()
        self.assertEqual((answer.status, answer.headers["Cache-Control"]), (200, "no-store"))
        return answer.json()

    def test_an_answer_in_one_read(self) -> None:
        says = request({"model": "small", "n": 1}, headers=[*ID, ("Authorization", "Bearer x")])
        self.bench.client(says)
        self.bench.backend().says(response(b'{"text":"hi"}'))
        told = self.told()
        self.assertEqual((told["captured"], told["outcome"]), (True, "ok"))
        self.assertEqual(told["request"]["body"], '{"model": "small", "n": 1}')
        self.assertEqual(told["request"]["target"], CHAT)
        self.assertEqual(told["request"]["headers"]["authorization"], "***")
        self.assertEqual(told["response"], {"body": '{"text":"hi"}', "truncated": False})
        [answer] = self.bench.asks(request(path="/activity"))
        self.assertTrue(answer.json()["data"][0]["captured"])
        self.assertNotIn(b"hi", answer.body)

    def test_a_stream_as_far_as_it_has_come(self) -> None:
        self.bench.client(request({"model": "small", "stream": True}, headers=ID))
        backend = self.bench.backend()
        backend.says(STREAM_HEAD + event(b"data: 1\n\n"))
        backend.says(event(b"data: 2\n\n"))
        told = self.told()
        self.assertEqual((told["state"], told["captured"]), ("answering", True))
        self.assertEqual(told["response"]["body"], "data: 1\n\ndata: 2\n\n")
        backend.says(event(b"data: %b\n\n" % (b"x" * 2000)))
        backend.says(b"0\r\n\r\n")
        told = self.told()
        self.assertEqual(
            (len(told["response"]["body"]), told["response"]["truncated"]), (1024, True)
        )

    def test_a_stream_that_began_with_comments(self) -> None:
        self.capture(ALL, loaded=False, stream_keepalive_sec=1)
        self.bench.hold_loads()
        self.bench.client(request({"model": "small", "stream": True}, headers=ID))
        self.bench.reactor.advance(1)
        self.bench.ready()
        self.bench.backend().says(STREAM_HEAD + event(b"data: 1\n\n") + b"0\r\n\r\n")
        self.assertEqual(self.told()["response"]["body"], "data: 1\n\n")

    def test_a_tunnel_s_answer(self) -> None:
        upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket"), *ID]
        self.bench.client(request(path="/upstream/small/ws", headers=upgrade))
        self.bench.backend().says(
            b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello"
        )
        self.assertEqual(self.told()["response"]["body"], "hello")

    def test_one_that_got_no_answer(self) -> None:
        client = self.bench.client(request({"model": "small"}, headers=ID))
        client.hangs_up()
        self.bench.settle()
        told = self.told()
        self.assertEqual((told["outcome"], told["captured"]), ("client_left", True))
        self.assertEqual(told["response"]["body"], "")

    def test_nothing_of_other_models_and_of_unknown_ones(self) -> None:
        self.capture(CaptureEntry(models=["org/*"], requests=3))
        self.ask()
        told = self.told()
        self.assertEqual((told["asked"], told["captured"]), ("small", False))
        self.assertNotIn("request", told)
        self.bench.asks(request({"model": "nope"}, headers=ID))
        told = self.told()
        self.assertEqual((told["asked"], told["captured"]), ("nope", False))

    def test_no_more_than_the_last_ones(self) -> None:
        for _ in range(4):
            self.ask()
        [answer] = self.bench.asks(request(path="/activity"))
        kept = [entry["captured"] for entry in answer.json()["data"]]
        self.assertEqual(kept, [True, True, True, False])

    def test_a_reload_that_wants_none_drops_all_and_one_that_wants_some_begins(self) -> None:
        for entry, is_kept in ((CaptureEntry(), False), (ALL, True)):
            self.bench.client(request({"model": "small"}, headers=ID))
            backend = self.bench.backend()
            self.bench.keys = {"capture": entry}
            self.bench.reload("small", "org/big")
            self.bench.relay.apply(self.bench.config)
            backend.says(response(b"{}"))
            self.assertFalse(self.told()["captured"], "it was there before")
            backend.hangs_up()
            self.ask()
            self.assertEqual(self.told()["captured"], is_kept)

    def test_others_pay_nothing_for_it(self) -> None:
        kinds: list[type] = []

        class Counted(exchange.CapturingExchange):
            def __init__(self, *args: Any) -> None:
                kinds.append(type(self))
                super().__init__(*args)

        self.patch(exchange, "CapturingExchange", Counted)
        self.capture(CaptureEntry(models=["org/big"], requests=3))
        self.ask("small")
        self.ask("org/big")
        self.assertEqual(kinds, [Counted])
        self.assertTrue(issubclass(Counted, Exchange))
