"""Promises of the dashboard's sessions: how one begins and ends, what it may do, for which pages.

The real Api and gate in memory (support/bench.py), on the real fleet.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from twisted.internet.interfaces import ISSLTransport
from zope.interface import alsoProvides

from llamagw.config import KeyEntry
from llamagw.gate import Gate, Keyring, digest_of, new_secret
from llamagw.gate.attempts import EACH, FREE, LATEST
from llamagw.proxy.request import WITHOUT_KEY
from tests.support.bench import Bench, BenchTestCase
from tests.support.messages import Answer, answers, head_and_body, request, response

OWN, EVIL, LISTED = "http://gateway", "https://evil.example", "https://chat.example"

#: As long as a secret, and none.
WRONG = "lgw_" + "x" * 49

CHAT = {"model": "small", "messages": []}


class Login(NamedTuple):
    """What a browser knows of its session."""

    cookie: str
    csrf: str


class LoginTestCase(BenchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.now = 1_800_000_000.0
        self.secrets = {name: new_secret() for name in ("boss", "user", "some")}
        self.entries = {
            "boss": self.entry("boss", scopes=["infer", "observe", "manage"]),
            "user": self.entry("user"),
            "some": self.entry("some", scopes=["infer", "observe"], models=["small"]),
        }
        self.use(Bench(["small", "org/big"], origins=["*", LISTED]))

    def use(self, bench: Bench) -> None:
        """Have keys wanted by a gateway."""
        self.bench = bench
        self.gate = Gate(lambda: self.now, bench.reactor.seconds)
        bench.site.connections.gate = self.gate
        self.know()

    def entry(self, name: str, **more: Any) -> KeyEntry:
        return KeyEntry(name=name, **{"hash": digest_of(self.secrets[name].encode()), **more})

    def know(self) -> None:
        """Have the gate know these entries."""
        self.gate.keyring = Keyring(self.entries.values())

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: object = None,
        login: Login | None = None,
        csrf: bool = True,
        **headers: str,
    ) -> Answer:
        """One answer; a session sends its cookie, and its CSRF token with all but GET and HEAD."""
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if login is not None:
            pairs.append(("Cookie", f"theme=dark; {login.cookie}"))
            if csrf and method not in ("GET", "HEAD"):
                pairs.append(("X-CSRF-Token", login.csrf))
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self.client = self.bench.client(request(data, path, method, pairs))
        self.bench.settle()
        found = answers(bytes(self.client.heard), method)
        return found[0] if found else Answer(0, "", {}, b"", False)

    def begin(self, name: str = "boss", **headers: Any) -> Login:
        """Log in; gives the cookie as the browser sends it."""
        answer = self.ask("/ui/login", "POST", {"key": self.secrets[name]}, Origin=OWN, **headers)
        self.assertEqual((answer.status, answer.body), (204, b""))
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
        told = self.ask("/ui/session", login=Login(cookie, "")).json()
        return Login(cookie, told["csrf"])

    def assert_ended(self, login: Login) -> str:
        error = self.assert_envelope(self.ask("/ui/session", login=login), 401, open_to_all=False)
        return str(error["message"])


class SessionTests(LoginTestCase):
    def test_a_key_becomes_a_cookie_that_no_script_and_no_other_site_gets(self) -> None:
        answer = self.ask("/ui/login", "POST", {"key": self.secrets["boss"]}, Origin=OWN)
        name, *attributes = answer.headers["Set-Cookie"].split("; ")
        self.assertRegex(name, r"\Allamagw_session=[A-Za-z0-9_-]{43}\Z")
        wanted = {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=604800"}
        self.assertEqual(set(attributes), wanted)
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        self.assertIsNone(answer.headers["Location"], "it leads nowhere")

    def test_it_is_for_tls_alone_where_the_page_came_by_tls_to_a_proxy_too(self) -> None:
        body = {"key": self.secrets["boss"]}
        answer = self.ask("/ui/login", "POST", body, Origin="https://gateway")
        self.assertIn("Secure", answer.headers["Set-Cookie"].split("; "))
        client = self.bench.client()
        alsoProvides(client, ISSLTransport)
        client.says(request(body, "/ui/login"))
        self.bench.settle()
        [answer] = answers(bytes(client.heard))
        self.assertIn("Secure", answer.headers["Set-Cookie"].split("; "))

    def test_it_is_told_who_it_is_and_what_it_may_do(self) -> None:
        login = self.begin("some")
        answer = self.ask("/ui/session", login=login)
        self.assertEqual(answer.headers["Cache-Control"], "no-store")
        told = answer.json()
        self.assertGreater(len(told.pop("csrf")), 40)
        self.assertEqual(
            told, {"name": "some", "scopes": ["infer", "observe"], "models": ["small"]}
        )
        # A key is told the same of itself, and needs no CSRF token.
        by_key = self.ask("/ui/session", x_api_key=self.secrets["some"]).json()
        self.assertEqual(by_key, {**told, "csrf": None})

    def test_where_there_are_no_keys_anybody_may_do_all_and_nobody_logs_in(self) -> None:
        self.bench.site.connections.gate = None
        told = self.ask("/ui/session").json()
        scopes = ["infer", "manage", "observe"]
        self.assertEqual(told, {"name": None, "scopes": scopes, "models": ["*"], "csrf": None})
        error = self.assert_envelope(
            self.ask("/ui/login", "POST", {"key": "x"}), 400, open_to_all=False
        )
        self.assertIn("no API keys", error["message"])

    def test_it_may_do_what_its_key_may_and_no_more(self) -> None:
        boss, user, some = (self.begin(name) for name in ("boss", "user", "some"))
        load = {"model": "small"}
        self.assertEqual(self.ask("/models/load", "POST", load, boss).status, 200)
        for login in (user, some):
            answer = self.ask("/models/load", "POST", load, login)
            error = self.assert_envelope(answer, 403, open_to_all=False)
            self.assertEqual(error["code"], "not_permitted")
        self.assertEqual(self.ask("/activity", login=user).status, 403)
        self.assertEqual(self.ask("/activity", login=some).status, 200)
        names = [entry["id"] for entry in self.ask("/models", login=some).json()["data"]]
        self.assertEqual(names, ["small"])
        self.assertEqual(
            [one["id"] for one in self.ask("/health", login=some).json()["models"]], ["small"]
        )
        self.assertEqual(self.ask("/models/sse", login=some).status, 403)

    def test_a_model_is_used_by_it_and_the_engine_sees_neither_cookie_nor_token(self) -> None:
        login = self.begin("user")
        self.ask("/v1/chat/completions", "POST", CHAT, login, Origin=OWN)
        backend = self.bench.backend()
        _, headers, _ = head_and_body(backend.heard)
        self.assertFalse({"cookie", "x-csrf-token"} & set(headers))
        backend.says(response(b"<script>", headers=[("Content-Type", "text/html")]))
        self.bench.settle()
        [answer] = answers(bytes(self.client.heard), "POST")
        # A page of an engine's would have this origin, and its scripts the session.
        self.assertEqual(answer.headers["Content-Security-Policy"], "sandbox")

    def test_an_engine_s_own_pages_are_not_opened_by_it(self) -> None:
        login = self.begin("boss")
        for path in ("/upstream/small/", "/%75pstream/small/"):
            answer = self.ask(path, login=login)
            error = self.assert_envelope(answer, 403, open_to_all=False)
            self.assertIn("engine's own pages", error["message"])
        self.assertEqual(self.bench.connects, 0)
        self.ask("/upstream/small/", x_api_key=self.secrets["boss"])
        self.assertEqual(self.bench.connects, 1)

    def test_a_key_counts_and_not_the_cookie_beside_it(self) -> None:
        boss = self.begin("boss")
        key = self.secrets["user"]
        told = self.ask("/ui/session", login=boss, authorization=f"Bearer {key}").json()
        self.assertEqual((told["name"], told["csrf"]), ("user", None))
        load = {"model": "small"}
        answer = self.ask("/models/load", "POST", load, boss, authorization=f"Bearer {key}")
        self.assertEqual(answer.status, 403)
        answer = self.ask("/ui/session", login=boss, x_api_key=WRONG)
        self.assert_envelope(answer, 401, open_to_all=False)

    def test_who_logs_out_is_out_and_so_is_the_browser_s_cookie(self) -> None:
        login, other = self.begin(), self.begin()
        answer = self.ask("/ui/logout", "POST", b"", login)
        self.assertEqual(answer.status, 204)
        self.assertTrue(answer.headers["Set-Cookie"].startswith("llamagw_session=; Max-Age=0; "))
        self.assertIn("log in again", self.assert_ended(login))
        self.assertEqual(self.ask("/ui/session", login=other).status, 200)

    def test_who_logs_in_again_has_another_session_and_the_first_ends(self) -> None:
        first = self.begin()
        second = self.begin("user", Cookie=first.cookie)
        self.assertNotEqual(first.cookie, second.cookie)
        self.assert_ended(first)

    def test_a_cookie_of_no_session_is_none_and_costs_its_address_nothing(self) -> None:
        for _ in range(2 * FREE):
            self.assert_ended(Login("llamagw_session=" + "x" * 43, ""))
        self.assertEqual(self.ask("/models", x_api_key=WRONG).status, 401, "at once")

    def test_after_twelve_hours_unused_it_has_ended(self) -> None:
        login = self.begin()
        self.bench.reactor.advance(12 * 3600)
        self.assert_ended(login)


class KeyOfASessionTests(LoginTestCase):
    """A session lives no longer than its key."""

    def test_a_key_that_is_disabled_ends_its_sessions(self) -> None:
        boss, user = self.begin("boss"), self.begin("user")
        self.entries["boss"] = self.entry("boss", enabled=False)
        self.know()
        self.assertIn("`boss` is disabled", self.assert_ended(boss))
        self.assertEqual(self.ask("/ui/session", login=user).status, 200)
        self.entries["boss"] = self.entry("boss")
        self.know()
        self.assertIn("log in again", self.assert_ended(boss), "it does not come back")

    def test_a_key_that_is_removed_ends_its_sessions(self) -> None:
        login = self.begin()
        del self.entries["boss"]
        self.know()
        self.assertIn("not valid any more", self.assert_ended(login))
        self.assertEqual(len(self.gate.sessions), 0)

    def test_a_key_that_expires_ends_its_sessions(self) -> None:
        self.entries["boss"] = self.entry("boss", expires="2027-01-16")
        self.know()
        login = self.begin()
        self.now += 2 * 86400
        self.assertIn("has expired", self.assert_ended(login))

    def test_a_secret_that_is_replaced_ends_its_sessions_when_the_overlap_is_over(self) -> None:
        login = self.begin()
        old = self.entries["boss"].hash
        new = digest_of(new_secret().encode())
        self.entries["boss"] = self.entry("boss", hash=new, old_hash=old, old_expires="2027-01-16")
        self.know()
        self.assertEqual(self.ask("/ui/session", login=login).status, 200)
        self.now += 2 * 86400
        self.assertIn("was replaced by a new one", self.assert_ended(login))

    def test_its_rights_are_those_that_its_key_has_now(self) -> None:
        login = self.begin()
        self.entries["boss"] = self.entry("boss", scopes=["infer"])
        self.know()
        self.assertEqual(self.ask("/models/load", "POST", {"model": "small"}, login).status, 403)

    def test_where_keys_are_wanted_no_more_a_cookie_is_nothing(self) -> None:
        login = self.begin()
        self.bench.site.connections.gate = None
        self.assertEqual(self.ask("/models", login=login).status, 200)


class WrongKeyTests(LoginTestCase):
    def test_a_wrong_key_gets_the_words_that_it_gets_elsewhere(self) -> None:
        for key in (WRONG, "sk-1", "", "\u00fc" * 500, self.secrets["boss"][:-1]):
            answer = self.ask("/ui/login", "POST", {"key": key}, Origin=OWN)
            error = self.assert_envelope(answer, 401, open_to_all=False)
            self.assertIn("API key", error["message"])
            self.assertIsNone(answer.headers["Set-Cookie"])
        self.assertEqual(len(self.gate.sessions), 0)

    def test_who_tries_many_is_answered_late(self) -> None:
        for _ in range(FREE):
            self.assertEqual(self.ask("/ui/login", "POST", {"key": WRONG}).status, 401)
        for _ in range(40):
            self.assertEqual(self.ask("/ui/login", "POST", {"key": WRONG}).status, 0, "not yet")
        self.bench.reactor.advance(LATEST - EACH / 2)
        self.assertEqual(bytes(self.client.heard), b"")
        self.bench.reactor.advance(EACH)
        self.assertEqual(answers(bytes(self.client.heard))[0].status, 401)
        # Somebody who has the key is not.
        self.begin()

    def test_who_leaves_while_it_is_late_leaves_nothing_behind(self) -> None:
        for _ in range(FREE + 1):
            self.ask("/ui/login", "POST", {"key": WRONG})
        self.client.hangs_up()
        self.bench.settle()
        self.bench.reactor.advance(LATEST)
        self.flushLoggedErrors()
        self.assertEqual(bytes(self.client.heard), b"")

    def test_a_body_that_is_no_login_is_told_what_it_should_be(self) -> None:
        for body in (b"", b"[]", b'{"key": 1}', b"\xff", b'{"key"', b"[" * 4000, b"{}"):
            answer = self.ask("/ui/login", "POST", body)
            error = self.assert_envelope(answer, 400, open_to_all=False)
            self.assertIn('{"key": "lgw_…"}', error["message"])

    def test_nobody_sends_a_long_body_without_a_key_and_elsewhere_none(self) -> None:
        head = request(None, "/ui/login", "POST", [("Content-Length", str(WITHOUT_KEY + 1))])
        [answer] = self.bench.asks(head)
        error = self.assert_envelope(answer, 413, open_to_all=False)
        self.assertIn(f"over {WITHOUT_KEY} bytes", error["message"])
        chunk = b"fff\r\n" + b" " * 0xFFF + b"\r\n"
        head = request(None, "/ui/login", "POST", [("Transfer-Encoding", "chunked")])
        [answer] = self.bench.asks(head + chunk + chunk)
        self.assert_envelope(answer, 413, open_to_all=False)
        for path in ("/ui/", "/ui/login/", "/health"):
            self.assertEqual(self.ask(path, "POST", b"{}").status, 401, path)
        # With one it may be as long as elsewhere.
        key = [("X-API-Key", self.secrets["user"]), ("Content-Length", str(WITHOUT_KEY + 1))]
        client = self.bench.client(request(None, "/v1/chat/completions", "POST", key))
        self.bench.settle()
        self.assertEqual(bytes(client.heard), b"")


#: From where a browser's request comes: its name, the headers that say so, and whether a session's
#: cookie counts with it.
FROM: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("a fetch of the dashboard", {"Origin": OWN, "Sec_Fetch_Site": "same-origin"}, True),
    ("its GET, which has no origin", {"Sec_Fetch_Site": "same-origin"}, True),
    ("its fetch where there is no TLS", {"Origin": OWN}, True),
    ("its GET where there is no TLS, or a program", {}, True),
    ("an address that was typed", {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"}, True),
    ("no page, and no navigation", {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "cors"}, False),
    ("no page, and no mode", {"Sec_Fetch_Site": "none"}, False),
    ("another origin", {"Origin": EVIL}, False),
    (
        "another origin, told",
        {"Origin": EVIL, "Sec_Fetch_Site": "cross-site"},
        False,
    ),
    ("an origin that cors_origins lists", {"Origin": LISTED}, False),
    ("a page without an origin", {"Origin": "null"}, False),
    ("another port of the host", {"Origin": "http://gateway:81"}, False),
    ("another port, same site", {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"}, False),
    (
        "an image elsewhere",
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Dest": "image"},
        False,
    ),
    (
        "a link elsewhere",
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
        False,
    ),
    ("a host that ends alike", {"Origin": "http://evil-gateway"}, False),
    ("two origins", {"Origin": f"{OWN}, {OWN}"}, False),
    ("an origin that is none", {"Origin": "gateway"}, False),
    ("a file", {"Origin": "file://"}, False),
    ("own origin, said of another site", {"Origin": OWN, "Sec_Fetch_Site": "cross-site"}, False),
)

#: What is asked with a session: method, path, body; each changes something or tells something.
ASKED: tuple[tuple[str, str, object], ...] = (
    ("GET", "/ui/session", None),
    ("GET", "/models", None),
    ("GET", "/v1/models", None),
    ("GET", "/activity", None),
    ("GET", "/config", None),
    ("GET", "/history", None),
    ("GET", "/models/logs?model=small", None),
    ("GET", "/metrics", None),
    ("POST", "/models/unload", {"model": "org/big"}),
    ("POST", "/models/pin", {"model": "small"}),
    ("POST", "/activity/x/cancel", {}),
    ("POST", "/config/check", b""),
    ("POST", "/v1/embeddings", b"[]"),
    ("POST", "/ui/logout", b""),
)


class OriginTests(LoginTestCase):
    """From which pages a cookie counts; the CSRF token is right."""

    def test_a_cookie_counts_from_the_gateway_s_own_pages_alone(self) -> None:
        for where, headers, counts in FROM:
            for method, path, body in ASKED:
                login = self.begin()
                answer = self.ask(path, method, body, login, **headers)
                refused = answer.status == 403 and answer.json()["error"]["code"] == "not_allowed"
                self.assertEqual(refused, not counts, (where, path, answer))
                self.assertNotEqual(answer.status, 401, (where, path))
                if refused and "chat.example" not in str(headers):
                    self.assertIsNone(answer.headers["Access-Control-Allow-Credentials"])

    def test_another_page_that_sends_the_cookie_is_told_no_more_than_anybody(self) -> None:
        login = self.begin()
        for path in ("/health", "/v1/health"):
            answer = self.ask(path, login=login, Origin=EVIL)
            self.assertEqual(answer.json(), {"status": "ok"})
        link: Any = {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "navigate"}
        self.assertEqual(self.ask("/ui/", login=login, **link).status, 200)

    def test_nobody_is_logged_in_by_another_page(self) -> None:
        for where, headers, counts in FROM:
            answer = self.ask("/ui/login", "POST", {"key": self.secrets["user"]}, **headers)
            self.assertEqual(answer.status, 204 if counts else 403, where)
            self.assertEqual(answer.headers["Set-Cookie"] is not None, counts, where)

    def test_on_loopback_a_host_that_may_have_been_rebound_has_no_session(self) -> None:
        login = self.begin()
        self.bench.site.connections.loopback = True
        for path in ("/models", "/ui/session"):
            self.assertEqual(self.ask(path, login=login, Origin=OWN).status, 403)
        answer = self.ask("/ui/login", "POST", {"key": self.secrets["user"]}, Origin=OWN)
        self.assertEqual(answer.status, 403)


class CsrfTests(LoginTestCase):
    """What changes something wants the session's token as well; the origin is right."""

    def test_what_changes_something_wants_the_session_s_token(self) -> None:
        login, other = self.begin(), self.begin()
        wrong: tuple[dict[str, Any], ...] = (
            {},
            {"X_CSRF_Token": ""},
            {"X_CSRF_Token": "x"},
            {"X_CSRF_Token": other.csrf},
            {"X_CSRF_Token": login.csrf[:-1]},
            {"X_CSRF_Token": login.cookie.partition("=")[2]},
            {"X_CSRF_Token": f"{login.csrf}, {login.csrf}"},
            {"Cookie": f"X-CSRF-Token={login.csrf}; csrf={login.csrf}"},
        )
        for method, path, body in ASKED:
            if method == "GET":
                continue
            for headers in wrong:
                answer = self.ask(path, method, body, login, csrf=False, Origin=OWN, **headers)
                self.assertEqual(answer.status, 403, (path, headers))
                self.assertIn("X-CSRF-Token", answer.json()["error"]["message"])
        self.assertEqual(self.bench.dispatcher.orders, [])
        self.assertEqual(self.ask("/ui/session", login=login).status, 200, "not logged out")

    def test_so_does_every_method_but_get_and_head(self) -> None:
        login = self.begin()
        for method in ("POST", "PUT", "PATCH", "DELETE", "BREW"):
            answer = self.ask("/models", method, b"", login, csrf=False)
            self.assertEqual(answer.status, 403, method)
            self.assertEqual(self.ask("/models", method, b"", login).status, 405, method)
        for method in ("GET", "HEAD"):
            self.assertEqual(self.ask("/models", method, None, login).status, 200, method)

    def test_a_key_needs_no_token(self) -> None:
        key: Any = {"authorization": f"Bearer {self.secrets['boss']}"}
        answer = self.ask("/models/pin", "POST", {"model": "small"}, **key)
        self.assertEqual(answer.status, 200)

    def test_it_is_refused_before_its_body_is_read(self) -> None:
        login = self.begin()
        head = [("Cookie", login.cookie), ("Content-Length", "1000000")]
        [answer] = self.bench.asks(request(None, "/v1/chat/completions", "POST", head))
        self.assertEqual(answer.status, 403)


class OpenPathTests(LoginTestCase):
    """What is there without a key, and what only looks so."""

    def test_the_dashboard_s_files_are_and_what_a_session_is_told_is_not(self) -> None:
        for path in ("/ui/", "/ui/app.js", "/ui/login.js", "/web/icon.svg"):
            answer = self.ask(path)
            self.assertEqual(answer.status, 200, path)
            self.assertIn("frame-ancestors 'none'", answer.headers["Content-Security-Policy"])
        for path in ("/ui/session", "/ui/%73ession", "/models", "/config", "/activity"):
            self.assertEqual(self.ask(path).status, 401, path)
        self.assertEqual(self.ask("/ui/logout", "POST", b"").status, 401)
        for path in ("/ui//session", "/ui/./session", "/ui/x/../session", "/ui/session/"):
            self.assertEqual(self.ask(path).status, 404, path)
