"""Promises of requests within the limits of their key: when one is refused, what it waits for, and
what its answer tells.

How much may be used is that of tests/gate/test_limits.py.
"""

from __future__ import annotations

import json
from typing import Any

from llamagw.config import LimitsEntry
from llamagw.dialects import ANTHROPIC
from tests.support.bench import Bench, BenchTestCase
from tests.support.keys import Secrets
from tests.support.messages import (
    STREAM_HEAD,
    Answer,
    answers,
    event,
    head_and_body,
    request,
    response,
)
from tests.support.wire import Wire

USED = b'{"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 20}}'


class LimitsTestCase(BenchTestCase):
    backend: Wire

    def limit(self, names: Any = ("small",), **limits: Any) -> None:
        """A gateway whose one key has these limits."""
        self.made = Secrets()
        self.secret = self.made.make("alice", limits=LimitsEntry(**limits))
        self.gate = self.made.gate()
        self.bench = Bench(names=names, gate=self.gate)
        self.headers = [("Authorization", f"Bearer {self.secret}")]

    def ask(self, path: str = "/v1/chat/completions", **more: Any) -> Wire:
        client = self.bench.client(
            request({"model": "small", **more}, path=path, headers=self.headers)
        )
        self.bench.settle()
        return client

    def heard(self, client: Wire) -> Answer:
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        return answer

    def answered(self, client: Wire, body: bytes = USED) -> Answer:
        self.bench.backend().says(response(body))
        return self.heard(client)

    def finish(self, body: bytes = USED) -> Answer:
        """A request, and its answer."""
        client = self.ask()
        backend = self.backend = self.bench.backend() if self.bench.wanted() else self.backend
        backend.says(response(body))
        return self.heard(client)


class HeadTests(LimitsTestCase):
    def test_one_too_many_is_refused_before_its_body(self) -> None:
        self.limit(requests_per_min=2)
        for _ in range(2):
            self.assertEqual(self.finish().status, 200)
        self.gate.meters.patience = 0
        head = request(b"", headers=self.headers).replace(b"Length: 0", b"Length: 1000")
        answer = self.heard(self.bench.client(head))
        error = self.assert_envelope(answer, 429)
        self.assertEqual(answer.reason, "Too Many Requests")
        self.assertEqual(
            (error["type"], error["code"]), ("rate_limit_error", "rate_limit_exceeded")
        )
        self.assertIn("`alice` sends over 2 requests a minute", error["message"])
        self.assertEqual(answer.headers["Retry-After"], "31")
        self.assertEqual(answer.headers["x-ratelimit-remaining-requests"], "0")
        # After that time it is let in.
        self.bench.reactor.advance(31)
        self.assertEqual(self.finish().status, 200)

    def test_anthropics_answers_are_in_their_own_form(self) -> None:
        self.limit(requests_per_min=1)
        answer = self.answered(self.ask("/v1/messages"))
        self.assertEqual(answer.headers["anthropic-ratelimit-requests-remaining"], "0")
        answer = self.heard(self.ask("/v1/messages"))
        self.assertEqual(self.assert_envelope(answer, 429, ANTHROPIC)["type"], "rate_limit_error")
        self.assertEqual(answer.headers["anthropic-ratelimit-requests-limit"], "1")
        self.assertIsNone(answer.headers["x-ratelimit-limit-requests"])

    def test_a_short_wait_is_waited_for(self) -> None:
        self.limit(requests_per_min=60)
        for _ in range(60):
            self.finish()
        client = self.ask()
        self.assertEqual(self.bench.leases, (60, 0))
        self.bench.reactor.advance(0.9)
        self.assertEqual(self.bench.leases, (60, 0))
        self.bench.reactor.advance(0.2)
        self.bench.settle()
        self.assertEqual(self.bench.leases, (61, 1))
        self.backend.says(response(USED))
        self.assertEqual(self.heard(client).status, 200)

    def test_who_leaves_while_it_waits_is_sent_to_nobody(self) -> None:
        self.limit(requests_per_min=60)
        for _ in range(60):
            self.finish()
        self.ask().hangs_up()
        self.bench.reactor.advance(10)
        self.bench.settle()
        self.assertEqual(self.bench.leases, (60, 0))

    def test_a_path_that_is_written_in_another_way_counts_too(self) -> None:
        self.limit(requests_per_min=1)
        self.finish()
        for path in ("/v1/chat%2Fcompletions", "/v1/%63hat/completions", "/v1/completions?x"):
            self.assertEqual(self.heard(self.ask(path)).status, 429, path)

    def test_what_is_no_request_for_a_model_does_not_count(self) -> None:
        self.limit(requests_per_min=1)
        for path in ("/v1/models", "/health", "/v1/models/small"):
            [answer] = self.bench.asks(request(path=path, headers=self.headers))
            self.assertEqual(answer.status, 200)
            self.assertEqual(answer.headers["x-ratelimit-remaining-requests"], "1")
        self.assertEqual(self.finish().status, 200)

    def test_a_retry_that_is_hours_away_is_not_waited_for(self) -> None:
        self.limit(tokens_per_day=20)
        self.assertEqual(self.finish().status, 200)
        answer = self.heard(self.ask())
        self.assertEqual((answer.status, answer.headers["X-Should-Retry"]), (429, "false"))
        self.assertEqual(answer.headers["Retry-After"], "57601")
        self.assertEqual(answer.headers["x-ratelimit-reset-tokens"], "16h0m0s")
        self.limit(requests_per_min=1)
        self.finish()
        answer = self.heard(self.ask())
        self.assertEqual((answer.status, answer.headers["X-Should-Retry"]), (429, None))

    def test_other_keys_are_not_touched(self) -> None:
        self.limit(requests_per_min=1)
        other = self.made.make("bob")
        self.gate.keyring = self.made.keyring()
        self.finish()
        self.headers = [("Authorization", f"Bearer {other}")]
        answer = self.finish()
        self.assertEqual(answer.status, 200)
        self.assertEqual([name for name in answer.headers if "ratelimit" in name], [])


