"""
The table of routes: for each path, where the model's name is, its scope and its dialect.

The resource tree (api/tree.py) and the table of docs/endpoints.md are made from it. Paths that the
gateway answers itself are in `OWN`. Requests are relayed by `llamagw.proxy`.

The paths are those of llama-server (tools/server/README.md of llama.cpp), and of other engines
that speak OpenAI's API.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from llamagw.dialects.anthropic import ANTHROPIC
from llamagw.dialects.base import Dialect
from llamagw.dialects.openai import OPENAI


class Where(Enum):
    """Where a request has its model's name."""

    BODY = "`model` in the JSON body"
    FORM = "the form's field `model`"
    QUERY = "`?model=`"
    PATH = "the path"


class Scope(Enum):
    """
    What a request does with a model, or with the gateway.

    Only `INFER` is open to web pages of other origins (`llamagw.proxy.origins`), and may be sent to
    a remote server with the gateway's own API key.
    """

    INFER = "uses a model, or lists the models"
    OBSERVE = "reads what others do: logs, events, slots, metrics"
    MANAGE = "changes what runs, or reaches the engine itself"


class Route(NamedTuple):
    """
    Paths that are handled alike.

    :ivar methods: the accepted methods; GET includes HEAD
    :ivar paths: with ``{…}`` for a variable part
    :ivar where: where the model's name is
    :ivar what: text for docs/endpoints.md
    :ivar shaped: whether ``set_params``, ``default_params`` and ``strip_params`` apply
    :ivar scope: what the requests do
    :ivar dialect: the API that the paths belong to
    :ivar body: an example of a POST's body, for messages; empty if it needs none
    :ivar operation: ``gen_ai.operation.name`` of OpenTelemetry's conventions; "" if it is none of
        those that they name
    :ivar slot: whether the engine answers it in one of its slots, of which it has so many
    """

    methods: tuple[str, ...]
    paths: tuple[str, ...]
    where: Where
    what: str
    shaped: bool = False
    scope: Scope = Scope.INFER
    dialect: Dialect = OPENAI
    body: str = ""
    operation: str = ""
    slot: bool = False


class Own(NamedTuple):
    """
    A path that the gateway answers itself.

    :ivar what: text for docs/endpoints.md
    """

    method: str
    path: str
    what: str
    scope: Scope = Scope.INFER


#: Examples of bodies.
_MODEL = '{"model": "…"}'
_CHAT = '{"model": "…", "messages": [{"role": "user", "content": "…"}]}'
_MESSAGES = _CHAT.replace('"messages"', '"max_tokens": 100, "messages"')
_PROMPT = '{"model": "…", "prompt": "…"}'
_INPUT = '{"model": "…", "input": "…"}'

GET, POST = ("GET",), ("POST",)
ANY = ("GET", "POST", "PUT", "PATCH", "DELETE")

