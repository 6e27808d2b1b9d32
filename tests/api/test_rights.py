"""Promises of the gateway's own answers where keys are wanted: none tells of a hidden model.

The real Api in memory (support/bench.py), on the real fleet.
"""

from __future__ import annotations

import json
from typing import Any

from llamagw.config import CaptureEntry
from llamagw.dialects import OWN
from llamagw.observe import only
from tests.support.bench import Bench, BenchTestCase
from tests.support.configs import local_model
from tests.support.keys import Secrets
from tests.support.messages import Answer, answers, request, response
from tests.support.wire import Wire

HIDDEN = "veiled"


class RightsTestCase(BenchTestCase):
    """A gateway with a model for Alice, and one that is hidden from her; both have been used."""

    #: Answers of the engine, with a text that only its own clients have seen.
    SAID = b'{"choices": [], "usage": {"completion_tokens": 5, "prompt_tokens": 32}}'

    def setUp(self) -> None:
        super().setUp()
        made = Secrets()
        everything = ("infer", "observe", "manage")
        self.alice = made.make("alice", *everything, models=["mine"])
        self.guest = made.make("guest", models=["mine"])
        self.admin = made.make("admin", *everything)
        self.bench = Bench(
            [
                local_model("mine", aliases=["m1", "m-*"]),
                local_model(HIDDEN, aliases=[f"{HIDDEN}-alias", f"{HIDDEN}-*"]),
            ],
            gate=made.gate(),
            capture=CaptureEntry(models=["*"], requests=10),
        )
        self.bench.relay.apply(self.bench.config)
        for model in ("mine", HIDDEN):
            self.say(self.admin, {"model": model}, path="/v1/chat/completions", id=f"of-{model}")
            self.bench.backend().says(response(self.SAID))
            self.bench.settle()

    def say(
        self, secret: str, body: Any = None, path: str = "/", id: str = "", **more: Any
    ) -> Wire:
        headers = [("Authorization", f"Bearer {secret}"), *more.pop("headers", ())]
        headers += [("X-Request-Id", id)] if id else []
        return self.bench.client(request(body, path, headers=headers, **more))

    def ask(self, secret: str, path: str, body: Any = None, **more: Any) -> Answer:
        client = self.say(secret, body, path, **more)
        self.bench.settle()
        [answer] = answers(bytes(client.heard))
        return answer


class ListTests(RightsTestCase):
    #: Where models are told of: what the gateway answers itself, and with a body when that is read.
    LISTS = ("/v1/models", "/models", "/health", "/v1/health", "/metrics", "/activity")

    def test_each_list_has_all_for_who_may_use_all(self) -> None:
        for path in self.LISTS:
            text = self.ask(self.admin, path).body.decode()
            self.assertIn("mine", text, path)
            self.assertIn(HIDDEN, text, path)

    def test_no_list_has_what_the_key_may_not_use(self) -> None:
        for path in self.LISTS:
            answer = self.ask(self.alice, path)
            self.assertEqual(answer.status, 200)
            self.assertIn(b"mine", answer.body, path)
            self.assertNotIn(HIDDEN.encode(), answer.body, path)

    def test_every_path_of_the_gateway_s_own_is_free_of_it(self) -> None:
        """A new one that lists models, and forgets whose they are, is found here."""
        feeds = {"/activity/sse", "/models/sse"}
        for own in OWN:
            if own.path in feeds or own.method != "GET":
                continue
            path = own.path.replace("{id}", "x")
            answer = self.ask(self.alice, path)
            self.assertIn(answer.status, (200, 400, 403, 404), path)
            self.assertNotIn(HIDDEN.encode(), answer.body, path)

    def test_what_is_about_all_models_is_for_those_who_may_use_all(self) -> None:
        for method, path in (
            ("GET", "/activity/sse"),
            ("GET", "/models/sse"),
            ("GET", "/history"),
            ("GET", "/config"),
            ("POST", "/config/check"),
            ("POST", "/config/reload"),
            ("GET", "/models/logs?all=true"),
        ):
            answer = self.ask(self.alice, path, b"" if method == "POST" else None)
            error = self.assert_envelope(answer, 403, open_to_all=False)
            said = "The API key `alice` is for some models, and this is about all of them."
            self.assertEqual(error["message"], said, path)
            client = self.say(self.admin, b"" if method == "POST" else None, path)
            self.bench.settle()
            self.assertNotIn(b" 403 ", bytes(client.heard)[:20], path)

    def test_a_key_without_scopes_for_it_still_sees_its_own_models(self) -> None:
        for path in ("/v1/models", "/models", "/v1/models/mine", "/health"):
            answer = self.ask(self.guest, path)
            self.assertEqual(answer.status, 200, path)
            self.assertIn(b"mine", answer.body)
            self.assertNotIn(HIDDEN.encode(), answer.body)

    def test_strangers_are_told_that_the_gateway_is_up_and_no_more(self) -> None:
        for path in ("/health", "/v1/health", "/health/"):
            [answer] = self.bench.asks(request(path=path))
            self.assertEqual((answer.status, answer.json()), (200, {"status": "ok"}))

    def test_the_page_of_anthropic_s_clients_ends_with_what_they_may_use(self) -> None:
        page = self.ask(self.alice, "/v1/models").json()
        self.assertEqual((page["first_id"], page["last_id"]), ("mine", "m1"))