class PlaceTests(LimitsTestCase):
    """Requests at once: each gives its place back once, whatever way it ends."""

    def setUp(self) -> None:
        super().setUp()
        self.limit(parallel=1)

    def assert_free(self) -> None:
        self.bench.settle()
        meter = self.gate.meters._known["alice"]
        self.assertEqual((meter._running, list(meter._queue), meter._reserved), (0, [], 0))

    def test_the_next_goes_on_when_one_has_ended(self) -> None:
        first = self.ask()
        second = self.ask()
        self.assertEqual(self.bench.leases, (1, 1))
        backend = self.bench.backend()
        backend.says(response(USED))
        self.assertEqual(self.heard(first).status, 200)
        self.assertEqual(self.bench.leases, (2, 1))
        backend.says(response(USED))
        self.assertEqual(self.heard(second).status, 200)
        self.assert_free()

    def test_a_third_is_refused_at_once_and_the_second_when_it_has_waited(self) -> None:
        self.ask()
        second = self.ask()
        answer = self.heard(self.ask())
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (429, "1"))
        self.assertEqual(bytes(second.heard), b"")
        self.bench.reactor.advance(5.1)
        answer = self.heard(second)
        error = self.assert_envelope(answer, 429)
        self.assertIn("`alice` has 1 requests at once", error["message"])
        self.assertEqual(self.bench.leases, (1, 1))

    def test_a_client_that_leaves(self) -> None:
        for leave in (False, True):
            client = self.ask()
            client.hangs_up(reset=leave)
            self.assert_free()

    def test_one_that_leaves_while_it_waits(self) -> None:
        first = self.ask()
        self.ask().hangs_up()
        self.answered(first)
        self.assert_free()

    def test_one_that_leaves_before_its_body_has_come(self) -> None:
        head = request(b"", headers=self.headers).replace(b"Length: 0", b"Length: 1000")
        self.bench.client(head + b"{").hangs_up()
        self.assert_free()

    def test_one_that_is_refused_in_the_midst_of_its_body(self) -> None:
        head = request(b"", headers=self.headers).replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        client = self.bench.client(head + event(b"x" * 600_000) + event(b"x" * 600_000))
        self.assertEqual(self.heard(client).status, 413)
        self.assert_free()

    def test_one_that_takes_too_long_to_send(self) -> None:
        head = request(b"", headers=self.headers).replace(b"Length: 0", b"Length: 1000")
        client = self.bench.client(head + b"{")
        self.bench.reactor.advance(61)
        self.assertEqual(self.heard(client).status, 408)
        self.assert_free()

    def test_one_that_names_no_model(self) -> None:
        client = self.bench.client(request({"model": "none"}, headers=self.headers))
        self.assertEqual(self.heard(client).status, 404)
        self.assert_free()

    def test_a_backend_that_breaks_off(self) -> None:
        client = self.ask(stream=True)
        self.bench.backend().says(STREAM_HEAD + event(b"data: 1\n\n"))
        self.bench.crash()
        self.bench.settle()
        self.assertIn(b"data: 1", client.heard)
        self.bench.reactor.advance(1)
        client.hangs_up()
        self.assert_free()

    def test_one_that_is_cancelled(self) -> None:
        client = self.ask()
        [under_way] = self.bench.site.under_way()
        under_way.cancel()
        self.assertEqual(self.heard(client).status, 499)
        self.assert_free()