ROUTES = (
    Route(
        POST,
        ("/v1/chat/completions", "/chat/completions"),
        Where.BODY,
        'chat; `"stream": true` streams',
        shaped=True,
        body=_CHAT,
        operation="chat",
        slot=True,
    ),
    Route(
        POST,
        ("/v1/completions", "/completions", "/completion"),
        Where.BODY,
        'plain completion; `"stream": true` streams',
        shaped=True,
        body=_PROMPT,
        operation="text_completion",
        slot=True,
    ),
    Route(
        POST,
        ("/v1/embeddings", "/embeddings", "/embedding"),
        Where.BODY,
        "embeddings, of a model that is started with `--embeddings`",
        body=_INPUT,
        operation="embeddings",
        slot=True,
    ),
    Route(
        POST,
        ("/v1/responses", "/responses"),
        Where.BODY,
        "OpenAI's Responses API",
        shaped=True,
        body=_INPUT,
        operation="chat",
        slot=True,
    ),
    Route(
        POST,
        ("/v1/messages",),
        Where.BODY,
        "Anthropic's Messages API",
        shaped=True,
        dialect=ANTHROPIC,
        body=_MESSAGES,
        operation="chat",
        slot=True,
    ),
    Route(
        POST,
        ("/v1/messages/count_tokens",),
        Where.BODY,
        "how many tokens a message has",
        dialect=ANTHROPIC,
        body=_CHAT,
    ),
    Route(
        POST,
        (
            "/v1/chat/completions/input_tokens",
            "/chat/completions/input_tokens",
            "/v1/responses/input_tokens",
            "/responses/input_tokens",
        ),
        Where.BODY,
        "how many tokens a request has",
        body='{"model": "…", …}, as for the request itself',
    ),
    Route(
        POST,
        ("/v1/chat/completions/control",),
        Where.BODY,
        "ends the reasoning of a chat that is under way",
        body='{"model": "…", …}',
    ),
    Route(
        POST,
        ("/infill",),
        Where.BODY,
        "fills a gap in code",
        shaped=True,
        body='{"model": "…", "input_prefix": "…", "input_suffix": "…"}',
        operation="text_completion",
        slot=True,
    ),
    Route(
        POST,
        ("/v1/rerank", "/v1/reranking", "/rerank", "/reranking"),
        Where.BODY,
        "orders documents, with a model that is started with `--reranking`",
        body='{"model": "…", "query": "…", "documents": ["…", "…"]}',
        slot=True,
    ),
    Route(
        POST,
        ("/tokenize", "/detokenize", "/apply-template"),
        Where.BODY,
        "text to tokens and back; a chat as the model sees it",
        body='{"model": "…", …} with "content", "tokens" or "messages"',
    ),
    Route(
        POST,
        ("/v1/audio/transcriptions", "/audio/transcriptions"),
        Where.FORM,
        "speech to text",
        body="a form (multipart/form-data) with the fields model and file",
        slot=True,
    ),
    Route(
        POST,
        ("/v1/audio/speech", "/v1/images/generations"),
        Where.BODY,
        "text to speech, text to images: of engines that can (`url:`)",
        body='{"model": "…", …} with "input" or "prompt"',
        slot=True,
    ),
    Route(
        POST,
        ("/v1/images/edits",),
        Where.FORM,
        "changes images: of engines that can (`url:`)",
        body="a form (multipart/form-data) with the fields model, image and prompt",
        slot=True,
    ),
    Route(GET, ("/v1/audio/voices",), Where.QUERY, "voices: of engines that have them (`url:`)"),
    Route(GET, ("/props",), Where.QUERY, "the engine's properties"),
    Route(
        GET,
        ("/slots",),
        Where.QUERY,
        "the engine's slots",
        scope=Scope.OBSERVE,
    ),
    Route(
        GET,
        ("/metrics",),
        Where.QUERY,
        "with `?model=`: the engine's metrics",
        scope=Scope.OBSERVE,
    ),
    Route(
        POST,
        ("/props",),
        Where.BODY,
        "changes its properties (`--props`)",
        scope=Scope.MANAGE,
        body='{"model": "…", …}',
    ),
    Route(
        POST,
        ("/slots/{id}",),
        Where.QUERY,
        "`?action=save`, `restore` or `erase` a slot (`--slot-save-path`)",
        scope=Scope.MANAGE,
    ),
    Route(
        ("GET", "POST"),
        ("/lora-adapters",),
        Where.QUERY,
        "LoRA adapters and their scales",
        scope=Scope.MANAGE,
    ),
    Route(
        ANY,
        ("/upstream/{model}/{rest}",),
        Where.PATH,
        "anything else that the engine serves, its web page and WebSockets too",
        scope=Scope.MANAGE,
    ),
)

