"""Promises of llamagw.gate.gate: what a request may do, by its head."""

from __future__ import annotations

import pytest

from llamagw.dialects import OWN, ROUTES, Scope
from llamagw.errors import NotPermitted, Unauthorized
from llamagw.gate import ANYBODY, Caller, Gate
from tests.support.keys import STRANGE, Secrets

SCOPES = ("infer", "observe", "manage")


def admit(gate: Gate, method: str, path: str, secret: str | None = None) -> Caller:
    headers = {} if secret is None else {b"X-Api-Key": [secret.encode()]}
    return gate.admit(method.encode(), path, headers)


def rows() -> list[tuple[str, str, Scope]]:
    """Every method and path that the gateway knows."""
    listed = [(m, p, r.scope) for r in ROUTES for m in r.methods for p in r.paths]
    listed += [(own.method, own.path, own.scope) for own in OWN]
    paths = [(m, p.replace("{model}/{rest}", "m/x").replace("{id}", "1"), s) for m, p, s in listed]
    return [(m, "/models/logs" if p == "/models/logs" else p, s) for m, p, s in paths]


#: Where everybody is let in, and what every key may see.
OPEN = {"/", "/health", "/ui/", "/ui/login"}
LISTS = {"/v1/models", "/v1/models/1", "/models", "/ui/session", "/ui/logout", "/usage"}


def test_without_keys_everybody_may_do_everything() -> None:
    gate = Gate()
    for method, path, _ in rows():
        assert admit(gate, method, path) is ANYBODY
        assert admit(gate, method, path, STRANGE) is ANYBODY


@pytest.mark.parametrize(("method", "path", "scope"), rows())
def test_each_path_wants_a_key_with_its_scope(method: str, path: str, scope: Scope) -> None:
    made = Secrets()
    secrets = {one: made.make(one, one) for one in SCOPES}
    gate = made.gate()
    for one, secret in secrets.items():
        if one == scope.name.lower() or path in OPEN | LISTS:
            assert admit(gate, method, path, secret).name == one
            continue
        with pytest.raises(NotPermitted) as caught:
            admit(gate, method, path, secret)
        assert f"The API key `{one}` lacks the scope `{scope.name.lower()}`" in str(caught.value)
    if path in OPEN:
        assert admit(gate, method, path).scopes == set()
    else:
        with pytest.raises(Unauthorized) as refused:
            admit(gate, method, path)
        assert not refused.value.invalid
    with pytest.raises(Unauthorized) as refused:
        admit(gate, method, path, STRANGE)
    assert refused.value.invalid


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1", "", "*", "/healthy", "/UI/", "//health", "/uis"]
)
def test_an_unknown_path_is_not_told_without_a_key(path: str) -> None:
    gate = Secrets().gate()
    with pytest.raises(Unauthorized):
        admit(gate, "GET", path)


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("HEAD", "/metrics", "observe"),
        ("DELETE", "/models/load", "manage"),
        ("get", "/metrics", "observe"),
        ("PUT", "/activity/1/cancel", "manage"),
        ("post", "/activity/1/cancel", "manage"),
        ("Post", "/models/load", "manage"),
        ("POST", "/activity/1/cancel", "manage"),
        ("BREW", "/upstream/m/x", "manage"),
        ("GET", "/slots/1", "manage"),
    ],
)
def test_a_method_that_a_path_does_not_know_opens_nothing(
    method: str, path: str, scope: str
) -> None:
    made = Secrets()
    secret = made.make("alice", "infer")
    with pytest.raises(NotPermitted, match=f"lacks the scope `{scope}`"):
        admit(made.gate(), method, path, secret)


def test_a_browser_asks_for_leave_before_it_sends_the_key() -> None:
    gate = Secrets().gate()
    assert admit(gate, "OPTIONS", "/v1/models").scopes == set()


def test_a_key_that_has_expired_says_so_and_not_what_it_lacks() -> None:
    made = Secrets()
    secret = made.make("alice", "observe", expires="2027-01-01")
    with pytest.raises(Unauthorized, match="has expired"):
        admit(made.gate(), "POST", "/v1/chat/completions", secret)
