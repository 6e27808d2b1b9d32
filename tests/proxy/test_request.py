"""Promises of llamagw.proxy.request: what comes in is limited, what goes out is JSON with CORS.

The real Site in memory (tests/support/bench.py).
"""

from __future__ import annotations

from typing import Any

from klein import Klein
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from llamagw.listeners import Listeners
from llamagw.proxy.channel import LINGER_SEC
from llamagw.proxy.connections import Limits
from llamagw.proxy.origins import Origins
from llamagw.proxy.request import Request
from llamagw.proxy.site import Site
from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import (
    CHAT,
    Answer,
    answers,
    chunked,
    event,
    request,
    response,
)
from tests.support.wire import Wire

LIMIT = 1000
PATHS = ("/v1/chat/completions", "/v1/models", "/v1/models/x", "/health", "/nothing", "/")
CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class BodyLimitTests(BenchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.bench = Bench(max_body=LIMIT)

    def assert_refused(self, client: Wire) -> None:
        """Told 413 and nothing else, as JSON; nothing was forwarded; closed by us at last."""
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual(self.assert_envelope(answer, 413)["code"], "body_too_large")
        self.assertEqual(answer.headers["Connection"], "close")
        self.assertIn("max_body_mb", answer.json()["error"]["message"])
        self.assertEqual((self.bench.asked, self.bench.connects), ([], 0))
        self.assertIn(client.ended, ("lose", "half"))
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_length_over_the_limit_is_refused_before_the_body_comes(self) -> None:
        head = request(b"", headers=[]).replace(b"Length: 0", b"Length: %d" % (LIMIT + 1))
        self.assert_refused(self.bench.client(head))

    def test_chunks_over_the_limit_are_refused_as_they_arrive(self) -> None:
        client = self.bench.client(CHUNKED)
        for _ in range(LIMIT // 100):
            client.says(event(b"x" * 100))
            self.assertEqual(bytes(client.heard), b"")
        client.says(event(b"x"))
        self.assert_refused(client)

    def test_chunks_over_the_limit_are_refused_in_one_read_too(self) -> None:
        self.assert_refused(self.bench.client(CHUNKED + chunked([b"x" * 100] * (LIMIT // 50))))

    def test_a_body_that_would_be_whole_json_after_the_limit_is_not_forwarded(self) -> None:
        body = [b" " * (LIMIT + 1), b'{"model":"small"}']
        self.assert_refused(self.bench.client(CHUNKED + chunked(body)))

    def test_what_was_refused_reaches_no_handler(self) -> None:
        handled: list[object] = []
        self.bench.site.table = {CHAT.encode(): handled.append}
        for body in ([b"x" * (LIMIT + 1)], [b"x" * LIMIT, b"x"]):
            self.assert_refused(self.bench.client(CHUNKED + chunked(body)))
        self.assertEqual(handled, [])

    def test_what_the_client_still_sends_is_thrown_away(self) -> None:
        client = self.bench.client(CHUNKED + event(b"x" * (LIMIT + 1)))
        client.says(event(b"y" * LIMIT) * 100)
        client.says(b"0\r\n\r\n" + request(path="/health"))
        self.assert_refused(client)

    def test_a_client_that_never_stops_sending_is_dropped(self) -> None:
        client = self.bench.client(CHUNKED + event(b"x" * (LIMIT + 1)))
        for _ in range(LINGER_SEC * 2 + 1):
            client.says(event(b"y" * LIMIT))
            self.bench.reactor.advance(0.5)
        self.bench.settle()
        self.assertFalse(client.connected)
        self.assertEqual(self.bench.site.connections.open, set())

    def test_a_body_of_just_the_limit_is_forwarded(self) -> None:
        body = b'{"model":"small"}'.ljust(LIMIT)
        self.bench.client(request(body))
        self.assertTrue(self.bench.backend().heard.endswith(b"\r\n\r\n" + body))
        self.bench.client(CHUNKED + chunked([body[:500], body[500:]]))
        self.assertTrue(self.bench.backend().heard.endswith(b"\r\n\r\n" + body))

    def test_the_limit_holds_for_each_request_of_a_connection_anew(self) -> None:
        body = b'{"model":"small"}'.ljust(LIMIT - 1)
        client = self.bench.client(request(body))
        backend = self.bench.backend()
        backend.says(response(b"one"))
        client.says(request(body))
        backend.says(response(b"two"))
        self.assertEqual([a.body for a in answers(bytes(client.heard))], [b"one", b"two"])

    def test_it_holds_at_paths_of_the_tree_too(self) -> None:
        for path in ("/health", "/nothing"):
            client = self.bench.client(request(b"x" * (LIMIT + 1), path=path))
            self.assert_refused(client)

    def test_who_waits_for_a_go_ahead_is_refused_in_its_place(self) -> None:
        head = request(b"", headers=[("Expect", "100-continue")])
        client = self.bench.client(head.replace(b"Length: 0", b"Length: %d" % (LIMIT + 1)))
        self.assertNotIn(b" 100 ", client.heard)
        self.assert_refused(client)


class PathTests(BenchTestCase):
    def test_one_without_a_slash_is_no_path(self) -> None:
        """Its first character would be dropped, and be a part of what a backend is asked for."""
        for path in ("v1/chat/completions", ".v1/chat/completions", "http://x/health", "?"):
            for method in ("POST", "GET"):
                [answer] = self.bench.asks(request({"model": "small"}, path=path, method=method))
                self.assert_envelope(answer, 400)
        self.assertEqual(self.bench.connects, 0)


class PreflightTests(BenchTestCase):
    def test_it_is_answered_everywhere(self) -> None:
        for path in PATHS:
            asked = [
                ("Origin", "http://localhost:3000"),
                ("Access-Control-Request-Method", "POST"),
                ("Access-Control-Request-Headers", "authorization, content-type, x-stainless-os"),
            ]
            [answer] = self.bench.asks(request(path=path, method="OPTIONS", headers=asked))
            self.assertEqual((answer.status, answer.body), (204, b""), path)
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "*")
            self.assertIn("POST", answer.headers["Access-Control-Allow-Methods"])
            self.assertEqual(
                answer.headers["Access-Control-Allow-Headers"],
                "authorization, content-type, x-stainless-os",
            )
        self.assertEqual(self.bench.asked, [])

    def test_it_is_answered_without_anything_asked(self) -> None:
        for path in (*PATHS, "*"):
            [answer] = self.bench.asks(request(path=path, method="OPTIONS"))
            self.assertEqual(answer.status, 204)
            self.assertIn("POST", answer.headers["Allow"])
            self.assertEqual(answer.headers["Access-Control-Allow-Headers"], "*")

    def test_the_connection_goes_on(self) -> None:
        found = self.bench.asks(request(method="OPTIONS"), request(path="/health"))
        self.assertEqual([a.status for a in found], [204, 200])


class BrokenHandlerTests(SynchronousTestCase):
    """A fault of the gateway's own is a 500 envelope, never a page or a traceback."""

    def answer(self, tree: Any, path: str) -> Answer:
        bench = Bench()

        def broken(request: Request) -> None:
            raise ZeroDivisionError("secret detail")

        limits = Limits(100, 1000, 60, 600, 100, Origins(["*"]))
        bench.site = Site(
            tree, {b"/table": broken}, clock=bench.reactor, limits=limits, records=Listeners()
        )
        client = bench.client(request(b"{}", path=path))
        bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "*")
        return answer

    def test_in_a_handler_of_the_tree(self) -> None:
        app: Any = Klein()

        @app.route("/tree", methods=["POST"])  # type: ignore[untyped-decorator]
        def broken(request: Request) -> bytes:
            raise ZeroDivisionError("secret detail")

        answer = self.answer(app.resource(), "/tree")
        self.assertEqual(answer.status, 500)
        self.assertEqual(answer.json()["error"]["code"], "internal_error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_in_a_resource_of_the_tree(self) -> None:
        class Broken(Resource):
            isLeaf = True

            def render(self, request: Any) -> bytes:
                raise ZeroDivisionError("secret detail")

        answer = self.answer(Broken(), "/tree")
        self.assertEqual(answer.status, 500)
        self.assertEqual(answer.json()["error"]["code"], "internal_error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
