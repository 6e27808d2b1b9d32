"""Promises of the relay about what is not a POST of JSON: other methods, forms, tunnels, dialects.

The real Api, Relay, Pool and Site in memory (support/bench.py); the test plays both ends.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from twisted.internet.error import ConnectionRefusedError, DNSLookupError, TimeoutError

from llamagw.config import Replica
from llamagw.dialects import ANTHROPIC, OPENAI, ROUTES, Where
from llamagw.proxy.connections import LARGE
from llamagw.proxy.rewrite import MOST_COLONS
from tests.support.bench import Bench, BenchTestCase
from tests.support.configs import local_model, remote_model
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

UPGRADE = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "abc")]
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: xyz\r\n\r\n"
)


class MethodTests(BenchTestCase):
    def test_every_route_of_the_table_reaches_the_model_that_it_names(self) -> None:
        form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\norg/big\r\n--x--\r\n'
        as_form = [("Content-Type", "multipart/form-data; boundary=x")]
        for route in ROUTES:
            for path in route.paths:
                target = path.replace("{id}", "3")
                for method in route.methods:
                    rest = target
                    if route.where is Where.BODY:
                        says = request({"model": "org/big"}, target, method)
                    elif route.where is Where.FORM:
                        says = request(form, target, method, as_form)
                    elif route.where is Where.QUERY:
                        rest = f"{target}?x=1&model=org%2Fbig"
                        says = request(b"" if method == "POST" else None, rest, method)
                    else:
                        rest = "/a//b?c=%20d"
                        says = request(None, "/upstream/org/big/a//b?c=%20d", method)
                    client = self.bench.client(says)
                    backend = self.bench.backend()
                    first, _, body = head_and_body(backend.heard)
                    self.assertEqual(first, f"{method} {rest} HTTP/1.1")
                    self.assertEqual(body, says.partition(b"\r\n\r\n")[2])
                    backend.says(response(b"{}"))
                    self.bench.settle()
                    [answer] = answers(bytes(client.heard), method)
                    self.assertEqual((answer.status, answer.body), (200, b"{}"), says)
                    backend.hangs_up()
                    client.hangs_up()
        self.assertEqual(set(self.bench.asked), {"org/big"})
        self.assertEqual(self.bench.in_flight, 0)

    def test_what_looks_is_told_not_to_load(self) -> None:
        for says, looks in (
            (request(path="/slots?model=small"), True),
            (request(path="/slots?model=small&autoload=true"), False),
            (request(path="/upstream/small/x", method="HEAD"), True),
            (request(path="/upstream/small/x", method="DELETE"), False),
            (request(b"", path="/slots/0?model=small&action=erase"), False),
        ):
            before = len(self.bench.dispatcher.looked)
            self.bench.client(says)
            self.assertEqual(len(self.bench.dispatcher.looked) - before, int(looks), says)

    def test_one_that_is_not_loaded_is_a_conflict(self) -> None:
        self.bench = Bench(loaded=False)
        [answer] = self.bench.asks(request(path="/props?model=small"))
        self.assertEqual(self.assert_envelope(answer, 409)["code"], "model_not_loaded")

    def test_a_get_has_no_length_and_a_head_s_answer_no_body(self) -> None:
        client = self.bench.client(
            request(path="/upstream/small/x", method="HEAD"), request(path="/upstream/small/y")
        )
        backend = self.bench.backend()
        self.assertNotIn(b"content-length", bytes(backend.heard).lower())
        backend.says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-A: 1\r\n\r\n")
        self.bench.settle()
        again = self.bench.backend()
        again.says(response(b"body"))
        self.bench.settle()
        first, second = answers(bytes(client.heard), "HEAD", "GET")
        self.assertEqual((first.status, first.headers["Content-Length"]), (200, "1000"))
        self.assertEqual((first.headers["X-A"], second.body), ("1", b"body"))

    def test_without_a_model_the_default_one_is_asked(self) -> None:
        self.bench = Bench(default_model="small")
        for says in (
            request({"messages": []}),
            request({"model": None}),
            request({"model": ""}),
            request(path="/props"),
        ):
            self.bench.client(says)
        self.assertEqual(self.bench.asked, ["small"] * 4)

    def test_without_one_where_there_is_none_it_is_told_what_is_lacking(self) -> None:
        for says, said in (
            (request({"messages": []}), "names no `model`"),
            (request({"model": ""}), "names no `model`"),
            (request(path="/props?model="), "?model="),
        ):
            [answer] = self.bench.asks(says)
            self.assertIn(said, self.assert_envelope(answer, 400)["message"])


class ShapingTests(BenchTestCase):
    """A model's set_params and their like, where they apply and where they do not."""

    def sent(self, path: str) -> bytes:
        self.bench.shape(set_params={"temperature": 0.5}, strip_params=["user"])
        self.bench.client(request(b'{ "model":"small", "user":1, "n":1.50}', path))
        _, headers, body = head_and_body(self.bench.backend().heard)
        self.assertEqual(headers["content-length"], str(len(body)))
        return body

    def test_they_shape_a_body_that_asks_for_text(self) -> None:
        for path in ("/v1/chat/completions", "/completion", "/v1/messages", "/v1/responses"):
            body = self.sent(path)
            self.assertEqual(json.loads(body), {"model": "small", "n": 1.5, "temperature": 0.5})
            self.assertIn(b"1.50", body)

    def test_they_leave_all_others_alone(self) -> None:
        for path in ("/v1/embeddings", "/tokenize", "/props", "/upstream/small/v1/messages"):
            self.assertEqual(self.sent(path), b'{ "model":"small", "user":1, "n":1.50}')

    def test_a_large_body_that_would_take_long_to_change_is_refused(self) -> None:
        self.bench = Bench(max_body=4 * LARGE)
        self.bench.shape(set_params={"temperature": 0.5})
        colons = b":" * max(MOST_COLONS + 1, LARGE)
        client = self.bench.client(request(b'{"model":"small","x":"%b"}' % colons))
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertIn("too many keys", self.assert_envelope(answer, 400)["message"])
        self.assertEqual(self.bench.in_flight, 0)