class TokenTests(LimitsTestCase):
    def left(self) -> int:
        meter = self.gate.meters._known["alice"]
        [_, tokens] = meter.told(self.bench.reactor.seconds())
        assert tokens is not None
        return tokens.remaining

    def test_prompt_and_answer_are_reserved_and_then_settled(self) -> None:
        self.limit(tokens_per_min=1000)
        client = self.ask(max_tokens=300)
        size = len(json.dumps({"model": "small", "max_tokens": 300}))
        self.assertEqual(self.left(), int(1000 - 300 - size / 4))
        answer = self.answered(client)
        self.assertEqual(answer.headers["x-ratelimit-limit-tokens"], "1000")
        self.assertEqual(self.left(), 970)

    def test_several_answers_are_counted_as_such(self) -> None:
        self.limit(tokens_per_min=1000)
        client = self.ask(max_tokens=100, n=4)
        size = len(json.dumps({"model": "small", "max_tokens": 100, "n": 4}))
        self.assertEqual(self.left(), int(1000 - 400 - size / 4))
        timed = USED[:-1] + b', "timings": {"prompt_ms": 1.0, "predicted_ms": 5.0}}'
        self.answered(client, timed)
        self.assertEqual(self.left(), 1000 - 10 - 80)

    def test_a_stream_is_settled_too(self) -> None:
        self.limit(tokens_per_min=1000)
        client = self.ask(stream=True)
        backend = self.bench.backend()
        backend.says(STREAM_HEAD + event(b"data: 1\n\n"))
        head = bytes(client.heard)
        self.assertIn(b"x-ratelimit-limit-tokens: 1000\r\n", head)
        backend.says(event(b"data: %b\n\ndata: [DONE]\n\n" % USED) + b"0\r\n\r\n")
        self.assertEqual(self.heard(client).status, 200)
        self.assertEqual(self.left(), 970)

    def test_who_leaves_before_the_count_has_not_got_it_for_nothing(self) -> None:
        self.limit(tokens_per_min=1000)
        client = self.ask(stream=True)
        self.bench.backend().says(STREAM_HEAD + event(b"data: " + b"x" * 20_000 + b"\n\n"))
        client.hangs_up()
        self.bench.settle()
        self.assertEqual(self.left(), 1000 - 200 - 8)

    def test_an_engines_error_costs_nothing(self) -> None:
        self.limit(tokens_per_min=1000)
        client = self.ask(max_tokens=300)
        self.bench.backend().says(response(b"{}", "500 Oh"))
        self.assertEqual(self.heard(client).status, 500)
        self.assertEqual(self.left(), 1000)

    def test_a_chunked_body_is_counted_when_it_has_come(self) -> None:
        self.limit(tokens_per_min=1000)
        self.gate.meters.patience = 0
        self.ask(max_tokens=900)
        head = request(b"", headers=self.headers).replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        body = json.dumps({"model": "small", "messages": "x" * 4000}).encode()
        answer = self.heard(self.bench.client(head + event(body) + b"0\r\n\r\n"))
        error = self.assert_envelope(answer, 429)
        self.assertIn("over 1000 tokens a minute with this request's 1", error["message"])
        self.assertIsNotNone(answer.headers["Retry-After"])

    def test_one_that_is_refused_after_its_body_takes_nothing(self) -> None:
        self.limit(tokens_per_min=1000, requests_per_min=10)
        self.gate.meters.patience = 0
        self.ask(max_tokens=900)
        before = self.left()
        answer = self.heard(self.ask(max_tokens=900))
        self.assertEqual(answer.status, 429)
        self.assertEqual(answer.headers["x-ratelimit-remaining-requests"], "8")
        self.assertEqual(self.left(), before)
        requests, _ = self.gate.meters._known["alice"].told(self.bench.reactor.seconds())
        assert requests is not None
        self.assertEqual(requests.remaining, 9)

    def test_a_backends_own_limits_are_not_beside_ours(self) -> None:
        self.limit(tokens_per_min=1000)
        client = self.ask()
        theirs = [("X-RateLimit-Limit-Tokens", "7"), ("anthropic-ratelimit-tokens-limit", "8")]
        self.bench.backend().says(response(USED, headers=theirs))
        answer = self.heard(client)
        self.assertEqual(answer.headers.get_all("x-ratelimit-limit-tokens"), ["1000"])
        self.assertIsNone(answer.headers["anthropic-ratelimit-tokens-limit"])


