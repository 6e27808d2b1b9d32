"""
The routes of the models: for each path, where the model's name is, and what is asked of it.

The one place that says so: the resource tree (api.py) and the README's table are made from it
(``python -m llamagw.routes`` prints that table). The gateway's own answers are in `OWN`. What is
done with a request is the relay's affair.

The paths are those of llama-server (tools/server/README.md of llama.cpp), and of other engines
that speak OpenAI's API.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Where(Enum):
    """Where a request says which model it is for."""

    BODY = "`model` in the JSON body"
    FORM = "the form's field `model`"
    QUERY = "`?model=`"
    PATH = "the path"


class Route(NamedTuple):
    """
    Some paths that are treated alike.

    :ivar methods: those that are taken; a GET comes with HEAD
    :ivar paths: with ``{…}`` for a part that differs
    :ivar shaped: whether `set_params` and their like apply
    :ivar what: for the table; the first path is the one to be shown
    """

    methods: tuple[str, ...]
    paths: tuple[str, ...]
    where: Where
    what: str
    shaped: bool = False


GET, POST = ("GET",), ("POST",)
ANY = ("GET", "POST", "PUT", "PATCH", "DELETE")

ROUTES = (
    Route(
        POST,
        ("/v1/chat/completions", "/chat/completions"),
        Where.BODY,
        'chat; `"stream": true` streams',
        shaped=True,
    ),
    Route(
        POST,
        ("/v1/completions", "/completions", "/completion"),
        Where.BODY,
        'plain completion; `"stream": true` streams',
        shaped=True,
    ),
    Route(
        POST,
        ("/v1/embeddings", "/embeddings", "/embedding"),
        Where.BODY,
        "embeddings, of a model that is started with `--embeddings`",
    ),
    Route(POST, ("/v1/responses", "/responses"), Where.BODY, "OpenAI's Responses API", shaped=True),
    Route(POST, ("/v1/messages",), Where.BODY, "Anthropic's Messages API", shaped=True),
    Route(
        POST,
        (
            "/v1/messages/count_tokens",
            "/v1/chat/completions/input_tokens",
            "/chat/completions/input_tokens",
            "/v1/responses/input_tokens",
            "/responses/input_tokens",
        ),
        Where.BODY,
        "how many tokens a request has",
    ),
    Route(
        POST,
        ("/v1/chat/completions/control",),
        Where.BODY,
        "ends the reasoning of a chat that is under way",
    ),
    Route(POST, ("/infill",), Where.BODY, "fills a gap in code", shaped=True),
    Route(
        POST,
        ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking"),
        Where.BODY,
        "orders documents, with a model that is started with `--reranking`",
    ),
    Route(
        POST,
        ("/tokenize", "/detokenize", "/apply-template"),
        Where.BODY,
        "text to tokens and back; a chat as the model sees it",
    ),
    Route(
        POST,
        ("/v1/audio/transcriptions", "/audio/transcriptions"),
        Where.FORM,
        "speech to text",
    ),
    Route(
        POST,
        ("/v1/audio/speech", "/v1/images/generations"),
        Where.BODY,
        "text to speech, text to images: of engines that can (`url:`)",
    ),
    Route(POST, ("/v1/images/edits",), Where.FORM, "changes images: of engines that can (`url:`)"),
    Route(GET, ("/v1/audio/voices",), Where.QUERY, "voices: of engines that have them (`url:`)"),
    Route(
        GET,
        ("/props", "/slots", "/metrics"),
        Where.QUERY,
        "the engine's properties, slots, and metrics (`--metrics`)",
    ),
    Route(POST, ("/props",), Where.BODY, "changes its properties (`--props`)"),
    Route(
        POST,
        ("/slots/{id}",),
        Where.QUERY,
        "`?action=save`, `restore` or `erase` a slot (`--slot-save-path`)",
    ),
    Route(("GET", "POST"), ("/lora-adapters",), Where.QUERY, "LoRA adapters and their scales"),
    Route(
        ANY,
        ("/upstream/{model}/{rest}",),
        Where.PATH,
        "anything else that the engine serves, its web page and WebSockets too",
    ),
)

#: What the gateway answers itself: methods, path, and what it is.
OWN = (
    ("GET", "/v1/models", "all models and their aliases, each with its `status`"),
    ("GET", "/v1/models/{id}", "one of them"),
    (
        "GET",
        "/models",
        "the models as llama-server's router tells them, with port, running and waiting requests",
    ),
    ("POST", "/models/load", '`{"model": …}`: loads it; with `"wait": true` answers when it is'),
    (
        "POST",
        "/models/unload",
        '`{"model": …}`: unloads it when its answers are out; `"force": true` at once',
    ),
    ("GET", "/models/sse", "an event for each change of a model's state"),
    (
        "GET",
        "/models/logs",
        "`?model=`: its engine's last lines, `&lines=` so many; `&follow=true` goes on",
    ),
    (
        "GET",
        "/health",
        "(also `/v1/health`) 200 as long as llamagw serves; version, uptime, and the models in "
        "memory or on their way with port, running and waiting requests. Loads nothing",
    ),
)


def table() -> str:
    """The README's table of endpoints, in Markdown."""
    lines = ["| | the model's name is in | |", "|---|---|---|"]
    for route in ROUTES:
        methods = "any method" if route.methods is ANY else ", ".join(route.methods)
        paths = "<br>".join(f"`{path}`" for path in route.paths)
        lines.append(f"| {methods} {paths} | {route.where.value} | {route.what} |")
    for method, path, what in OWN:
        lines.append(f"| {method} `{path}` | | {what} |")
    lines.append("| OPTIONS on any of them | | CORS preflight |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