class DialectTests(BenchTestCase):
    def test_errors_under_v1_messages_are_anthropics(self) -> None:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            [answer] = self.bench.asks(request({"model": "nope"}, path))
            error = self.assert_envelope(answer, 404, ANTHROPIC)
            self.assertEqual(error["type"], "not_found_error")
            [answer] = self.bench.asks(request(path=path, method="PUT"))
            self.assert_envelope(answer, 405, ANTHROPIC)

    def test_one_that_is_too_large_is_told_in_its_path_s_dialect(self) -> None:
        for path, dialect in (
            ("/v1/messages", ANTHROPIC),
            ("/v1/completions", OPENAI),
        ):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n".encode()
            [answer] = self.bench.asks(head)
            self.assert_envelope(answer, 413, dialect)

    def test_a_stream_that_breaks_off_ends_with_an_event_in_its_path_s_dialect(self) -> None:
        client = self.bench.client(request({"model": "small", "stream": True}, "/v1/messages"))
        backend = self.bench.backend()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        backend.says(head + b"Transfer-Encoding: chunked\r\n\r\n" + event(b"event: ping\nda"))
        backend.hangs_up(reset=True)
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        blank, name, data, *_ = answer.body.decode().removeprefix("event: ping\nda").split("\n")[1:]
        self.assertEqual((blank, name), ("", "event: error"))
        told = json.loads(data.removeprefix("data: "))
        self.assertEqual((told["type"], told["error"]["type"]), ("error", "api_error"))


