"""
The resource tree: what is at which path, and the gateway's own answers.

Klein routes; every error of its and ours becomes an envelope in one place. Requests for a model are
handed to the relay; the POSTs among them are in `Api.table`, where the server finds them without a
URL match.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from difflib import get_close_matches
from functools import partial, wraps
from typing import Any

import msgspec
from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed
from werkzeug.exceptions import NotFound as WerkzeugNotFound
from werkzeug.routing import RequestRedirect

from llamagw import __version__
from llamagw.api.listing import Described, openai_entries, router_entry
from llamagw.api.manage import Management
from llamagw.config import ModelConfig
from llamagw.dialects import OWN, ROUTES, Route, Scope, Where
from llamagw.errors import (
    SHOWN,
    GatewayError,
    MethodNotAllowed,
    NotAllowed,
    PathNotFound,
)
from llamagw.fleet import Dispatcher, ModelReport
from llamagw.proxy import (
    Reader,
    Relay,
    Request,
    by_body,
    by_form,
    by_path,
    by_query,
    by_shaped_body,
    checked_name,
)
from llamagw.text import harmless

_PATHS = (*(path for route in ROUTES for path in route.paths), *(own.path for own in OWN))


#: Of how many models a list is made in one turn of the reactor: each takes some 15 µs.
MODELS_A_TURN = 500


def _guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler whose answers are not for web pages of other origins."""

    @wraps(handler)
    def guarded(self: Api, request: Request, **rest: str) -> Any:
        request.guard()
        return handler(self, request, **rest)

    return guarded


