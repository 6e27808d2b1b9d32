"""Promises of llamagw.proxy.origins, and of what is asked of it: which web pages may do what."""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from llamagw.errors import NotAllowed
from llamagw.proxy.origins import Origins
from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import CHAT, Answer, answers, request, response

EVIL = "https://evil.example"
PAGE = "https://chat.example:8443"

#: Requests that are not for web pages of other origins, whatever they send along.
CLOSED: tuple[tuple[str, str, bytes | None], ...] = (
    ("POST", "/models/load", b'{"model": "small"}'),
    ("POST", "/models/unload", b'{"model": "small", "force": true}'),
    ("POST", "/m%6fdels/unload", b'{"model": "small"}'),
    ("GET", "/models/sse", None),
    ("GET", "/models/logs?model=small", None),
    ("GET", "/models/logs?model=small&follow=true", None),
    ("GET", "/slots?model=small", None),
    ("POST", "/slots/0?model=small&action=erase", b"{}"),
    ("GET", "/metrics?model=small", None),
    ("POST", "/props", b'{"model": "small"}'),
    ("GET", "/lora-adapters?model=small", None),
    ("POST", "/lora-adapters?model=small", b"[]"),
    ("GET", "/upstream/small/", None),
    ("POST", "/upstream/small/v1/chat/completions", b"{}"),
    ("DELETE", "/upstream/small/x", None),
)