class TunnelTests(BenchTestCase):
    """An upgrade by path: from the 101 on each side's bytes are the other's."""

    def upgraded(self, *early: bytes) -> tuple[Wire, Wire]:
        says = request(path="/upstream/small/ws?x=1", headers=UPGRADE)
        client = self.bench.client(says, *early)
        backend = self.bench.backend()
        first, headers, _ = head_and_body(backend.heard)
        self.assertEqual(first, "GET /ws?x=1 HTTP/1.1")
        wanted = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-key": "abc"}
        self.assertLessEqual(wanted.items(), headers.items())
        backend.heard.clear()
        return client, backend

    def test_the_engine_gets_its_own_key_in_place_of_the_client_s(self) -> None:
        keys = [("Authorization", "Bearer mine"), ("X-Api-Key", "mine")]
        self.bench.client(request({"model": "small"}))
        backend = self.bench.backend()
        run = self.bench.engines.last("small")
        run.address = run.address._replace(api_key="its own")
        backend.says(response(b"{}"))
        for path, headers in (
            ("/upstream/small/ws", [*UPGRADE, *keys]),
            ("/upstream/small/", keys),
        ):
            self.bench.client(request(path=path, headers=headers))
            _, sent, _ = head_and_body(self.bench.backend().heard)
            self.assertEqual(sent["authorization"], "Bearer its own")
            self.assertNotIn("x-api-key", sent)
            self.assertEqual("upgrade" in sent, path.endswith("ws"))

    def test_bytes_go_both_ways_as_they_are(self) -> None:
        client, backend = self.upgraded()
        backend.says(SWITCHED + b"\x81\x05hello")
        head, _, rest = bytes(client.heard).partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"))
        for line in (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Accept: xyz"):
            self.assertIn(b"\r\n" + line, head)
        self.assertNotIn(b"Transfer-Encoding", head)
        self.assertEqual(rest, b"\x81\x05hello")
        client.says(b"GET / HTTP/1.1\r\n\r\n")
        client.says(b"\x00\xff")
        backend.says(b"HTTP/1.1 200 OK\r\n\r\n")
        self.assertEqual(bytes(backend.heard), b"GET / HTTP/1.1\r\n\r\n\x00\xff")
        self.assertTrue(bytes(client.heard).endswith(b"helloHTTP/1.1 200 OK\r\n\r\n"))
        self.assertEqual(self.bench.leases, (1, 1))

    def test_what_the_client_said_too_early_is_not_lost(self) -> None:
        _client, backend = self.upgraded(b"early ", b"bird")
        self.assertEqual(bytes(backend.heard), b"")
        backend.says(SWITCHED)
        self.assertEqual(bytes(backend.heard), b"early bird")

    def test_it_ends_for_both_when_the_backend_ends_it(self) -> None:
        client, backend = self.upgraded()
        backend.says(SWITCHED + b"bye")
        backend.hangs_up()
        self.bench.settle()
        self.assertEqual((client.ended, client.connected), ("lose", False))
        self.assertTrue(bytes(client.heard).endswith(b"bye"))
        self.assertEqual(self.bench.leases, (1, 0))

    def test_it_ends_for_both_when_the_client_ends_it_and_its_last_words_arrive(self) -> None:
        client, backend = self.upgraded()
        backend.says(SWITCHED)
        backend.stalls()
        client.says(b"farewell")
        client.hangs_up()
        self.bench.settle()
        self.assertEqual((backend.ended, bytes(backend.heard)), ("lose", b""))
        backend.reads_on()
        self.bench.settle()
        self.assertEqual((bytes(backend.heard), backend.connected), (b"farewell", False))
        self.assertEqual(self.bench.leases, (1, 0))

    def test_each_side_is_slowed_down_by_the_other(self) -> None:
        client, backend = self.upgraded()
        backend.says(SWITCHED)
        client.stalls()
        backend.says(b"x" * 100_000)
        self.assertTrue(backend.paused)
        client.reads_on()
        self.assertFalse(backend.paused)
        backend.stalls()
        client.says(b"y" * 100_000)
        self.assertTrue(client.paused)
        backend.reads_on()
        self.assertFalse(client.paused)

    def test_a_backend_that_does_not_want_to_answers_as_ever(self) -> None:
        client, backend = self.upgraded()
        backend.says(response(b"no", "426 Upgrade Required"))
        self.bench.settle()
        [answer] = answers(bytes(client.heard))
        self.assertEqual((answer.status, answer.body, client.connected), (426, b"no", True))

    def test_a_client_that_leaves_after_the_backend_has_is_no_error(self) -> None:
        for reset in (True, False):
            client, backend = self.upgraded()
            backend.says(SWITCHED)
            backend.hangs_up(reset)
            client.hangs_up()
            self.bench.settle()
            self.assertEqual(self.flushLoggedErrors(), [])
            self.assertEqual(self.bench.site.connections.open, set())

    def test_no_other_path_takes_an_upgrade(self) -> None:
        self.bench.client(request({"model": "small"}, headers=UPGRADE))
        _, headers, _ = head_and_body(self.bench.backend().heard)
        self.assertNotIn("upgrade", headers)


class ElsewhereTests(BenchTestCase):
    """What a server elsewhere gets, and what happens when it fails."""

    FAR = Replica(url="http://10.0.0.1:8000/api", api_key="secret", upstream_model="their name")

    def sent(self, says: bytes) -> tuple[str, dict[str, str], bytes]:
        self.bench.reload(remote_model("small", self.FAR, paths=["*"]))
        self.bench.client(says)
        return head_and_body(self.bench.backend().heard)

    def servers(self, count: int) -> None:
        """Have so many servers answer for the model."""
        replicas = [Replica(url=f"http://10.0.0.{n}") for n in range(count)]
        self.bench.reload(remote_model("small", *replicas))

    def test_its_path_has_its_prefix_and_its_host_is_its_own(self) -> None:
        first, headers, _ = self.sent(request({"model": "small"}, "/v1/completions?x=1"))
        self.assertEqual(first, "POST /api/v1/completions?x=1 HTTP/1.1")
        self.assertEqual(headers["host"], "10.0.0.1:8000")
        first, _, _ = self.sent(request(path="/upstream/small/x"))
        self.assertEqual(first, "GET /api/x HTTP/1.1")

    def test_the_gateway_s_key_takes_the_place_of_the_client_s(self) -> None:
        keys = [("Authorization", "Bearer mine"), ("X-Api-Key", "mine"), ("X-Other", "1")]
        _, headers, _ = self.sent(request({"model": "small"}, headers=keys))
        self.assertEqual(headers["authorization"], "Bearer secret")
        self.assertNotIn("x-api-key", headers)
        self.assertEqual(headers["x-other"], "1")
        self.FAR = msgspec.structs.replace(self.FAR, api_key=None)
        _, headers, _ = self.sent(request({"model": "small"}, headers=keys))
        self.assertEqual(headers["authorization"], "Bearer mine")

    def test_the_model_is_called_by_its_name_there(self) -> None:
        _, _, body = self.sent(request(b'{ "n": 1.50, "model": "small"}', "/v1/embeddings"))
        self.assertEqual(json.loads(body), {"n": 1.5, "model": "their name"})
        self.assertIn(b"1.50", body)
        first, _, _ = self.sent(request(path="/props?a=%20&model=small&b"))
        self.assertEqual(first, "GET /api/props?a=%20&b&model=their%20name HTTP/1.1")
        file = b'\r\nContent-Disposition: form-data; name="file"\r\n\r\n\x00small\r\n--y\r\n'
        field = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
        form = b"--xyz" + file + b"--xyz" + field + b"--xyz--\r\n"
        kind = [("Content-Type", 'multipart/form-data; boundary="xyz"')]
        path = "/v1/audio/transcriptions"
        _, headers, body = self.sent(request(form % b"small", path, headers=kind))
        self.assertEqual(body, form % b"their name")
        self.assertEqual(headers["content-length"], str(len(body)))

    def test_a_body_that_calls_it_so_already_is_left_as_it_is(self) -> None:
        self.FAR = msgspec.structs.replace(self.FAR, upstream_model="small")
        says = b'{ "model":"small","n":1.50 }'
        self.assertEqual(self.sent(request(says))[2], says)

    def test_one_that_fails_before_its_first_byte_is_replaced_by_another_each_once(self) -> None:
        self.servers(3)
        client = self.bench.client(request({"model": "small"}))
        self.bench.refuse(ConnectionRefusedError())
        self.bench.settle()
        self.bench.backend().hangs_up()
        self.bench.settle()
        self.bench.backend().says(response(b"third"))
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assertEqual((answer.status, answer.body), (200, b"third"))
        leases = self.bench.dispatcher.given
        self.assertEqual(self.bench.leases, (3, 0))
        self.assertEqual(self.bench.dispatcher.failed, [[], leases[:1], leases[:2]])
        hosts = [lease.address.host for lease in leases]
        self.assertEqual(sorted(hosts), ["10.0.0.0", "10.0.0.1", "10.0.0.2"])
        looked_at_again = self.bench.probe.diagnosed[3:]
        self.assertEqual(looked_at_again, hosts[:2])

    def test_when_all_of_them_fail_it_is_told(self) -> None:
        self.servers(3)
        client = self.bench.client(request({"model": "small"}))
        # The last one is no ConnectError: a name that is known no more.
        for error in (ConnectionRefusedError(), TimeoutError(), DNSLookupError("no results")):
            self.bench.refuse(error)
            self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        told = self.assert_envelope(answer, 502)["message"]
        self.assertIn("it cannot be reached: its name cannot be looked up", told)
        self.assertEqual(self.bench.connects, 3)

    def test_one_that_answers_what_is_not_http_is_replaced_but_an_engine_is_not(self) -> None:
        far = remote_model("small", Replica(url="http://a"), Replica(url="http://b"))
        for model, connects, status in ((local_model("small"), 1, 502), (far, 2, 200)):
            self.bench.reload(model)
            before = self.bench.connects
            client = self.bench.client(request({"model": "small"}))
            self.bench.backend().says(b"SSH-2.0\r\n")
            self.bench.settle()
            if connects == 2:
                self.bench.backend().says(response(b"second"))
                self.bench.settle()
            [answer] = answers(bytes(client.heard), "POST")
            self.assertEqual((self.bench.connects - before, answer.status), (connects, status))

    def test_what_waits_at_one_that_hangs_goes_on_to_another_and_the_rest_stays(self) -> None:
        self.servers(2)
        waits = self.bench.client(request({"model": "small"}))
        hangs = self.bench.backend()
        _client, other = self.bench.streaming()
        first, second = (lease.address for lease in self.bench.dispatcher.given)
        self.assertNotEqual(first, second)
        self.bench.pool.break_off("it does not answer any more", first)
        self.bench.settle()
        self.assertEqual((hangs.ended, other.ended), ("abort", None))
        self.bench.backend().says(response(b"second"))
        self.bench.settle()
        self.assertEqual(answers(bytes(waits.heard), "POST")[0].body, b"second")

    def test_one_that_has_begun_is_not_replaced(self) -> None:
        self.servers(3)
        _client, backend = self.bench.streaming()
        backend.hangs_up(reset=True)
        self.bench.settle()
        self.assertEqual(self.bench.connects, 1)

    def test_a_request_whose_backend_was_unloaded_by_force_is_not_repeated(self) -> None:
        client = self.bench.client(request({"model": "small"}))
        gone = self.bench.dispatcher.unload("small", force=True)
        self.bench.settle()
        self.successResultOf(gone)
        self.bench.backend().hangs_up(reset=True)
        self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assert_envelope(answer, 502)
        self.assertEqual(self.bench.connects, 1)

    def test_a_request_on_which_two_broke_off_is_not_tried_on_a_third(self) -> None:
        self.servers(5)
        client = self.bench.client(request({"model": "small"}))
        for _ in range(2):
            self.bench.backend().hangs_up(reset=True)
            self.bench.settle()
        [answer] = answers(bytes(client.heard), "POST")
        self.assert_envelope(answer, 502)
        self.assertEqual(self.bench.connects, 2)


class KeyTests(BenchTestCase):
    """What goes to a remote server with the gateway's own key."""

    def setUp(self) -> None:
        super().setUp()
        self.allow()

    def answer(self, says: bytes, method: str = "GET") -> Answer:
        before = self.bench.connects
        client = self.bench.client(says)
        if self.bench.connects > before:
            body = b"" if method == "HEAD" else b"{}"
            self.bench.backend().says(response(body, headers=[("Connection", "close")]))
        self.bench.settle()
        [answer] = answers(bytes(client.heard), method)
        return answer

    def allow(self, *paths: str) -> None:
        """Have its model's `paths` be these."""
        far = Replica(url="http://10.0.0.1:8000/api", api_key="secret")
        self.bench.reload(remote_model("small", far, paths=list(paths)))

    def test_only_what_a_model_is_for_goes_there(self) -> None:
        for method, path, status in (
            ("POST", "/v1/chat/completions", 200),
            ("POST", "/upstream/small/v1/chat/completions?x=1", 200),
            ("GET", "/upstream/small/v1/models", 200),
            ("HEAD", "/upstream/small/health", 200),
            ("GET", "/upstream/small/v1/files", 403),
            ("DELETE", "/upstream/small/v1/chat/completions", 403),
            ("GET", "/upstream/small/v1/chat/completions", 403),
            ("POST", "/upstream/small/v1/chat/completions/", 403),
            ("POST", "/upstream/small//v1/chat/completions", 403),
            ("POST", "/upstream/small/v1/ch%61t/completions", 403),
            ("GET", "/slots?model=small", 403),
            ("POST", "/slots/0?model=small&action=save", 403),
            ("POST", "/lora-adapters?model=small", 403),
            ("POST", "/props", 403),
        ):
            body = b'{"model": "small"}' if method == "POST" else None
            answer = self.answer(request(body, path, method), method)
            self.assertEqual(answer.status, status, (method, path))
            if status == 403:
                self.assertIn("`paths`", answer.json()["error"]["message"])

    def test_its_paths_may_allow_more(self) -> None:
        self.allow("/v1/files*", "/slots")
        for path, status in (
            ("/upstream/small/v1/files/7/content?x=/slots", 200),
            ("/slots?model=small", 200),
            ("/upstream/small/v1/fine_tuning", 403),
        ):
            self.assertEqual(self.answer(request(path=path)).status, status, path)
        self.allow("*")
        self.assertEqual(self.answer(request(path="/upstream/small/any")).status, 200)

    def test_what_gets_no_key_of_the_gateway_s_for_a_remote_server_is_asked_anything(self) -> None:
        self.bench.reload(remote_model("small", Replica(url="http://10.0.0.1:8000/api")))
        self.assertEqual(self.answer(request(path="/upstream/small/any")).status, 200)

    def test_no_path_leads_out_of_its_prefix(self) -> None:
        self.allow("*")
        for path in (
            "/upstream/small/../../admin",
            "/upstream/small/v1/%2e%2e/%2E%2E/admin",
            "/upstream/small/.%2e/admin",
            "/upstream/small/..%2fadmin",
            "/upstream/small/%252e%252e/admin",
            "/upstream/small/..\\admin",
            "/upstream/small/..%5cadmin",
            "/upstream/small/..;x=1/admin",
            "/upstream/small/./x",
            "/upstream/small/a%00b",
            "/slots/..?model=small",
        ):
            method = "POST" if "slots" in path else "GET"
            answer = self.answer(request(b"{}" if method == "POST" else None, path, method), method)
            self.assertIn(answer.status, (400, 404), path)
        self.assertEqual(self.bench.connects, 0)


class AnswerHeadTests(BenchTestCase):
    """How an answer is framed, and what of its head reaches a browser."""

    def answered(self, backend: bytes, model: dict[str, Any] | None = None) -> Wire:
        self.bench = Bench([local_model("small", **(model or {}))])
        client = self.bench.client(request({"model": "small"}))
        self.bench.backend().says(backend)
        self.bench.settle()
        return client

    def test_connection_takes_away_no_header_by_which_an_answer_is_read(self) -> None:
        protected = ("Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding")
        for nominated in ("content-length", ", ".join(protected), "Content-Length,X-Y"):
            client = self.answered(
                response(
                    b"abc",
                    headers=[
                        ("Connection", nominated),
                        ("Content-Type", "x/y"),
                        ("Content-Encoding", "br"),
                        ("X-Y", "1"),
                    ],
                )
            )
            client.says(request(path="/health"))
            self.bench.settle()
            first, second = answers(bytes(client.heard), "POST")
            self.assertEqual((first.body, first.headers["Content-Length"]), (b"abc", "3"))
            self.assertEqual((first.headers["Content-Type"], second.status), ("x/y", 200))
            self.assertEqual(first.headers["Content-Encoding"], "br")
            self.assertEqual(first.headers["X-Y"], None if "X-Y" in nominated else "1")

    def test_an_answer_without_a_body_promises_none(self) -> None:
        client = self.answered(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n")
        self.assertNotIn(b"Content-Length", bytes(client.heard))
        client.says(request(path="/health"))
        self.bench.settle()
        self.assertEqual([a.status for a in answers(bytes(client.heard), "POST")], [204, 200])

    ACTING = (
        ("Set-Cookie", "a=1"),
        ("Alt-Svc", 'h2="evil:443"'),
        ("Service-Worker-Allowed", "/"),
        ("Strict-Transport-Security", "max-age=1"),
        ("Clear-Site-Data", '"*"'),
        ("Refresh", "0; url=http://evil"),
        ("X-Accel-Redirect", "/etc/passwd"),
        ("Access-Control-Allow-Private-Network", "true"),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Anything", "1"),
    )

    def test_what_acts_on_the_browser_or_a_proxy_is_dropped(self) -> None:
        client = self.answered(response(headers=[*self.ACTING, ("X-Accel-Buffering", "no")]))
        [answer] = answers(bytes(client.heard), "POST")
        for name, _ in self.ACTING:
            self.assertIsNone(answer.headers[name], name)
        self.assertEqual(answer.headers["X-Accel-Buffering"], "no")
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "*")

    def test_a_model_may_say_that_some_of_it_is_passed(self) -> None:
        model = {"pass_headers": ["set-cookie", "Access-Control-Anything"]}
        client = self.answered(response(headers=self.ACTING), model)
        [answer] = answers(bytes(client.heard), "POST")
        passed = [name for name, _ in self.ACTING if answer.headers[name] is not None]
        self.assertEqual(passed, ["Set-Cookie", "Access-Control-Anything"])

    def test_cookies_of_other_programs_on_this_machine_go_to_no_backend(self) -> None:
        for passed, sent in (([], False), (["Set-Cookie"], True)):
            self.bench = Bench([local_model("small", pass_headers=passed)])
            self.bench.client(request({"model": "small"}, headers=[("Cookie", "session=1")]))
            _, headers, _ = head_and_body(self.bench.backend().heard)
            self.assertEqual("cookie" in headers, sent)

    def test_a_stream_that_waits_is_told_how_it_stands(self) -> None:
        self.bench = Bench(keepalive=5)
        self.bench.engines.usual["small"] = 12.0
        self.bench.hold()
        clients = [self.bench.client(request({"model": "small", "stream": True})) for _ in range(2)]
        self.bench.reactor.advance(5)
        self.bench.reactor.advance(5)
        for position, client in enumerate(clients, 1):
            for seconds in (5, 10):
                said = f": waiting for small: position {position}, {seconds} s so far; its load "
                self.assertIn(f"{said}usually takes 12 s\n\n".encode(), bytes(client.heard))
        self.bench.ready()
        for _ in clients:
            self.bench.backend().says(STREAM_HEAD + event(b"data: 1\n\n"))
        self.bench.reactor.advance(50)
        for client in clients:
            self.assertEqual(bytes(client.heard).count(b": waiting for"), 2)

    def test_a_request_has_what_it_waits_for_while_it_waits(self) -> None:
        self.bench.hold()
        self.bench.client(request({"model": "small"}))
        [waiting] = self.bench.site.under_way()
        [(deferred, standing)] = self.bench.dispatcher.standings().items()
        self.assertIs(waiting.waiting, deferred)
        self.assertEqual((standing.model, standing.position), ("small", 1))
        self.bench.ready()
        self.assertIsNone(waiting.waiting)

    def test_an_error_without_end_in_a_stream_that_was_begun_early_is_cut_off(self) -> None:
        self.bench = Bench(keepalive=5)
        self.bench.hold()
        client = self.bench.client(request({"model": "small", "stream": True}))
        self.bench.reactor.advance(5)
        self.bench.ready()
        backend = self.bench.backend()
        backend.says(b"HTTP/1.1 500 Oh\r\nConnection: close\r\n\r\n")
        for _ in range(100):
            backend.says(b"x" * 65536)
        self.bench.settle()
        self.assertEqual(backend.ended, "abort")
        self.assertLess(len(client.heard), 2000)
        self.assertIn(b'data: {"error"', bytes(client.heard))
