"""A web page has no more rights with keys than it had without, and no page leads away."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest

from tests.abuse.attacked import Attacked, bearer, line, raw
from tests.support.messages import CHAT, Answer, head_and_body, request, response

EVIL = "https://evil.example"
BROWSER = ("Accept", "text/html,application/xhtml+xml")


@pytest.fixture(scope="module")
def attacked() -> Attacked:
    return Attacked()


#: Orders, as a page of another origin can have a browser send them, with the user's key or without.
FORGED: dict[str, list[tuple[str, str]]] = {
    "from another origin": [("Origin", EVIL)],
    "from no origin": [("Origin", "null")],
    "from the same host by another scheme": [("Origin", "ftp://gateway")],
    "from another port": [("Origin", "http://gateway:81")],
    "from a host that begins alike": [("Origin", "http://gateway.evil.example")],
    "from two origins": [("Origin", "http://gateway"), ("Origin", EVIL)],
    "from a frame": [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")],
    "from an image": [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", "image")],
    "from a form": [
        ("Origin", EVIL),
        ("Content-Type", "text/plain"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
    ],
    "from a sister site": [("Sec-Fetch-Site", "same-site"), ("Sec-Fetch-Mode", "cors")],
}

ORDERS = ("/models/load", "/models/unload", "/models/pin", "/config/reload", "/activity/x/cancel")


@pytest.mark.parametrize("case", FORGED)
def test_an_order_of_another_s_page_is_refused_with_a_valid_key(
    attacked: Attacked, case: str
) -> None:
    for path in ORDERS:
        headers = [bearer(attacked.admin), *FORGED[case]]
        attempt = attacked.attempt(request({"model": "mine"}, path, headers=headers))
        assert (attempt.status, attempt.orders) == (403, [])
        [answer] = attempt.answers
        assert answer.json()["error"]["code"] == "not_allowed"
        assert answer.headers["Access-Control-Allow-Origin"] is None


@pytest.mark.parametrize("case", FORGED)
def test_without_a_key_it_does_not_learn_that_much(attacked: Attacked, case: str) -> None:
    for path in ORDERS:
        attempt = attacked.attempt(request({"model": "mine"}, path, headers=FORGED[case]))
        assert (attempt.status, attempt.orders) == (401, [])
        assert attempt.answers[0].headers["Access-Control-Allow-Origin"] is None


def test_a_cookie_is_no_key(attacked: Attacked) -> None:
    for cookie in (f"key={attacked.admin}", f"Authorization=Bearer {attacked.admin}", "session=x"):
        order = request({"model": "mine"}, "/models/load", headers=[("Cookie", cookie)])
        attempt = attacked.attempt(order)
        assert (attempt.status, attempt.orders) == (401, [])


def test_basic_is_not_offered_so_that_no_browser_asks_and_remembers(attacked: Attacked) -> None:
    attempt = attacked.attempt(request(path="/models", headers=[BROWSER]))
    assert attempt.answers[0].headers["WWW-Authenticate"] == 'Bearer realm="llamagw"'


def test_a_browser_s_question_before_it_needs_no_key_and_opens_nothing(attacked: Attacked) -> None:
    def asked(path: str, method: str) -> Answer:
        headers = [("Origin", EVIL), ("Access-Control-Request-Method", method)]
        headers.append(("Access-Control-Request-Headers", "authorization"))
        data = request(path=path, method="OPTIONS", headers=headers)
        [answer] = attacked.attempt(data, methods=("OPTIONS",)).answers
        return answer

    allowed = asked(CHAT, "POST")
    assert (allowed.status, allowed.headers["Access-Control-Allow-Headers"]) == (
        204,
        "authorization",
    )
    for path in (*ORDERS, "//models/load", "/%2fmodels/load"):
        assert asked(path, "POST").status == 403


@pytest.mark.parametrize(
    "target",
    [
        b"//evil.example",
        b"//evil.example/%2e%2e",
        b"///evil.example",
        b"/\\evil.example",
        b"/%5cevil.example",
        b"/%2f%2fevil.example",
        b"/ui",
        b"//ui",
        b"/ui//evil.example",
        b"/ui/..//evil.example",
        b"/",
        b"//",
        b"//evil.example/..",
        b"/upstream/mine",
        b"/upstream/https:%2f%2fevil.example",
        b"/upstream//evil.example",
        b"/upstream/mine?//evil.example",
        b"/v1/models//evil.example",
        b"/models/%0d%0aLocation:%20https://evil.example",
        b"http://evil.example/ui",
        b"/ui?next=https://evil.example",
        b"/health//evil.example",
    ],
)
def test_no_redirect_leads_to_another_host(attacked: Attacked, target: bytes) -> None:
    lines = line(b"Accept", b"text/html") + line(b"X-Api-Key", attacked.admin.encode())
    attempt = attacked.attempt(raw(target, lines, method=b"GET"))
    for answer in attempt.answers:
        where = answer.headers["Location"]
        if where is not None:
            base = "http://gateway" + target.decode("latin-1").partition("?")[0]
            assert urlsplit(urljoin(base, where)).netloc == "gateway", where
            assert 300 <= answer.status < 400


@pytest.mark.parametrize(
    "target",
    [
        b"/ui/../../README.md",
        b"/ui/..%2f..%2fREADME.md",
        b"/ui/%2e%2e/pages.py",
        b"/ui/..%2fpages.py",
        b"/ui/..%5cpages.py",
        b"/ui/....//pages.py",
        b"/ui/%252e%252e%252fpages.py",
        b"/ui/%c0%ae%c0%ae/pages.py",
        b"/ui/index.html",
        b"/ui/app.js%00.css",
        b"/ui/app.js/",
        b"/ui/APP.JS",
        b"/ui/.",
        b"/ui/..",
        b"/ui//etc/passwd",
        b"/ui/%2fetc%2fpasswd",
        b"/ui/C:%5cWindows%5cwin.ini",
        b"/ui/file:%2f%2f%2fetc%2fpasswd",
        b"/web/../pages.py",
        b"/web/..%2fpages.py",
        b"/web/pages.py",
        b"/web/__init__.py",
        b"/web/ui",
        b"/web/ui%2fapp.js",
        b"/web/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        b"/web/*",
        b"/web/",
    ],
)
def test_no_file_but_the_pages_own_is_sent(attacked: Attacked, target: bytes) -> None:
    attempt = attacked.attempt(raw(target, method=b"GET"))
    assert attempt.status in (400, 404)
    for text in (b"import", b"root:", b"# llamagw", b"<script"):
        assert text not in attempt.heard


def test_the_pages_themselves_are_there_for_who_has_no_key_yet(attacked: Attacked) -> None:
    for target in ("/ui/", "/ui/app.js", "/web/icon.svg"):
        attempt = attacked.attempt(request(path=target, headers=[BROWSER]))
        assert attempt.status == 200, target
        for text in (b"org/secret", b"keyed"):
            assert text not in attempt.heard
    headers = attacked.attempt(request(path="/ui/", headers=[BROWSER])).answers[0].headers
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_a_slot_s_file_stays_in_its_folder() -> None:
    """What the file is called is the engine's to check; it gets it as it was sent."""
    attacked = Attacked()
    body = b'{"filename": "../../etc/passwd"}'
    key = line(b"X-Api-Key", attacked.boss.encode())
    target = b"/slots/0?model=mine&action=save"
    assert (
        attacked.attempt(raw(target, line(b"X-Api-Key", attacked.alice.encode()), body)).status
        == 403
    )
    attacked.attempt(raw(target, key, body))
    first, _, sent = head_and_body(attacked.bench.backend().heard)
    assert (first, sent) == ("POST /slots/0?model=mine&action=save HTTP/1.1", body)
    for odd in (b"/slots/..%2f..?model=mine&action=save", b"/slots/0%2f..?model=mine&action=save"):
        attempt = attacked.attempt(raw(odd, key, body))
        assert attempt.status in (400, 404)
        assert attempt.sent == []


def test_what_an_engine_says_to_a_browser_is_no_page_of_the_gateway_s() -> None:
    attacked = Attacked()
    client = attacked.bench.client(
        request(path="/upstream/mine/x", headers=[bearer(attacked.boss), ("Cookie", "a=b")])
    )
    backend = attacked.bench.backend()
    assert b"Cookie" not in backend.heard
    backend.says(response(b"<script>", headers=[("Set-Cookie", "a=c"), ("Refresh", "0; url=x")]))
    attacked.bench.settle()
    assert b"Set-Cookie" not in client.heard