class SizeTests(LimitsTestCase):
    def test_a_body_over_the_keys_own_limit(self) -> None:
        self.limit(max_body_mb=0.001)
        answer = self.heard(self.ask(messages="x" * 2000))
        error = self.assert_envelope(answer, 413)
        self.assertIn("over 0.001 MB (max_body_mb of the API key `alice`)", error["message"])
        head = request(b"", headers=self.headers).replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        client = self.bench.client(head + event(b"x" * 800) + event(b"x" * 800))
        self.assertEqual(self.heard(client).status, 413)


class LongestTests(LimitsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.limit(max_tokens=100)

    def sent(self, path: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
        """What the engine is asked."""
        client = self.ask(path, **body)
        backend = self.bench.backend() if self.bench.wanted() else self.backend
        self.backend = backend
        _, _, content = head_and_body(backend.heard)
        backend.heard.clear()
        backend.says(response(USED))
        self.assertEqual(self.heard(client).status, 200)
        told: dict[str, Any] = json.loads(content)
        del told["model"]
        return told

    def test_who_asks_for_more_is_told_so(self) -> None:
        wrong: list[Any] = [101, -1, "7", 1e9, True, [1], 10**40]
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"):
            for value in wrong:
                answer = self.heard(self.ask(**{name: value}))
                error = self.assert_envelope(answer, 400)
                self.assertEqual(error["param"], name)
                self.assertIn("0 to 100, the max_tokens of the API key `alice`", error["message"])
        self.assertEqual(self.bench.leases, (0, 0))

    def test_who_says_nothing_gets_it_in_the_words_of_its_path(self) -> None:
        for path, name in (
            *(("/v1/chat/completions", "max_tokens"), ("/v1/completions", "max_tokens")),
            *(("/v1/responses", "max_output_tokens"), ("/v1/messages", "max_tokens")),
            *(("/completion", "max_tokens"), ("/v1/chat%2Fcompletions", "max_tokens")),
        ):
            self.assertEqual(self.sent(path), {name: 100}, path)
        self.assertEqual(self.sent(max_tokens=None), {"max_tokens": 100})

    def test_who_asks_for_less_gets_less(self) -> None:
        self.assertEqual(self.sent(max_tokens=7), {"max_tokens": 7})
        self.assertEqual(self.sent(max_completion_tokens=7), {"max_completion_tokens": 7})
        # A name that not every engine knows at this path.
        self.assertEqual(self.sent(n_predict=7), {"n_predict": 7, "max_tokens": 7})
        told = self.sent("/v1/responses", max_tokens=7)
        self.assertEqual(told, {"max_tokens": 7, "max_output_tokens": 7})

    def test_the_models_own_settings_do_not_lift_it(self) -> None:
        self.bench.shape(set_params={"max_tokens": 500})
        self.assertEqual(self.sent(), {"max_tokens": 100})
        self.bench.shape(default_params={"n_predict": 50})
        self.assertEqual(self.sent(), {"n_predict": 50, "max_tokens": 50})
        self.bench.shape(strip_params=["max_tokens"])
        self.assertEqual(self.sent(max_tokens=7), {"max_tokens": 100})

    def test_what_makes_no_text_is_left_as_it_is(self) -> None:
        self.assertEqual(self.sent("/v1/embeddings", input="x"), {"input": "x"})
