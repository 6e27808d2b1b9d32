"""
Promises of `GET /config`, `POST /config/check` and `POST /config/reload` as a client sees them.

The real Api in memory (support/bench.py); a fake in the place of the service, which reads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from llamagw.api.config import MOST_RELOADS, MOST_TEXT, MOST_WAITING
from llamagw.config import ConfigError, Fault
from llamagw.errors import ShuttingDown
from llamagw.launch import Note
from tests.support.bench import BenchTestCase
from tests.support.messages import Answer, answers, request

NOTES = [Note("warning", "a", "models[0].context_size", "is too much")]


class FakeReading(NamedTuple):
    changes: str
    notes: list[Note]


class FakeGateway:
    """Is asked, and answers when the test says what."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.waiting: list[Deferred[Any]] = []

    def _ask(self, *about: Any) -> Deferred[Any]:
        self.asked.append(about)
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def described(self, only: str | None) -> Deferred[bytes]:
        return self._ask("described", only)

    def check(self, text: bytes) -> Deferred[FakeReading]:
        return self._ask("check", text)

    def reloaded(self) -> Deferred[FakeReading]:
        return self._ask("reloaded")


class ConfigTests(BenchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.gateway = self.bench.gateway = FakeGateway()

    def ask(self, method: str, path: str, body: bytes = b"") -> Any:
        return self.bench.client(request(body, method=method, path=path))

    def answer(self, client: Any) -> Answer:
        self.bench.settle()
        [found] = answers(bytes(client.heard))
        return found

    def assert_refused(self, answer: Answer, status: int, code: str) -> None:
        self.assertEqual(self.assert_envelope(answer, status, open_to_all=False)["code"], code)

    def test_what_is_in_force_is_told_as_the_service_tells_it(self) -> None:
        client = self.ask("GET", "/config?model=small")
        self.assertEqual(self.gateway.asked, [("described", "small")])
        self.gateway.waiting[0].callback(b'{"path": "x"}')
        answer = self.answer(client)
        self.assertEqual((answer.status, answer.json()), (200, {"path": "x"}))
        client = self.ask("GET", "/config")
        self.gateway.waiting[1].errback(ConfigError([Fault("/x", None, "", "broke down")]))
        told = self.answer(client).json()
        self.assertEqual(told["path"], "/x")
        self.assertEqual(told["faults"][0]["message"], "broke down")

    def test_a_text_is_checked_and_its_changes_or_faults_are_told(self) -> None:
        client = self.ask("POST", "/config/check", b"models: []")
        self.assertEqual(self.gateway.asked, [("check", b"models: []")])
        self.gateway.waiting[0].callback(FakeReading("new: a", NOTES))
        note = {"model": "a", "place": "models[0].context_size", "grade": "warning"}
        self.assertEqual(
            self.answer(client).json(),
            {"ok": True, "changes": "new: a", "notes": [{**note, "message": "is too much"}]},
        )
        client = self.ask("POST", "/config/check", b"x")
        self.gateway.waiting[1].errback(ConfigError([Fault("/x", 3, "max_queue", "is wrong")]))
        answer = self.answer(client)
        self.assertEqual(answer.status, 200)
        fault = {"place": "max_queue", "line": 3, "message": "is wrong"}
        self.assertEqual(answer.json(), {"ok": False, "faults": [fault]})

    def test_a_reload_is_waited_for(self) -> None:
        client = self.ask("POST", "/config/reload")
        self.bench.settle()
        self.assertEqual(bytes(client.heard), b"")
        self.gateway.waiting[0].callback(FakeReading("changed: a", []))
        told = {"ok": True, "changes": "changed: a", "notes": []}
        self.assertEqual(self.answer(client).json(), told)

    def test_no_more_than_some_wait_for_a_reload(self) -> None:
        clients = [self.ask("POST", "/config/reload") for _ in range(MOST_RELOADS + 1)]
        self.assert_refused(self.answer(clients.pop()), 503, "server_busy")
        clients.pop().hangs_up()
        self.bench.settle()
        clients.append(self.ask("POST", "/config/reload"))
        for waiting in self.gateway.waiting:
            waiting.callback(FakeReading("", []))
        self.assertEqual({self.answer(client).status for client in clients}, {200})

    def test_a_gateway_that_stops_says_so(self) -> None:
        for method, path in (
            ("GET", "/config"),
            ("POST", "/config/check"),
            ("POST", "/config/reload"),
        ):
            client = self.ask(method, path)
            self.gateway.waiting[-1].errback(ShuttingDown("It is being stopped.", retry_after=1))
            self.assert_refused(self.answer(client), 503, "shutting_down")

    def test_a_text_that_is_too_long_is_refused_unread(self) -> None:
        self.bench.site.connections.max_body = 2 * MOST_TEXT
        client = self.ask("POST", "/config/check", b"x" * (MOST_TEXT + 1))
        self.assert_refused(self.answer(client), 413, "body_too_large")
        self.assertEqual(self.gateway.asked, [])

    def test_one_is_answered_at_a_time_and_no_more_than_some_wait(self) -> None:
        clients = [self.ask("POST", "/config/check", b"x") for _ in range(MOST_WAITING + 2)]
        self.assert_refused(self.answer(clients.pop()), 503, "server_busy")
        for number, client in enumerate(clients):
            self.assertEqual(len(self.gateway.asked), number + 1)
            self.gateway.waiting[number].callback(FakeReading("", []))
            self.assertEqual(self.answer(client).status, 200)

    def test_a_client_that_leaves_does_not_have_the_next_one_begin_before_its_turn(self) -> None:
        """The process that was started for it still runs."""
        for path in ("/config", "/config/check"):
            self.gateway.asked.clear()
            method = "GET" if path == "/config" else "POST"
            gone, waits, next_one = (self.ask(method, path, b"x") for _ in range(3))
            gone.hangs_up()
            waits.hangs_up()
            self.bench.settle()
            self.assertEqual(len(self.gateway.asked), 1, path)
            self.gateway.waiting[-1].callback(b"{}")
            self.assertEqual(len(self.gateway.asked), 2, path)
            self.gateway.waiting[-1].errback(ConfigError([Fault("/x", None, "", "is wrong")]))
            self.assertEqual(self.answer(next_one).status, 200)

    def test_one_whose_answer_failed_does_not_keep_the_others_waiting(self) -> None:
        first, second = self.ask("GET", "/config"), self.ask("GET", "/config")
        self.gateway.waiting[0].errback(ConfigError([Fault("/x", None, "", "broke down")]))
        self.gateway.waiting[1].callback(b"{}")
        self.assertEqual(self.answer(first).status, 200)
        self.assertEqual(self.answer(second).json(), {})

    def test_pages_of_other_origins_learn_and_change_nothing(self) -> None:
        headers = [("Origin", "https://evil.example")]
        for method, path in (
            ("GET", "/config"),
            ("POST", "/config/check"),
            ("POST", "/config/reload"),
        ):
            [answer] = self.bench.asks(request(b"x", method=method, path=path, headers=headers))
            self.assertEqual(answer.status, 403)
        self.assertEqual(self.gateway.asked, [])
