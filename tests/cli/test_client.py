"""Promises of llamagw.cli.client: the key goes to the gateway, and nowhere else."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from llamagw.cli.client import KEY_VARIABLE
from llamagw.cli.main import cli

SAID = "This server wants an API key."


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers a key with an empty list, and its absence as the gateway does."""

    sent: list[str | None]

    def do_GET(self) -> None:
        self.sent.append(self.headers.get("Authorization"))
        good = self.sent[-1] == "Bearer lgw_good"
        told: dict[str, object] = (
            {"data": []} if good else {"error": {"message": SAID, "code": "invalid_api_key"}}
        )
        data = json.dumps(told).encode()
        self.send_response(200 if good else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """What a gateway got for keys."""
    found: list[str | None] = []
    handler = type("Handler", (_Handler,), {"sent": found})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setenv("LLAMAGW_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def ps(status: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["ps", "--json"])
    assert done.exit_code == status, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


@pytest.mark.parametrize("value", ["lgw_good", "lgw_good\n", " lgw_good "])
def test_the_key_is_taken_from_the_environment(
    sent: list[str | None], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, value)
    ps()
    assert sent == ["Bearer lgw_good"]


@pytest.mark.parametrize("value", [None, "", "\n"])
def test_without_one_none_is_sent_and_where_it_is_taken_from_is_said(
    sent: list[str | None], monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv(KEY_VARIABLE, value)
    said = ps(status=1).stderr
    assert sent == [None]
    assert (
        said == f"Error: {SAID} The environment variable {KEY_VARIABLE} gives it to this command.\n"
    )


def test_of_one_that_is_not_taken_it_is_said_where_it_came_from(
    sent: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "lgw_bad")
    said = ps(status=1).stderr
    assert f"The environment variable {KEY_VARIABLE} has the one that was sent." in said
    assert "lgw_bad" not in said


@pytest.mark.parametrize("value", ["lgw_a\r\nX-Evil: 1", "lgw_\u20ac", "lgw_\x1b[31m", "lgw_\xfc"])
def test_one_that_no_header_can_have_is_told_and_neither_sent_nor_shown(
    sent: list[str | None], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, value)
    done = ps(status=1)
    assert done.stderr == (
        f"Error: the environment variable {KEY_VARIABLE} has no API key: they begin with lgw_\n"
    )
    assert value not in done.output
    assert sent == []