class OneModelTests(RightsTestCase):
    def test_a_hidden_one_is_refused_like_one_that_there_is_not(self) -> None:
        told = set()
        for name in (HIDDEN, f"{HIDDEN}-alias", f"{HIDDEN}-x", "nothing"):
            for path in ("/v1/models/{}", "/models/logs?model={}", "/props?model={}"):
                error = self.ask(self.alice, path.format(name)).json()["error"]
                told.add(json.dumps(error).replace(name, "…"))
        self.assertEqual(len(told), 1, told)
        self.assertIn("may not use a model called `…`", told.pop())

    def test_orders_for_it_are_too_and_are_not_carried_out(self) -> None:
        for path in ("/models/load", "/models/unload", "/models/pin"):
            for name in (HIDDEN, f"{HIDDEN}-alias", "nothing"):
                answer = self.ask(self.alice, path, {"model": name})
                self.assert_envelope(answer, 403, open_to_all=False)
            self.assertEqual(self.ask(self.alice, path, {"model": "m1"}).status, 200, path)
        self.assertEqual({order[1] for order in self.bench.dispatcher.orders}, {"mine", "m1"})

    def test_a_request_for_it_is_not_to_be_seen_nor_ended(self) -> None:
        self.assertEqual(self.ask(self.admin, f"/activity/of-{HIDDEN}").status, 200)
        hidden = self.ask(self.alice, f"/activity/of-{HIDDEN}").json()["error"]
        nothing = self.ask(self.alice, "/activity/of-nothing").json()["error"]
        self.assertEqual(hidden, json.loads(json.dumps(nothing).replace("nothing", HIDDEN)))
        client = self.say(self.admin, {"model": HIDDEN}, "/v1/chat/completions", id="now")
        answer = self.ask(self.alice, "/activity/now/cancel", b"")
        self.assert_envelope(answer, 404, open_to_all=False)
        self.assertEqual(client.heard, b"")
        self.assertEqual(self.ask(self.alice, "/activity/now").status, 404)
        self.assertEqual(self.ask(self.admin, "/activity/now/cancel", b"").status, 200)

    def test_of_two_with_one_id_the_hidden_one_is_left_out(self) -> None:
        self.say(self.admin, {"model": HIDDEN}, "/v1/chat/completions", id="twin")
        mine = self.say(self.admin, {"model": "mine"}, "/v1/chat/completions", id="twin")
        answer = self.ask(self.alice, "/activity/twin/cancel", b"")
        self.assertEqual(answer.json()["cancelled"], 1)
        self.assertIn(b" 499 ", mine.heard)
        self.assertEqual(self.bench.in_flight, 1)

    def test_what_was_refused_is_not_kept(self) -> None:
        self.ask(
            self.guest, "/v1/chat/completions", {"model": HIDDEN, "messages": ["spam"]}, id="s"
        )
        found = self.ask(self.admin, "/activity/s").json()
        self.assertEqual((found["status"], found["captured"]), (403, False))
        self.assertEqual(self.ask(self.alice, "/activity/s").status, 404)


class WaitingTests(RightsTestCase):
    """There is room for one model, and a hidden one has it."""

    def setUp(self) -> None:
        super().setUp()
        gate = self.bench.site.connections.gate
        self.bench = Bench(["mine", HIDDEN], gate=gate, loaded=False, max_loaded_models=1)
        self.bench.load(HIDDEN)
        self.say(self.admin, {"model": HIDDEN}, "/v1/chat/completions")
        self.say(self.guest, {"model": "mine"}, "/v1/chat/completions", id="waits")
        self.bench.settle()

    def test_who_waits_for_room_is_not_told_who_has_it(self) -> None:
        self.assertEqual((self.bench.in_flight, self.bench.waiting), (1, 1))
        for path in ("/models", "/health", "/activity/waits"):
            known = self.ask(self.admin, path).body.decode()
            self.assertIn(f"room: `{HIDDEN}` is busy", known, path)
            told = self.ask(self.alice, path).body.decode()
            self.assertIn('"waiting_for":"room"', told, path)
            self.assertNotIn(HIDDEN, told, path)


class ScrapeTests(BenchTestCase):
    def test_only_the_series_of_the_models_stay_and_those_of_none(self) -> None:
        text = (
            b'# HELP a model="b"\n'
            b'a{model="mine"} 1\n'
            b'a{model="veiled"} 1\n'
            b'a{route="/x",model="veiled"} 1\n'
            b'a{route="/x",model="mine",le="1"} 1\n'
            b'a{my_model="veiled"} 1\n'
            b'a{model="q\\"\\\\\\n"} 1\n'
            b'a{route="{model=\\"mine\\"",model="veiled"} 1\n'
            b"up 1\n"
        )
        seen: list[str] = []

        def sees(name: str) -> bool:
            seen.append(name)
            return name == "mine"

        self.assertEqual(
            only(text, sees),
            b'# HELP a model="b"\n'
            b'a{model="mine"} 1\n'
            b'a{route="/x",model="mine",le="1"} 1\n'
            b'a{my_model="veiled"} 1\n'
            b"up 1\n",
        )
        self.assertEqual(seen, ["mine", "veiled", 'q"\\\n'])