#: The paths that the gateway answers itself.
OWN = (
    Own("GET", "/", "in a browser: leads to `/ui/`"),
    Own("GET", "/ui/", "the dashboard, for browsers (`ui: false`: none)", Scope.OBSERVE),
    Own(
        "POST",
        "/ui/login",
        '`{"key": …}`: begins a session of the dashboard, and sets its cookie',
        Scope.OBSERVE,
    ),
    Own("POST", "/ui/logout", "ends the session; needs no body", Scope.OBSERVE),
    Own(
        "GET",
        "/ui/session",
        "`name`, `scopes` and `models` of the caller's key; `csrf`, which a session sends as "
        "`X-CSRF-Token` with all but GET",
        Scope.OBSERVE,
    ),
    Own(
        "GET",
        "/v1/models",
        "all models and their aliases, each with its `status`, for clients of either dialect",
    ),
    Own("GET", "/v1/models/{id}", "one of them"),
    Own(
        "GET",
        "/models",
        "the models as llama-server's router tells them, with port or socket, memory, running and "
        "waiting requests",
    ),
    Own(
        "POST",
        "/models/load",
        '`{"model": …}`: loads it; with `"wait": true` answers when it is, with '
        '`"anyway": true` even if it does not fit into the memory that is counted',
        Scope.MANAGE,
    ),
    Own(
        "POST",
        "/models/unload",
        '`{"model": …}`: unloads it when its answers are out; `"force": true` at once',
        Scope.MANAGE,
    ),
    Own(
        "POST",
        "/models/pin",
        '`{"model": …}`: it is not evicted any more, until its configuration changes; with '
        '`"pinned": false` it may be',
        Scope.MANAGE,
    ),
    Own(
        "GET",
        "/metrics",
        "without `model`: of the whole gateway and of the engines that are loaded, for Prometheus",
        Scope.OBSERVE,
    ),
    Own(
        "GET",
        "/activity",
        "the last requests, newest first; `?model=`, `&status=`, `&outcome=`, `&since=` (seconds "
        "since the epoch), `&limit=`",
        Scope.OBSERVE,
    ),
    Own(
        "GET",
        "/activity/sse",
        "what happens to the requests under way: begun, moved on, ended",
        Scope.OBSERVE,
    ),
    Own(
        "GET",
        "/activity/{id}",
        "one request, by its `X-Request-Id`; with what was asked and answered, if `capture` "
        "keeps it",
        Scope.OBSERVE,
    ),
    Own(
        "POST",
        "/activity/{id}/cancel",
        "ends a request that is under way, wherever it is; needs no body",
        Scope.MANAGE,
    ),
    Own(
        "GET",
        "/usage",
        "requests and tokens of each key, by model and day of UTC; `?days=` (30, up to 400), "
        "`&key=`. A key without this scope is told of itself. `limits` are the caller's own",
        Scope.OBSERVE,
    ),
    Own(
        "GET",
        "/history",
        "the last `?minutes=` (15, up to 1440) in numbers for charts: requests, tokens a second, "
        "first byte, queue, memory, swaps, errors",
        Scope.OBSERVE,
    ),
    Own(
        "GET",
        "/config",
        "the configuration in force, where each value comes from, and the text of the file; "
        "without secrets",
        Scope.OBSERVE,
    ),
    Own(
        "POST",
        "/config/check",
        "a configuration's text: what a reload of it would change, or its faults; never applied",
        Scope.MANAGE,
    ),
    Own(
        "POST",
        "/config/reload",
        "reloads the file, and answers when that is done: what has changed, or the faults",
        Scope.MANAGE,
    ),
    Own(
        "GET",
        "/models/sse",
        "an event for each change of a model's state, and one a second while it loads or is waited "
        "for",
        Scope.OBSERVE,
    ),
    Own(
        "GET",
        "/models/logs",
        "`?model=`: its engine's last lines, `&lines=` so many; `&follow=true` goes on; "
        "`?all=true`: of all models, each line with the model's name and a tab before it",
        Scope.OBSERVE,
    ),
    Own(
        "GET",
        "/health",
        "(also `/v1/health`) 200 as long as llamagw serves; version, uptime, and the models in "
        "memory, on their way or failed with port or socket, memory, running and waiting "
        "requests; the machine's memory, and of each device where it is counted. Loads nothing",
    ),
)

#: Methods and paths that may be sent to a remote server with the gateway's own API key.
INFERENCE = frozenset(
    (method, path)
    for route in ROUTES
    if route.scope is Scope.INFER
    for method in route.methods
    for path in route.paths
) | {("GET", "/v1/models"), ("GET", "/health")}

