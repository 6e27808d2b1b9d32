"""The limits of a key as the Python SDKs of OpenAI and Anthropic understand them.

By default both send a request again that got 429: half a second later, or as `Retry-After` says.
The gateway is a real one; its model is a server of this test's own, which answers at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, serving

#: Requests a minute: those that come at once, and the seconds until the next.
LIMIT, SECONDS = 30, 2.0

SECRETS = {name: f"lgw_{secrets.token_urlsafe(32)}" for name in ("openai", "anthropic", "watcher")}
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
OPENAI = {
    **{"id": "1", "object": "chat.completion", "created": 1, "model": "scripted"},
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Paris"}}
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
}
ANTHROPIC = {
    **{"id": "1", "type": "message", "role": "assistant", "model": "scripted"},
    "content": [{"type": "text", "text": "Paris"}],
    **{"stop_reason": "end_turn", "stop_sequence": None},
    "usage": {"input_tokens": 10, "output_tokens": 1},
}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(ANTHROPIC if self.path == "/v1/messages" else OPENAI)

    def do_GET(self) -> None:
        self._say({"status": "ok", "data": []})

    def _say(self, what: Any) -> None:
        data = json.dumps(what).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway whose keys have limits."""
    folder: Path = tmp_path_factory.mktemp("limited")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = [
        {
            "name": name,
            "hash": f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}",
            "scopes": ["observe"] if name == "watcher" else ["infer"],
            "limits": {"requests_per_min": LIMIT},
        }
        for name, secret in SECRETS.items()
    ]
    config = {
        "limit_wait_sec": 0,
        "keys": keys,
        "models": [{"name": "scripted", "url": f"http://127.0.0.1:{server.server_address[1]}"}],
    }
    try:
        with serving(folder, config) as url:
            yield url
    finally:
        server.shutdown()
        server.server_close()


def refusals(url: str, marks: Iterator[int] = count(1)) -> int:  # noqa: B008
    """
    How often the gateway has answered with 429, until now.

    The metrics are the same text for a second: one that is new knows of a wrong key of this call.
    """
    with pytest.raises(urllib.error.HTTPError, match="401"):
        _metrics(url, "wrong")
    mark = next(marks)

    def counted() -> tuple[int, int]:
        text = _metrics(url, SECRETS["watcher"])
        return _refused(text, "invalid_api_key"), _refused(text, "rate_limit_exceeded")

    end = time.monotonic() + DEADLINE
    while (found := counted())[0] < mark:
        assert time.monotonic() < end, "the metrics stay as they were"
    return found[1]


def _metrics(url: str, key: str) -> str:
    ask = urllib.request.Request(f"{url}/metrics", headers={"x-api-key": key})
    with urllib.request.urlopen(ask, timeout=DEADLINE) as answer:
        return str(answer.read().decode())


def _refused(text: str, reason: str) -> int:
    wanted = f'llamagw_refusals_total{{reason="{reason}"}}'
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    return int(sum(float(line.split()[-1]) for line in lines))


def exhaust(ask: Callable[[], Any]) -> tuple[Any, float]:
    """Use all of the limit, and ask once more; returns the raw answer to that, and its seconds."""
    for _ in range(LIMIT):
        answer = ask()
        if answer.retries_taken:
            pytest.fail("the limit was reached too early")
    begun = time.monotonic()
    answer = ask()
    return answer, time.monotonic() - begun


def refusal(kind: type[Exception], ask: Callable[[], Any]) -> Exception:
    """What is raised when the limit is reached again, which is soon."""
    for _ in range(LIMIT):
        try:
            ask()
        except kind as error:
            return error
    return pytest.fail("the limit was not reached")


def test_the_openai_sdk_waits_as_it_is_told(limited: str) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed: `make test-clients`")
    before = refusals(limited)
    with openai.OpenAI(base_url=f"{limited}/v1", api_key=SECRETS["openai"]) as client:
        raw, seconds = exhaust(
            lambda: client.chat.completions.with_raw_response.create(
                model="scripted", messages=QUESTION
            )
        )
        assert raw.parse().choices[0].message.content == "Paris"
        # Once, and not before it was of use: by itself it would have come back twice by then.
        assert (raw.retries_taken, refusals(limited) - before) == (1, 1)
        assert seconds >= SECONDS - 1
        assert raw.headers["x-ratelimit-limit-requests"] == str(LIMIT)
        once = client.with_options(max_retries=0).chat.completions
        refused: Any = refusal(
            openai.RateLimitError, lambda: once.create(model="scripted", messages=QUESTION)
        )
        assert refused.code == "rate_limit_exceeded"
        assert refused.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_the_anthropic_sdk_waits_as_it_is_told(limited: str) -> None:
    reason = "anthropic is not installed: `make test-clients`"
    anthropic = pytest.importorskip("anthropic", reason=reason)
    before = refusals(limited)
    with anthropic.Anthropic(base_url=limited, api_key=SECRETS["anthropic"]) as client:
        raw, seconds = exhaust(
            lambda: client.messages.with_raw_response.create(
                model="scripted", max_tokens=5, messages=QUESTION
            )
        )
        assert raw.parse().content[0].text == "Paris"
        assert (raw.retries_taken, refusals(limited) - before) == (1, 1)
        assert seconds >= SECONDS - 1
        assert raw.headers["anthropic-ratelimit-requests-limit"] == str(LIMIT)
        once = client.with_options(max_retries=0).messages
        refused = refusal(
            anthropic.RateLimitError,
            lambda: once.create(model="scripted", max_tokens=5, messages=QUESTION),
        )
        assert "sends over 30 requests a minute" in str(refused)
