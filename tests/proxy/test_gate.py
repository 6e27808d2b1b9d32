"""Promises of the proxy where keys are wanted: when a request is refused, and what is sent then.

What a key may do is that of tests/gate and tests/api/test_rights.py.
"""

from __future__ import annotations

import json
from typing import Any

from llamagw.dialects import ANTHROPIC, OPENAI
from llamagw.gate.attempts import FREE, LATEST
from llamagw.proxy.channel import LINGER_SEC
from tests.support.bench import Bench, BenchTestCase
from tests.support.keys import STRANGE, Secrets
from tests.support.messages import CHAT, Answer, answers, event, head_and_body, request, response
from tests.support.wire import Wire


def bearer(secret: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {secret}"


class GateTestCase(BenchTestCase):
    """A gateway with the models small and org/big, and two keys."""

    def setUp(self) -> None:
        super().setUp()
        self.made = Secrets()
        self.alice = self.made.make("alice")
        self.admin = self.made.make("admin", "infer", "observe", "manage")
        self.bench = Bench(gate=self.made.gate())

    def answers_to(self, data: bytes, *methods: str) -> list[Answer]:
        client = self.bench.client(data)
        self.bench.settle()
        return answers(bytes(client.heard), *methods)

    def answer_to(self, data: bytes, *methods: str) -> Answer:
        [answer] = self.answers_to(data, *methods)
        return answer

    def ask(self, *headers: tuple[str, str], **more: Any) -> Wire:
        """A chat with the model small."""
        return self.bench.client(request({"model": "small"}, headers=headers, **more))


class AtTheHeadTests(GateTestCase):
    def head(self, *headers: tuple[str, str], length: int = 1000) -> bytes:
        """The head of a chat whose body does not come yet."""
        return request(b"", headers=headers).replace(b"Length: 0", b"Length: %d" % length)

    def assert_refused(self, client: Wire, status: int = 401) -> Answer:
        """Refused, once, with nothing done; and closed."""
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assert_envelope(answer, status)
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertEqual((self.bench.asked, self.bench.connects), ([], 0))
        self.assertIn(client.ended, ("lose", "half"))
        self.assertEqual(self.bench.site.connections.bodies.held, 0)
        self.assertEqual(self.flushLoggedErrors(), [])
        return answer

    def test_without_a_key_it_is_refused_before_its_body(self) -> None:
        answer = self.assert_refused(self.bench.client(self.head()))
        self.assertEqual(answer.headers["WWW-Authenticate"], 'Bearer realm="llamagw"')
        self.assertEqual(answer.json()["error"]["code"], "invalid_api_key")
        self.assertIn("`Authorization: Bearer lgw_…`", answer.json()["error"]["message"])

    def test_with_a_wrong_one_too_and_it_says_so(self) -> None:
        answer = self.assert_refused(self.bench.client(self.head(bearer(STRANGE))))
        wanted = 'Bearer realm="llamagw", error="invalid_token"'
        self.assertEqual(answer.headers["WWW-Authenticate"], wanted)

    def test_with_one_that_lacks_the_scope_too(self) -> None:
        head = self.head(bearer(self.alice)).replace(CHAT.encode(), b"/models/load")
        client = self.bench.client(head)
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        error = self.assert_envelope(answer, 403, open_to_all=False)
        self.assertEqual((error["type"], error["code"]), ("permission_error", "not_permitted"))
        self.assertIn("`alice` lacks the scope `manage`", error["message"])
        self.assertIsNone(answer.headers["WWW-Authenticate"])
        self.assertEqual(self.bench.dispatcher.orders, [])

    def test_a_body_in_the_same_read_is_dropped(self) -> None:
        self.assert_refused(self.ask())
        chunks = (
            b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode()
        )
        self.assert_refused(self.bench.client(chunks + event(b'{"model": "small"}') + b"0\r\n\r\n"))

    def test_what_comes_after_it_is_dropped_and_is_no_request(self) -> None:
        client = self.bench.client(self.head())
        client.says(request({"model": "small"}, headers=[bearer(self.alice)]) * 10)
        self.assert_refused(client)
        self.bench.reactor.advance(LINGER_SEC)
        self.bench.settle()
        self.assertFalse(client.connected)

    def test_who_waits_for_a_go_ahead_is_refused_in_its_place(self) -> None:
        expects = ("Expect", "100-continue")
        client = self.bench.client(self.head(expects))
        self.assertNotIn(b" 100 ", client.heard)
        self.assert_refused(client)
        client = self.bench.client(self.head(expects, bearer(self.alice)))
        self.assertEqual(client.heard, b"HTTP/1.1 100 Continue\r\n\r\n")

    def test_a_key_is_asked_for_before_the_size_of_the_body(self) -> None:
        self.assert_refused(self.bench.client(self.head(length=2**40)))
        client = self.bench.client(self.head(bearer(self.alice), length=2**40))
        self.assert_refused(client, 413)

    def test_what_is_open_to_all_takes_no_body_of_strangers(self) -> None:
        for method, path in (("GET", "/health"), ("POST", "/"), ("OPTIONS", CHAT)):
            head = b"%b %b HTTP/1.1\r\nHost: x\r\n" % (method.encode(), path.encode())
            for framing in (b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
                self.assert_refused(self.bench.client(head + framing))

    def test_it_is_in_the_dialect_of_its_path(self) -> None:
        for path, dialect in ((CHAT, OPENAI), ("/v1/messages", ANTHROPIC), ("/nothing", OPENAI)):
            answer = self.answer_to(request({}, path))
            self.assert_envelope(answer, 401, dialect)
            self.assertEqual(answer.json()["error"]["type"], "authentication_error")
        answer = self.answer_to(
            request({}, "/upstream/small/v1/messages", headers=[bearer(self.alice)])
        )
        self.assert_envelope(answer, 403, ANTHROPIC, open_to_all=False)

    def test_head_is_answered_without_a_body(self) -> None:
        client = self.bench.client(request(path="/v1/models", method="HEAD"))
        self.bench.settle()
        head, _, body = bytes(client.heard).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 401 "))
        self.assertIn(b"\r\nContent-Length: ", head)
        self.assertEqual(body, b"")

    def test_the_status_and_the_reason_are_in_the_record_and_no_secret_is(self) -> None:
        records: list[Any] = []
        self.bench.records.add(records.append)
        self.assert_refused(self.bench.client(self.head(bearer(STRANGE))))
        [record] = records
        self.assertEqual((record.status, record.method, record.path), (401, b"POST", CHAT.encode()))
        self.assertEqual(record.client, "192.0.2.7")
        told = {name: getattr(record, name, None) for name in type(record).__slots__}
        self.assertNotIn(STRANGE[4:], str(told))


class OnOneConnectionTests(GateTestCase):
    def test_each_request_has_a_key_of_its_own(self) -> None:
        client = self.ask(bearer(self.alice))
        self.bench.backend().says(response(b"one"))
        client.says(request({"model": "small"}))
        self.bench.settle()
        first, second = answers(bytes(client.heard), "POST", "POST")
        self.assertEqual((first.status, second.status), (200, 401))

    def test_what_is_behind_a_request_waits_for_its_answer(self) -> None:
        good = request({"model": "small"}, headers=[bearer(self.alice)])
        client = self.bench.client(good + request({"model": "small"}) + good)
        self.bench.settle()
        self.assertEqual(client.heard, b"")
        self.bench.backend().says(response(b"one"))
        self.bench.settle()
        first, second = answers(bytes(client.heard), "POST", "POST")
        self.assertEqual((first.status, first.body, second.status), (200, b"one", 401))
        self.assertEqual(self.bench.leases, (1, 0))

    def test_a_gate_that_opens_or_closes_counts_from_the_next_request_on(self) -> None:
        connections = self.bench.site.connections
        gate, connections.gate = connections.gate, None
        client = self.ask()
        self.bench.backend().says(response(b"one"))
        connections.gate = gate
        client.says(request({"model": "small"}))
        self.bench.settle()
        self.assertEqual([a.status for a in answers(bytes(client.heard), "POST")], [200, 401])


class LateTests(GateTestCase):
    """Who sends wrong keys."""

    def setUp(self) -> None:
        super().setUp()
        gate = self.bench.site.connections.gate
        assert gate is not None, "the bench was given one"
        for _ in range(FREE + 100):
            gate.attempts.failed("192.0.2.7", self.bench.reactor.seconds())

    def guess(self) -> Wire:
        return self.ask(bearer(STRANGE))

    def test_is_answered_late(self) -> None:
        client = self.guess()
        self.bench.reactor.advance(LATEST - 0.1)
        self.assertEqual(client.heard, b"")
        self.bench.reactor.advance(0.2)
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual(answer.status, 401)
        self.assertIn(client.ended, ("half", "lose"))

    def test_holds_nothing_and_is_not_heard_meanwhile(self) -> None:
        client = self.guess()
        client.says(b"x" * 10_000)
        client.says(request({"model": "small"}, headers=[bearer(self.alice)]))
        self.assertEqual(self.bench.site.connections.bodies.held, 0)
        self.bench.reactor.advance(LATEST + 1)
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual((answer.status, self.bench.asked), (401, []))

    def test_may_leave_before(self) -> None:
        calls = len(self.bench.reactor.getDelayedCalls())
        self.guess().hangs_up(reset=True)
        self.bench.reactor.advance(LATEST + 1)
        self.bench.settle()
        self.assertLessEqual(len(self.bench.reactor.getDelayedCalls()), calls)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_is_not_kept_from_a_right_one_and_costs_nobody_else(self) -> None:
        client = self.ask(bearer(self.alice))
        self.bench.backend().says(response())
        self.assertEqual(answers(bytes(client.heard), "POST")[0].status, 200)
        # Without a key, nothing is guessed; and a lacking scope is no guess.
        self.assertEqual(self.answer_to(request({"model": "small"})).status, 401)
        load = request({"model": "small"}, "/models/load", headers=[bearer(self.alice)])
        self.assertEqual(self.answer_to(load).status, 403)

    def test_does_not_delay_the_end_of_the_gateway(self) -> None:
        client = self.guess()
        drained: list[object] = []
        self.bench.site.connections.drain().addCallback(drained.append)
        self.bench.reactor.pump([1.0] * (int(LATEST) + LINGER_SEC + 1))
        self.bench.settle()
        self.assertFalse(client.connected)
        self.assertEqual(len(drained), 1)


class PassedOnTests(GateTestCase):
    """What the engine gets."""

    SECRETS = (
        "authorization",
        "x-api-key",
        "api-key",
        "cookie",
    )

    def forwarded(self, *headers: tuple[str, str], **more: Any) -> dict[str, str]:
        """The headers that reach the engine."""
        self.ask(*headers, **more)
        return head_and_body(self.bench.backend().heard)[1]

    def test_no_header_with_a_key_is(self) -> None:
        for header in ("Authorization", "X-Api-Key", "Api-Key", "aPI-kEY", "AUTHORIZATION"):
            value = f"Bearer {self.alice}" if header.lower() == "authorization" else self.alice
            got = self.forwarded((header, value), ("X-Mine", "stays"))
            self.assertEqual(got["x-mine"], "stays")
            self.assertEqual([name for name in self.SECRETS if name in got], [], header)
            self.assertNotIn(self.alice, str(got))

    def test_neither_is_one_beside_it_nor_a_cookie(self) -> None:
        got = self.forwarded(
            ("X-Api-Key", self.alice),
            ("Authorization", "Basic YTpi"),
            ("Api-Key", self.alice),
            ("Cookie", "session=1"),
        )
        self.assertEqual([name for name in self.SECRETS if name in got], [])

    def test_the_caller_is_known_to_the_request(self) -> None:
        self.ask(bearer(self.alice))
        [under_way] = self.bench.site.under_way()
        self.assertEqual(under_way.caller.name, "alice")

    def test_a_refusal_says_nothing_of_the_engine(self) -> None:
        answer = self.answer_to(request(path="/v1/models"))
        self.assertNotIn("small", json.dumps(answer.json()))