#: The keys of a body that say how many tokens its answer may have, by the paths of those that
#: generate text, as received: one of them does, the first is set where none is given.
LONGEST: Mapping[bytes, tuple[str, ...]] = {
    path.encode(): {
        "/v1/chat/completions": ("max_tokens", "max_completion_tokens"),
        "/v1/responses": ("max_output_tokens",),
    }.get(route.paths[0], ("max_tokens",))
    for route in ROUTES
    if route.shaped
    for path in route.paths
}

#: The paths of requests whose body is text for the model, as received.
TEXTS = frozenset(
    path.encode()
    for route in ROUTES
    if route.slot and route.where is Where.BODY
    for path in route.paths
)

#: The paths of requests that the engine answers in one of its slots, as received.
SLOTTED = frozenset(path.encode() for route in ROUTES if route.slot for path in route.paths)

#: An example of a POST's body, by path.
BODIES = {path: route.body for route in ROUTES if route.body for path in route.paths} | {
    own.path: _MODEL for own in OWN if own.method == "POST" and own.path.startswith("/models/")
}

#: The scope of each method, by path; for paths with a variable part, by what precedes it.
_SCOPES: dict[str, dict[str, Scope]] = {}
for _methods, _path, _scope in (
    *((route.methods, path, route.scope) for route in ROUTES for path in route.paths),
    *(((own.method,), own.path, own.scope) for own in OWN),
):
    for _method in _methods:
        _SCOPES.setdefault(_path.partition("{")[0], {})[_method] = _scope


def scope_of(method: str, path: str) -> Scope:
    """
    The scope of a request by method and path alone, for OPTIONS and for early refusals.

    :param method: in any letters: the resource tree takes "post" for POST
    :param path: decoded
    :return: `Scope.INFER` for an unknown path; for a method that the path does not accept, the
        strictest scope of its methods
    """
    scopes = _SCOPES.get(path) or _SCOPES.get(path[: path.find("/", 1) + 1])
    if scopes is None:
        return Scope.INFER
    known = scopes.get(method)
    if known is not None:
        return known
    method = method.upper()
    known = scopes.get("GET" if method == "HEAD" else method)
    if known is not None:
        return known
    strict = (Scope.MANAGE, Scope.OBSERVE)
    return next((scope for scope in strict if scope in scopes.values()), Scope.INFER)


#: Paths of APIs other than OpenAI's, also recognized after a model's name in ``/upstream/…``.
_OTHERS = [
    (path.encode(), route.dialect)
    for route in ROUTES
    for path in route.paths
    if route.dialect is not OPENAI
]


#: ``gen_ai.operation.name`` of each path that has one, as received, without the query.
OPERATIONS: Mapping[bytes, str] = {
    path.encode(): route.operation for route in ROUTES if route.operation for path in route.paths
}


class _RouteOf(dict[bytes, str | None]):
    """A dict, so that a path without a variable part costs no call."""

    def __missing__(self, path: bytes) -> str | None:
        if path.startswith(b"/upstream/"):
            return "/upstream/{model}/{rest}"
        return "/slots/{id}" if path.startswith(b"/slots/") else None


#: The first path of a path's row in `ROUTES`, by the path as received, without the query; None for
#: paths that no model answers.
ROUTE_OF: Mapping[bytes, str | None] = _RouteOf(
    {path.encode(): route.paths[0] for route in ROUTES for path in route.paths}
)


#: Where who asks only looks at the gateway itself: health checks, scrapes, the dashboard.
_LOOKED_AT = (
    b"/activity",
    b"/config",
    b"/health",
    b"/history",
    b"/metrics",
    b"/models",
    b"/ui",
    b"/usage",
    b"/v1/health",
    b"/web/",
)


def only_looks(method: bytes, path: bytes) -> bool:
    """
    Whether a request only looks at the gateway itself, as programs do every few seconds.

    :param path: as received, without the query
    """
    return method in (b"GET", b"HEAD") and path.startswith(_LOOKED_AT)


def dialect_of(path: bytes) -> Dialect:
    """
    The API in whose format errors are answered at a path.

    :param path: as received, with or without the query; it need only contain one of the API's paths
    """
    return next((dialect for other, dialect in _OTHERS if other in path), OPENAI)
