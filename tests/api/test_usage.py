"""Promises of `GET /usage` and of the metrics of keys: who is told of whose usage."""

from __future__ import annotations

from typing import Any

from llamagw.config import LimitsEntry
from llamagw.observe.counts import MOST_KEYS, OTHER
from tests.support.bench import Bench, BenchTestCase
from tests.support.keys import Secrets
from tests.support.messages import STREAM_HEAD, Answer, answers, event, request, response
from tests.support.wire import Wire

USED = b'{"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 20}}'


class UsageTests(BenchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.made = Secrets()
        self.alice = self.made.make("alice")
        self.bob = self.made.make("bob", limits=LimitsEntry(tokens_per_day=100, parallel=2))
        self.watcher = self.made.make("watcher", "observe")
        self.partly = self.made.make("partly", "observe", "infer", models=["small"])
        self.backends: dict[str, Wire] = {}
        self.bench = Bench(gate=self.made.gate(), folder=self.mktemp())

    def use(self, secret: str, model: str = "small") -> None:
        headers = [("Authorization", f"Bearer {secret}")]
        client = self.bench.client(request({"model": model}, headers=headers))
        self.bench.settle()
        if model not in self.backends or not self.backends[model].connected:
            self.backends[model] = self.bench.backend()
        self.backends[model].says(response(USED))
        self.bench.settle()
        self.assertIn(b" 200 ", client.heard)
        client.hangs_up()

    def ask(self, secret: str, path: str = "/usage") -> Answer:
        headers = [("Authorization", f"Bearer {secret}")]
        client = self.bench.client(request(path=path, headers=headers))
        self.bench.settle()
        [answer] = answers(bytes(client.heard))
        return answer

    def told(self, secret: str, path: str = "/usage") -> list[tuple[Any, ...]]:
        answer = self.ask(secret, path)
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.json()["more"], False)
        return [tuple(row.values()) for row in answer.json()["data"]]

    def test_who_may_observe_sees_all(self) -> None:
        for secret in (self.alice, self.alice, self.bob):
            self.use(secret)
        self.use(self.bob, "org/big")
        day = "2027-01-15"
        rows = [
            (day, "alice", "small", 2, 20, 40),
            (day, "bob", "org/big", 1, 10, 20),
            (day, "bob", "small", 1, 10, 20),
        ]
        self.assertEqual(self.told(self.watcher), rows)
        self.assertEqual(self.told(self.watcher, "/usage?key=bob&days=1"), rows[1:])
        self.assertEqual(self.told(self.watcher, "/usage?key=nobody"), [])

    def test_others_see_their_own_and_only_that(self) -> None:
        self.use(self.alice)
        self.use(self.bob)
        self.assertEqual([row[1] for row in self.told(self.alice)], ["alice"])
        self.assertEqual([row[1] for row in self.told(self.alice, "/usage?key=alice")], ["alice"])
        # One that may use some models only could learn the names of the others.
        self.assertEqual(self.told(self.partly), [])
        for secret in (self.alice, self.partly):
            answer = self.ask(secret, "/usage?key=bob")
            error = self.assert_envelope(answer, 403, open_to_all=False)
            self.assertIn("may see its own usage only", error["message"])

    def test_a_key_is_told_its_own_limits(self) -> None:
        for secret, limits in (
            (self.bob, {"tokens_per_day": 100, "parallel": 2}),
            (self.alice, None),
            (self.watcher, None),
        ):
            self.assertEqual(self.ask(secret).json()["limits"], limits)

    def test_a_stream_counts_once(self) -> None:
        headers = [("Authorization", f"Bearer {self.alice}")]
        client = self.bench.client(request({"model": "small", "stream": True}, headers=headers))
        self.bench.settle()
        backend = self.bench.backend()
        backend.says(STREAM_HEAD + event(b"data: %b\n\ndata: [DONE]\n\n" % USED) + b"0\r\n\r\n")
        self.bench.settle()
        client.hangs_up()
        self.assertEqual([row[3:] for row in self.told(self.alice)], [(1, 10, 20)])

    def test_days_that_are_none_are_refused(self) -> None:
        for days in ("0", "401", "x", "-1", "1e9", "%C2%B2", "9" * 5000):
            answer = self.ask(self.watcher, f"/usage?days={days}")
            error = self.assert_envelope(answer, 400, open_to_all=False)
            self.assertEqual(error["param"], "days")

    def test_a_web_page_of_another_origin_may_not_ask(self) -> None:
        headers = [("Authorization", f"Bearer {self.watcher}"), ("Origin", "https://evil.example")]
        [answer] = self.bench.asks(request(path="/usage", headers=headers))
        self.assertEqual(answer.status, 403)

    def test_the_metrics_of_keys(self) -> None:
        self.use(self.alice)
        text = self.ask(self.watcher, "/metrics").body.decode()
        self.assertIn('llamagw_key_requests_total{key="alice"} 1', text)
        self.assertIn('llamagw_key_tokens_total{key="alice",kind="prompt"} 10', text)
        self.assertIn('llamagw_key_tokens_total{key="alice",kind="completion"} 20', text)
        lines = self.ask(self.partly, "/metrics").body.decode().splitlines()
        self.assertEqual([line for line in lines if line.startswith("llamagw_key_")], [])

    def test_so_many_keys_are_told_apart_and_no_more(self) -> None:
        counts = self.bench.metrics.counts
        for number in range(MOST_KEYS + 50):
            counts.count_key(f"key{number}", 1, 2)
        self.assertEqual(len(counts.keys), MOST_KEYS + 1)
        self.assertEqual(counts.keys[OTHER], [50, 50, 100])