class Api:
    """
    The gateway's HTTP interface.

    :param clock: for the uptime
    """

    app = Klein()

    # A doubled slash is a mistake to be told, not to be redirected.
    app.url_map.merge_slashes = False

    def __init__(self, dispatcher: Dispatcher, relay: Relay, clock: IReactorTime) -> None:
        self._dispatcher = dispatcher
        self._relay = relay
        self._clock = clock
        self._started = clock.seconds()
        self._management = Management(dispatcher, clock)

    @property
    def tree(self) -> KleinResource:
        """The tree's root."""
        return self.app.resource()

    @property
    def table(self) -> dict[bytes, Callable[[Request], object]]:
        """The paths of the relay that are POSTed to, to be looked at before the tree."""
        return {
            path.encode(): partial(
                self._relay.render if route.scope is Scope.INFER else self._render_guarded,
                read=self._reader(route),
            )
            for route in ROUTES
            for path in route.paths
            if "POST" in route.methods and "{" not in path
        }

    def _render_guarded(self, request: Request, read: Reader) -> None:
        try:
            request.guard()
        except NotAllowed as error:
            request.fail(error)
        else:
            self._relay.render(request, read)

    def _reader(self, route: Route) -> Reader:
        if route.where is Where.PATH:
            return lambda request: by_path(request, self._dispatcher.catalogue.names)
        if route.where is Where.BODY and route.shaped:
            return by_shaped_body
        return {Where.BODY: by_body, Where.FORM: by_form, Where.QUERY: by_query}[route.where]

    @app.route("/health", methods=["GET"], strict_slashes=False)
    @app.route("/v1/health", methods=["GET"], strict_slashes=False)
    def health(self, request: Request) -> bytes:
        """200 as long as the gateway serves, with the models in memory or on their way."""
        return _json(
            request,
            {
                "status": "ok",
                "version": __version__,
                "uptime_sec": round(self._clock.seconds() - self._started, 3),
                "max_loaded_models": self._dispatcher.config.max_loaded_models,
                "models": self._dispatcher.report(busy=True),
            },
        )

    @app.route("/v1/models", methods=["GET"], strict_slashes=False)
    async def models(self, request: Request) -> bytes:
        """All models that are configured, and their aliases."""
        return _json(request, {"object": "list", "data": await self._openai_entries()})

    @app.route("/v1/models/<path:name>", methods=["GET"])
    async def model(self, request: Request, name: str) -> bytes:
        """One model."""
        checked_name(name)
        entries = {entry["id"]: entry for entry in await self._openai_entries()}
        # Not before: a reload may come while the engines are asked.
        own = self._dispatcher.catalogue.own_name(name)
        # One that a pattern means is not among them.
        fitting = {**entries[own], "id": name, "aliases": [], "alias_of": own}
        return _json(request, entries.get(name, fitting))

    @app.route("/models", methods=["GET"], strict_slashes=False)
    async def router_models(self, request: Request) -> bytes:
        """All models, as llama-server's router tells of them."""
        data = [router_entry(*known) async for known in self._known()]
        return _json(request, {"object": "list", "data": data})

    @app.route("/models/load", methods=["POST"])
    @_guarded
    async def load(self, request: Request) -> bytes:
        """Load a model, as a request for it would; `wait` for it if that is asked for."""
        await self._management.load(request)
        return _json(request, {"success": True})

    @app.route("/models/unload", methods=["POST"])
    @_guarded
    async def unload(self, request: Request) -> bytes:
        """Unload a model; answers when it is gone."""
        await self._management.unload(request)
        return _json(request, {"success": True})

    @app.route("/models/sse", methods=["GET"])
    @_guarded
    def changes(self, request: Request) -> Deferred[None]:
        """Events, as long as the client listens."""
        self._management.changes(request)
        return Deferred()

    @app.route("/models/logs", methods=["GET"])
    @_guarded
    def logs(self, request: Request) -> bytes | Deferred[None]:
        """What a model's engine printed last."""
        body = self._management.log(request)
        if body is None:
            return Deferred()
        request.responseHeaders.setRawHeaders(b"Content-Type", [b"text/plain; charset=utf-8"])
        request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        return body

    async def _openai_entries(self) -> list[Described]:
        entries: list[Described] = []
        async for known in self._known():
            entries += openai_entries(*known)
        return entries

    async def _known(self) -> AsyncIterator[tuple[ModelReport, ModelConfig, Described]]:
        """
        All that is known of each model, in the order of the configuration.

        In several turns of the reactor where there are very many.
        """
        said = await self._dispatcher.descriptions()
        models = {model.name: model for model in self._dispatcher.config.models}
        for number, report in enumerate(self._dispatcher.report()):
            if number and number % MODELS_A_TURN == 0:
                await deferLater(self._clock, 0)
            if report.id in models:
                yield report, models[report.id], said.get(report.id, {})

    @app.handle_errors(WerkzeugMethodNotAllowed)  # type: ignore[arg-type]
    def method_not_allowed(self, request: Request, failure: Failure) -> bytes:
        assert isinstance(failure.value, WerkzeugMethodNotAllowed)
        allowed = sorted({*(failure.value.valid_methods or ()), "OPTIONS"})
        method = harmless(request.method.decode(errors="replace"), 20)
        message = f"{method} is not possible here; {', '.join(allowed)} is."
        return _error(request, MethodNotAllowed(message, allow=allowed))

    @app.handle_errors(WerkzeugNotFound, RequestRedirect)  # type: ignore[arg-type]
    def not_found(self, request: Request, failure: Failure) -> bytes:
        path = harmless(request.path.decode(errors="replace"), SHOWN)
        near = get_close_matches(path, _PATHS, n=3)
        hint = (
            f"Did you mean {' or '.join(near)}?" if near else f"Known paths: {', '.join(_PATHS)}."
        )
        return _error(request, PathNotFound(f"There is nothing at {path}. {hint}"))

    @app.handle_errors(GatewayError)  # type: ignore[arg-type]
    def gateway_error(self, request: Request, failure: Failure) -> bytes:
        assert isinstance(failure.value, GatewayError)
        return _error(request, failure.value)


def _relayed(route: Route) -> Callable[..., Deferred[None]]:
    """The handler of a route of the relay; to those in `Api.table` it gives the 405."""

    def relayed(self: Api, request: Request, **_: str) -> Deferred[None]:
        if route.scope is not Scope.INFER:
            request.guard()
        self._relay.render(request, self._reader(route))
        # The relay has the last word; Klein is not to finish what it may have cut off.
        return Deferred()

    return relayed


for _route in ROUTES:
    for _path in _route.paths:
        _rule = _path.replace("{model}/{rest}", "<path:rest>").replace("{id}", "<id>")
        _methods = list(_route.methods)
        Api.app.route(_rule, methods=_methods, endpoint=f"{_methods} {_path}")(_relayed(_route))


def _json(request: Request, value: Any) -> bytes:
    return request.prepare(200, msgspec.json.encode(value))


def _error(request: Request, error: GatewayError) -> bytes:
    return request.prepare(error.status, request.dialect.envelope(error), error.headers())