def ask(bench: Bench, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """One answer of the gateway's own, or of a backend that says {}."""
    more = [(name.replace("_", "-"), value) for name, value in headers.items()]
    host = dict(more).pop("Host", None)
    asked = request(body, path=path, method=method, headers=[p for p in more if p[0] != "Host"])
    if host is not None:
        asked = asked.replace(b"Host: gateway", b"Host: " + host.encode())
    before = bench.connects
    client = bench.client(asked)
    if bench.connects > before:
        bench.backend().says(response(headers=[("Connection", "close")]))
    bench.settle()
    [answer] = answers(bytes(client.heard), method)
    client.hangs_up()
    bench.settle()
    return answer


def cors(answer: Answer) -> tuple[str | None, str | None, str | None]:
    return (
        answer.headers["Access-Control-Allow-Origin"],
        answer.headers["Access-Control-Allow-Credentials"],
        answer.headers["Vary"],
    )


class ClosedTests(BenchTestCase):
    """Management, logs, events, slots, adapters and the engines themselves."""

    def test_a_page_of_another_origin_is_turned_away_and_told_the_key(self) -> None:
        for origin in (EVIL, "null", "http://gateway.evil.example", "http://gateway:81"):
            for method, path, body in CLOSED:
                answer = ask(
                    self.bench, method, path, body, Origin=origin, Content_Type="text/plain"
                )
                error = self.assert_envelope(answer, 403, open_to_all=False)
                self.assertEqual(error["code"], "not_allowed", path)
                self.assertIn("cors_origins", error["message"])
                self.assertEqual(cors(answer), (None, None, None), path)
        self.assertEqual((self.bench.connects, self.bench.dispatcher.orders), (0, []))

    def test_no_page_may_read_their_answers_by_the_star(self) -> None:
        for method, path, body in CLOSED:
            if "follow" not in path and "sse" not in path:
                # Each in a gateway of its own: one of them unloads the model.
                answer = ask(Bench(), method, path, body)
                self.assertEqual(answer.status, 200, path)
                self.assertEqual(cors(answer), (None, None, None), path)

    def test_a_page_of_the_gateway_itself_may(self) -> None:
        for host, origin in (
            ("gateway", "http://gateway"),
            ("gateway:8000", "http://gateway:8000"),
            ("gateway:80", "http://gateway"),
            ("gateway", "https://Gateway:443"),
        ):
            answer = ask(
                self.bench,
                "POST",
                "/models/unload",
                b'{"model": "small"}',
                Host=host,
                Origin=origin,
            )
            self.assertEqual(answer.status, 200, (host, origin))

    def test_a_page_of_an_origin_that_is_listed_by_name_may_and_can_read_it(self) -> None:
        self.bench = Bench(origins=["*", PAGE, "localhost"])
        for origin in (
            PAGE,
            "HTTPS://chat.example:8443",
            "http://localhost:3000",
            "http://[::1]:5",
        ):
            answer = ask(self.bench, "POST", "/models/unload", b'{"model": "small"}', Origin=origin)
            self.assertEqual(answer.status, 200, origin)
            self.assertEqual(cors(answer), (origin, "true", "Origin"))
        for origin in (EVIL, "https://chat.example", "https://localhost.evil.example"):
            answer = ask(self.bench, "GET", "/slots?model=small", Origin=origin)
            self.assertEqual(answer.status, 403, origin)

    def test_what_a_page_embeds_is_turned_away_and_a_link_is_followed(self) -> None:
        for site, mode, kind, status in (
            ("cross-site", "no-cors", "image", 403),
            ("same-site", "no-cors", "script", 403),
            ("cross-site", "navigate", "iframe", 403),
            ("cross-site", "navigate", "document", 200),
            ("same-origin", "no-cors", "image", 200),
            ("none", "navigate", "document", 200),
        ):
            fetch: Any = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": kind}
            answer = ask(self.bench, "GET", "/slots?model=small&autoload=true", **fetch)
            self.assertEqual(answer.status, status, fetch)

    def test_on_loopback_another_host_is_turned_away_since_it_may_have_been_rebound(self) -> None:
        self.bench = Bench(origins=["*", "https://models.example"])
        self.bench.site.connections.loopback = True
        for host, status in (
            ("127.0.0.1:8000", 200),
            ("127.9.9.9", 200),
            ("localhost:8000", 200),
            ("LOCALHOST.", 200),
            ("x.localhost:1", 200),
            ("[::1]:8000", 200),
            ("models.example", 200),
            ("evil.example:8000", 403),
            ("127.0.0.1.evil.example", 403),
            ("10.0.0.1", 403),
            ("[::2]", 403),
        ):
            answer = ask(self.bench, "GET", "/slots?model=small", Host=host)
            self.assertEqual(answer.status, status, host)
        answer = ask(self.bench, "GET", "/slots?model=small", Host="evil.example", Origin=EVIL)
        self.assertIn("cors_origins", answer.json()["error"]["message"])

    def test_a_preflight_is_answered_as_the_request_would_be(self) -> None:
        for method, path, _ in CLOSED:
            ask_for: Any = {"Access_Control_Request_Method": method, "Origin": EVIL}
            answer = ask(self.bench, "OPTIONS", path, **ask_for)
            self.assertEqual((answer.status, *cors(answer)), (403, None, None, None), path)
        answer = ask(self.bench, "OPTIONS", "/models/unload", Origin=EVIL)
        self.assertEqual(answer.status, 403)


class OpenTests(BenchTestCase):
    """What uses a model, or lists the models."""

    def test_by_default_a_page_of_any_origin_may_and_without_credentials(self) -> None:
        for method, path, body in (
            ("POST", CHAT, b'{"model": "small"}'),
            ("GET", "/v1/models", None),
            ("GET", "/models", None),
            ("GET", "/health", None),
            ("GET", "/props?model=small", None),
            ("OPTIONS", CHAT, None),
            ("GET", "/nothing", None),
        ):
            answer = ask(self.bench, method, path, body, Origin=EVIL)
            self.assertEqual(cors(answer)[:2], ("*", None), path)

    def test_a_list_is_reflected_and_no_other_origin_is(self) -> None:
        self.bench = Bench(origins=[PAGE])
        for method, path, body in (("POST", CHAT, b'{"model": "small"}'), ("OPTIONS", CHAT, None)):
            self.assertEqual(
                cors(ask(self.bench, method, path, body, Origin=PAGE))[:2], (PAGE, "true")
            )
            answer = ask(self.bench, method, path, body, Origin=EVIL)
            self.assertEqual(cors(answer)[:2], (None, None))
            self.assertIn("Origin", answer.headers.get_all("Vary") or [])

    def test_none_is_none(self) -> None:
        self.bench = Bench(origins=[])
        for origin in (EVIL, "http://localhost", "null"):
            answer = ask(self.bench, "POST", CHAT, b'{"model": "small"}', Origin=origin)
            self.assertEqual((answer.status, *cors(answer)), (200, None, None, None))

    def test_a_refusal_before_the_request_is_whole_is_open_just_as_far(self) -> None:
        self.bench = Bench(max_body=10)
        for path, allowed in ((CHAT, "*"), ("/models/unload", None)):
            [answer] = self.bench.asks(request(b"x" * 11, path=path))
            self.assertEqual(answer.status, 413)
            self.assertEqual(answer.headers["Access-Control-Allow-Origin"], allowed)


class OriginsTests(SynchronousTestCase):
    TWO: ClassVar = [("Origin", PAGE), ("Origin", EVIL)]

    def test_two_origins_are_none(self) -> None:
        headers = Headers()
        for name, value in self.TWO:
            headers.addRawHeader(name, value)
        with self.assertRaises(NotAllowed):
            Origins([PAGE]).check(headers, loopback=False)

    def test_what_is_shown_of_an_origin_is_short_and_harmless(self) -> None:
        headers = Headers({"Origin": ["http://\x1b[31m" + "x" * 5000]})
        with self.assertRaises(NotAllowed) as caught:
            Origins([]).check(headers, loopback=False)
        self.assertLess(len(caught.exception.message), 400)
        self.assertNotIn("\x1b", caught.exception.message)
