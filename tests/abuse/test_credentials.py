"""Who has no valid key gets nowhere, in whatever way it is not valid."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from llamagw.dialects import OWN, ROUTES, Scope
from llamagw.gate import Keyring, digest_of, new_secret
from tests.abuse.attacked import NOW, SCOPES, Attacked, bearer, line, raw
from tests.support.keys import STRANGE, Secrets
from tests.support.messages import CHAT, request

BODY = b'{"model": "mine"}'
CHAT_PATH = CHAT.encode()


@pytest.fixture(scope="module")
def attacked() -> Attacked:
    return Attacked()


def _auth(value: bytes) -> bytes:
    return line(b"Authorization", value)


def _flip(secret: str, at: int) -> bytes:
    other = "A" if secret[at] != "A" else "B"
    return (secret[:at] + other + secret[at + 1 :]).encode()


#: Heads without a valid key, made with one that is valid.
NONE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda key: b"",
    "an empty bearer": lambda key: _auth(b"Bearer "),
    "a bearer without anything": lambda key: _auth(b"Bearer"),
    "an empty x-api-key": lambda key: line(b"X-Api-Key", b""),
    "blanks": lambda key: line(b"X-Api-Key", b" \t "),
    "without a scheme": lambda key: _auth(key),
    "another scheme": lambda key: _auth(b"Token " + key),
    "Basic, as the user": lambda key: _auth(b"Basic " + base64.b64encode(key + b":")),
    "Basic, as the password": lambda key: _auth(b"Basic " + base64.b64encode(b"x:" + key)),
    "a tab after the scheme": lambda key: _auth(b"Bearer\t" + key),
    "no blank after the scheme": lambda key: _auth(b"Bearer" + key),
    "Bearer in full width": lambda key: _auth("Ｂearer ".encode() + key),
    "Proxy-Authorization": lambda key: line(b"Proxy-Authorization", b"Bearer " + key),
    "X-Forwarded-Authorization": lambda key: line(b"X-Forwarded-Authorization", b"Bearer " + key),
    "X_Api_Key": lambda key: line(b"X_Api_Key", key),
    "a cookie": lambda key: line(b"Cookie", b"api-key=" + key),
    "a WebSocket's protocol": lambda key: line(b"Sec-WebSocket-Protocol", b"bearer, " + key),
    "a wrong one": lambda key: _auth(b"Bearer " + STRANGE.encode()),
    "a near miss at the beginning": lambda key: _auth(b"Bearer " + _flip(key.decode(), 4)),
    "a near miss in the middle": lambda key: _auth(b"Bearer " + _flip(key.decode(), 25)),
    "a near miss in the sum": lambda key: _auth(b"Bearer " + _flip(key.decode(), 52)),
    "all but the last character": lambda key: _auth(b"Bearer " + key[:-1]),
    "one character more": lambda key: _auth(b"Bearer " + key + b"A"),
    "twice in a row": lambda key: _auth(b"Bearer " + key + key),
    "the scheme twice": lambda key: _auth(b"Bearer Bearer " + key),
    "in capitals": lambda key: _auth(b"Bearer " + key.upper()),
    "in small letters": lambda key: _auth(b"Bearer " + key.lower()),
    "without the prefix": lambda key: _auth(b"Bearer " + key[4:]),
    "in quotes": lambda key: _auth(b'Bearer "' + key + b'"'),
    "with a blank inside": lambda key: _auth(b"Bearer " + key[:20] + b" " + key[20:]),
    "percent-encoded": lambda key: _auth(b"Bearer %6c" + key[1:]),
    "with a comma and another": lambda key: _auth(b"Bearer " + key + b", Bearer x"),
    "its hash": lambda key: _auth(b"Bearer " + digest_of(key).encode()),
    "its hash without sha256:": lambda key: _auth(b"Bearer " + digest_of(key)[7:].encode()),
    "a star": lambda key: _auth(b"Bearer *"),
    "null": lambda key: _auth(b"Bearer null"),
    "OpenAI's": lambda key: _auth(b"Bearer sk-proj-0123456789abcdef"),
    "a JWT without a signature": lambda key: _auth(b"Bearer eyJhbGciOiJub25lIn0.e30."),
    "SQL": lambda key: _auth(b"Bearer ' OR '1'='1"),
    "bytes that are no text": lambda key: _auth(b"Bearer \xff\xfe" + key),
    "257 bytes": lambda key: _auth(b"Bearer " + b"k" * 257),
    "16,000 bytes": lambda key: _auth(b"Bearer " + b"k" * 16_000),
    "two that differ": lambda key: _auth(b"Bearer " + key) + _auth(b"Bearer " + STRANGE.encode()),
    "two that differ, the valid one last": lambda key: (
        _auth(b"Bearer " + STRANGE.encode()) + _auth(b"Bearer " + key)
    ),
    "two that differ, in two headers": lambda key: (
        _auth(b"Bearer " + key) + line(b"X-Api-Key", STRANGE.encode())
    ),
    "two that differ in a trailing dot": lambda key: (
        line(b"X-Api-Key", key) + line(b"Api-Key", key + b".")
    ),
}


@pytest.mark.parametrize("case", NONE)
def test_without_a_valid_key_nothing_is_done(attacked: Attacked, case: str) -> None:
    head = NONE[case](attacked.alice.encode())
    attempt = attacked.attempt(raw(CHAT_PATH, head, BODY))
    assert attempt.status == 401
    assert attempt.answers[0].headers["WWW-Authenticate"].startswith('Bearer realm="llamagw"')
    assert attempt.answers[0].headers["Connection"] == "close"
    assert (attempt.asked, attempt.orders) == ([], [])
    for text in (attacked.alice[4:20], STRANGE[4:20], "mine", "secret"):
        assert text.encode() not in attempt.heard


#: Heads that are no HTTP, with a valid key in them.
BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "a blank before the colon": lambda key: b"X-Api-Key : " + key + b"\r\n",
    "a folded header": lambda key: b"Authorization: Bearer\r\n " + key + b"\r\n",
    "a header folded with a tab": lambda key: b"Authorization: Bearer\r\n\t" + key + b"\r\n",
    "a bare line feed": lambda key: b"X: 1\nX-Api-Key: " + key + b"\r\n",
    "a bare carriage return": lambda key: b"X: 1\rX-Api-Key: " + key + b"\r\n",
    "a zero byte": lambda key: b"X-Api-Key: " + key + b"\0\r\n",
    "an escape": lambda key: b"X-Api-Key: \x1b[0m" + key + b"\r\n",
    "no colon": lambda key: b"X-Api-Key " + key + b"\r\n",
    "a line of a megabyte": lambda key: b"X-Api-Key: " + key + b" " * 2**20 + b"x\r\n",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_head_that_is_no_http_gets_nowhere_with_a_valid_key(
    attacked: Attacked, case: str
) -> None:
    attempt = attacked.attempt(raw(CHAT_PATH, BROKEN[case](attacked.alice.encode()), BODY))
    assert attempt.status == 400
    assert (attempt.asked, attempt.orders) == ([], [])


def test_the_same_with_a_valid_key_is_done(attacked: Attacked) -> None:
    key = attacked.alice.encode()
    for head in (
        _auth(b"Bearer " + key),
        _auth(b"bEARER " + key),
        line(b"X-Api-Key", key),
        line(b"api-key", key),
        _auth(b"Bearer " + key) + line(b"x-api-key", key),
    ):
        attempt = attacked.attempt(raw(CHAT_PATH, head, BODY))
        assert (attempt.answers, attempt.asked) == ([], ["mine", "mine"])


@pytest.mark.parametrize(
    "place", ["?api_key={}", "?key={}", "?access_token={}", "?authorization=Bearer+{}"]
)
def test_a_key_in_the_address_is_none(attacked: Attacked, place: str) -> None:
    """It would stand in logs and histories."""
    target = CHAT_PATH + place.format(attacked.alice).encode()
    assert attacked.attempt(raw(target, b"", BODY)).status == 401


def test_a_key_in_the_trailers_comes_too_late(attacked: Attacked) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT_PATH
    body = b"%x\r\n%b\r\n0\r\nX-Api-Key: %b\r\n\r\n" % (len(BODY), BODY, attacked.alice.encode())
    attempt = attacked.attempt(head + body)
    assert (attempt.status, attempt.asked) == (401, [])


# ---- Keys that were valid -----------------------------------------------------------------------


def _gone(case: str) -> tuple[Attacked, str, str]:
    """A gateway, a secret that was valid, and what is said of it."""
    made = Secrets()
    secret = made.make("alice")
    [entry] = made.entries
    fresh = digest_of(new_secret().encode())
    changed = {
        "expired": replace(entry, expires="2027-06-15"),
        "expired long ago": replace(entry, expires="1970-01-01T00:00:00Z"),
        "expired in another time zone": replace(entry, expires="2027-06-15T01:59:59+02:00"),
        "disabled": replace(entry, enabled=False),
        "rotated out": replace(entry, hash=fresh, old_hash=entry.hash, old_expires="2027-06-14"),
        "rotated twice": replace(entry, hash=fresh),
        "rotated, and disabled in the overlap": replace(
            entry, hash=fresh, old_hash=entry.hash, old_expires="2027-12-31", enabled=False
        ),
        "rotated, and expired in the overlap": replace(
            entry, hash=fresh, old_hash=entry.hash, old_expires="2027-12-31", expires="2027-06-01"
        ),
        "removed": None,
        "that of a key of the same name": replace(entry, hash=fresh),
    }[case]
    attacked = Attacked()
    gate = attacked.bench.site.connections.gate
    assert gate is not None, "the bench was given one"
    gate.keyring = Keyring([] if changed is None else [changed])
    said = "disabled" if "disabled" in case else "expired"
    return attacked, secret, said if case not in UNKNOWN else "does not know that API key"


UNKNOWN = ("rotated twice", "removed", "that of a key of the same name")
WERE = (
    "expired",
    "expired long ago",
    "expired in another time zone",
    "disabled",
    "rotated out",
    "rotated, and disabled in the overlap",
    "rotated, and expired in the overlap",
    *UNKNOWN,
)


@pytest.mark.parametrize("case", WERE)
def test_a_key_that_was_valid_is_none_any_more_and_its_holder_is_told_why(case: str) -> None:
    attacked, secret, said = _gone(case)
    attempt = attacked.attempt(request({"model": "mine"}, headers=[bearer(secret)]))
    assert (attempt.status, attempt.asked) == (401, [])
    assert said in attempt.answers[0].json()["error"]["message"]
    if "rotated out" in case:
        assert "replaced by a new one" in attempt.answers[0].json()["error"]["message"]


def test_a_key_ends_for_the_next_request_of_an_open_connection() -> None:
    attacked = Attacked()
    bench = attacked.bench
    client = bench.client(request(path="/v1/models", headers=[bearer(attacked.alice)]))
    bench.settle()
    gate = bench.site.connections.gate
    assert gate is not None, "the bench was given one"
    gate.keyring = Keyring([])
    client.says(request(path="/v1/models", headers=[bearer(attacked.alice)]))
    bench.settle()
    assert bytes(client.heard).count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 401 " in client.heard


# ---- Each path and each scope -------------------------------------------------------------------


def _paths() -> list[tuple[str, str, Scope]]:
    found = {(m, p): r.scope for r in ROUTES for m in r.methods for p in r.paths}
    found |= {(own.method, own.path): own.scope for own in OWN}
    return [(method, path, scope) for (method, path), scope in found.items()]


#: Where everybody is let in, and what every key may see.
OPEN = {"/", "/health", "/ui/", "/ui/login"}
LISTS = {"/v1/models", "/v1/models/{id}", "/models", "/ui/session", "/ui/logout", "/usage"}


@pytest.fixture(scope="module")
def scoped() -> tuple[Attacked, dict[str, str]]:
    """A gateway with a key for each scope, and one for each pair of them."""
    attacked = Attacked(default_model="mine")
    secrets = {scope: attacked.made.make(scope, scope) for scope in SCOPES}
    secrets |= {
        f"not {lacking}": attacked.made.make(f"not-{lacking}", *(s for s in SCOPES if s != lacking))
        for lacking in SCOPES
    }
    gate = attacked.bench.site.connections.gate
    assert gate is not None, "the bench was given one"
    gate.keyring = attacked.made.keyring()
    return attacked, secrets


@pytest.mark.parametrize(("method", "path", "scope"), _paths())
def test_each_path_is_closed_without_its_scope_and_open_with_it(
    scoped: tuple[Attacked, dict[str, str]], method: str, path: str, scope: Scope
) -> None:
    attacked, secrets = scoped
    target = path.replace("{model}/{rest}", "mine/x").replace("{id}", "1").encode()
    own = scope.name.lower()

    def attempt(secret: str | None) -> int | None:
        """The status; None if it was sent to an engine, or goes on."""
        head = b"" if secret is None else line(b"X-Api-Key", secret.encode())
        made = attacked.attempt(raw(target, head, b"", method.encode()))
        if not made.answers or made.answers[0].headers["Content-Type"] == "text/event-stream":
            return None
        return made.status

    if path not in OPEN:
        assert attempt(None) == 401
        if path not in LISTS:
            for name, secret in secrets.items():
                has = own in name if not name.startswith("not ") else own not in name
                status = attempt(secret)
                assert (status in (401, 403)) is not has, (name, status)
    assert attempt(secrets[own]) not in (401, 403)
    assert attempt(attacked.admin) not in (401, 403)


# ---- Floods -----------------------------------------------------------------------------------


def test_a_flood_of_bad_keys_leaves_nothing_in_memory() -> None:
    attacked = Attacked()
    bench = attacked.bench
    gate = bench.site.connections.gate
    assert gate is not None, "the bench was given one"
    for number in range(5000):
        gate.attempts.failed(f"10.0.{number >> 8}.{number & 255}", bench.reactor.seconds())
    for _ in range(300):
        secret = new_secret()
        bench.client(raw(CHAT_PATH, line(b"X-Api-Key", secret.encode()), b"x" * 1000))
    assert bench.site.connections.bodies.held == 0
    for _ in range(20):
        bench.reactor.advance(1)
    bench.settle()
    assert bench.site.connections.open == set()
    assert repr(gate.attempts) == "<Attempts of 4096 addresses>"
    assert gate.keyring is not None
    assert len(gate.keyring) == 3
    assert (bench.asked, bench.connects) == ([], 0)


def test_a_body_that_never_ends_is_refused_before_its_first_byte() -> None:
    attacked = Attacked()
    bench = attacked.bench
    for framing in (b"Content-Length: 1000000000000\r\n", b"Transfer-Encoding: chunked\r\n"):
        client = bench.client(b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (CHAT_PATH, framing))
        assert client.heard.startswith(b"HTTP/1.1 401 ")
        for _ in range(100):
            client.says(b"1\r\nx\r\n")
            bench.reactor.advance(0.1)
        bench.settle()
        assert not client.connected
    assert bench.site.connections.bodies.held == 0


def test_a_head_that_never_ends_ends_with_the_time_for_a_request() -> None:
    attacked = Attacked()
    client = attacked.bench.client(b"POST %b HTTP/1.1\r\nHost: x\r\n" % CHAT_PATH)
    for number in range(70):
        client.says(b"X-%d: 1\r\n" % number)
        attacked.bench.reactor.advance(1)
    attacked.bench.settle()
    assert client.heard.startswith(b"HTTP/1.1 408 ")


def test_the_day_of_the_attacks_is_one_on_which_the_keys_are_valid() -> None:
    assert NOW > 0
