"""
Promises of `GET /activity`: the last requests for models, and nothing of what was in them.

The real Api in memory (support/bench.py), on the real fleet.
"""

from __future__ import annotations

import time
from typing import Any

from llamagw.observe import Activity, Capture, Record
from llamagw.observe.activity import PATH, REASON
from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import CHAT, request, response


class ActivityTests(BenchTestCase):
    def told(self, query: str = "") -> list[dict[str, Any]]:
        [answer] = self.bench.asks(request(path=f"/activity{query}"))
        self.assertEqual(answer.status, 200)
        entries: list[dict[str, Any]] = answer.json()["data"]
        return entries

    def ask(self, model: str, body: bytes = b"{}") -> None:
        client = self.bench.client(request({"model": model, "prompt": "a secret"}))
        self.bench.backend().says(response(body))
        self.bench.settle()
        client.hangs_up()

    def test_a_request_is_told_with_its_times_and_tokens_and_not_what_it_asked(self) -> None:
        self.ask("small", b'{"text":"a secret","usage":{"prompt_tokens":3,"completion_tokens":4}}')
        [answer] = self.bench.asks(request(path="/activity"))
        self.assertNotIn(b"secret", answer.body)
        [entry] = answer.json()["data"]
        self.assertLess(abs(entry["time"] - time.time()), 60)
        self.assertEqual(entry["tokens"], {"prompt": 3, "cached": None, "completion": 4})
        wanted = {
            "path": CHAT,
            "asked": "small",
            "model": "small",
            "status": 200,
            "outcome": "ok",
            "error": None,
            "tries": 1,
            "client": "192.0.2.7",
        }
        self.assertEqual({key: entry[key] for key in wanted}, wanted)

    def test_the_newest_comes_first_and_the_query_chooses(self) -> None:
        self.ask("small")
        self.ask("org/big")
        self.bench.asks(request({"model": "nope"}))
        self.assertEqual([e["asked"] for e in self.told()], ["nope", "org/big", "small"])
        self.assertEqual([e["asked"] for e in self.told("?limit=1")], ["nope"])
        self.assertEqual([e["asked"] for e in self.told("?model=org/big")], ["org/big"])
        [refused] = self.told("?status=404")
        self.assertEqual(refused["outcome"], "refused")
        self.assertIn("nope", refused["reason"])
        self.assertEqual([e["asked"] for e in self.told("?outcome=refused")], ["nope"])
        self.assertEqual(len(self.told("?outcome=ok&limit=5")), 2)
        self.assertEqual(self.told(f"?since={time.time() + 60}"), [])

    def test_one_is_found_by_its_id_and_of_several_the_newest(self) -> None:
        for model in ("a", "b"):
            self.bench.asks(request({"model": model}, headers=[("X-Request-Id", "x/1")]))
        [answer] = self.bench.asks(request(path="/activity/x/1"))
        told = answer.json()
        self.assertEqual((told["asked"], told["captured"]), ("b", False))
        self.assertEqual(told["id"], self.told("?limit=1")[0]["id"])
        self.bench.client(request({"model": "small"}, headers=[("X-Request-Id", "x/1")]))
        [answer] = self.bench.asks(request(path="/activity/x/1"))
        self.assertEqual(answer.json()["state"], "processing")
        [answer] = self.bench.asks(request(path="/activity/y"))
        error = self.assert_envelope(answer, 404, open_to_all=False)
        self.assertEqual(error["code"], "not_found")

    def test_who_only_looks_at_the_gateway_is_not_in_it(self) -> None:
        for path in ("/health", "/metrics", "/v1/models", "/nothing"):
            self.bench.asks(request(path=path))
        self.assertEqual(self.told(), [])

    def test_as_many_are_kept_as_the_configuration_says(self) -> None:
        self.bench = Bench(activity_size=2)
        for name in ("a", "b", "c"):
            self.bench.asks(request({"model": name}))
        self.assertEqual([e["asked"] for e in self.told()], ["c", "b"])
        self.bench.activity.resize(1)
        self.assertEqual([e["asked"] for e in self.told()], ["c"])

    def test_a_query_that_is_none_is_refused(self) -> None:
        for query in (
            "status=x",
            "since=nan",
            "since=-1",
            "limit=1e3",
            "limit=-1",
            "limit=",
            "outcome=cancelled",
            "outcome=",
        ):
            [answer] = self.bench.asks(request(path=f"/activity?{query}"))
            error = self.assert_envelope(answer, 400, open_to_all=False)
            self.assertIn(f"?{query.partition('=')[0]}=", error["message"])

    def test_what_a_client_or_an_engine_says_is_short_and_harmless(self) -> None:
        activity = Activity(1, Capture())
        record = Record(id="x", arrived=0.0, asked="m\x1b[2J", path=b"/" * 9999)
        record.reason = "\r\n" * 9999
        activity.add(record)
        [entry] = activity.entries(0.0, since=-1.0, count=1)
        self.assertTrue(entry["asked"].isprintable() and entry["reason"].isprintable())
        self.assertLess(len(entry["path"]) + len(entry["reason"]), 2 * (PATH + REASON))
