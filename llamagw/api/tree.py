"""
The resource tree: the handler of each path, and the gateway's own answers.

Klein routes; all errors become envelopes in the handlers at the end of `Api`. Requests for a model
are passed to the relay; the POSTs among them are in `Api.table`, so that the site finds them
without a URL match.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from difflib import get_close_matches
from functools import partial, wraps
from typing import Any

import msgspec
from klein import Klein
from klein.resource import KleinResource
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed
from werkzeug.exceptions import NotFound as WerkzeugNotFound
from werkzeug.routing import PathConverter, RequestRedirect

from llamagw import __version__, web
from llamagw.api import login
from llamagw.api.activity import entries
from llamagw.api.charts import Charts
from llamagw.api.config import Configuration
from llamagw.api.devices import Devices
from llamagw.api.feeds import Feeds
from llamagw.api.listing import Described, model_entries, model_list, router_entry
from llamagw.api.live import Live
from llamagw.api.manage import Management
from llamagw.api.metrics import Metrics
from llamagw.api.usage import usage
from llamagw.config import ModelConfig
from llamagw.dialects import ANY, BODIES, OWN, ROUTES, Route, Scope, Where
from llamagw.errors import (
    SHOWN,
    GatewayError,
    MethodNotAllowed,
    NotAllowed,
    PathNotFound,
)
from llamagw.fleet import Dispatcher, ModelReport
from llamagw.gate import Tally
from llamagw.observe import Activity, Record
from llamagw.proxy import (
    Reader,
    Relay,
    Request,
    by_body,
    by_form,
    by_path,
    by_query,
    by_shaped_body,
    check_all,
    check_model,
    checked_name,
    reason_for,
    sees,
)
from llamagw.text import harmless

#: What an unknown path may have meant.
_PATHS = [
    path
    for path in (*(path for route in ROUTES for path in route.paths), *(own.path for own in OWN))
    if path != "/"
]
#: What is named if it resembles none of them, and where all of them are.
_USUAL = "The usual paths are /v1/chat/completions, /v1/models and /health."
_ALL = "All of them: /ui/ in a browser, or docs/endpoints.md."

#: For a browser that asks for the script of a service worker (it sends a header of that name).
_NO_WORKER = (
    "An engine's page gets no service worker here: it would go on answering for the engine, in the "
    "name of this server, when that is not loaded."
)

#: How many entries of a list are made in one turn of the reactor: each takes some 15 µs.
MODELS_A_TURN = 500


def _guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Make a handler refuse web pages of other origins."""

    @wraps(handler)
    def guarded(self: Api, request: Request, **rest: str) -> Any:
        request.guard()
        return handler(self, request, **rest)

    return guarded


class _Id(PathConverter):
    """The id of a request in a path; it may have slashes, and begin with one."""

    regex = ".+?"
    part_isolating = False


class Api:
    """
    The gateway's HTTP interface.

    :param dispatcher: reports on models, and carries out management
    :param relay: answers requests for a model
    :param clock: the reactor, or a Clock
    :param metrics: answers ``GET /metrics``
    :param activity: the last requests
    :param live: those that are under way
    :param devices: what memory there is
    :param charts: answers ``GET /history``
    :param configuration: answers requests about the configuration
    :param tally: counts what keys use; None where nothing is counted
    """

    app = Klein()

    # So that a doubled slash is answered with 404 instead of a redirect.
    app.url_map.merge_slashes = False
    app.url_map.converters["id"] = _Id

    def __init__(
        self,
        dispatcher: Dispatcher,
        relay: Relay,
        clock: IReactorTime,
        metrics: Metrics,
        activity: Activity,
        live: Live,
        devices: Devices,
        charts: Charts,
        configuration: Configuration,
        tally: Tally | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._relay = relay
        self._clock = clock
        self._started = clock.seconds()
        self._feeds = Feeds(dispatcher, clock)
        self._management = Management(dispatcher, self._feeds)
        self._metrics = metrics
        self._activity = activity
        self._live = live
        self._devices = devices
        self._charts = charts
        self._configuration = configuration
        self._tally = tally

    @property
    def tree(self) -> KleinResource:
        """The root of the resource tree."""
        return self.app.resource()

    @property
    def table(self) -> dict[bytes, Callable[[Request], object]]:
        """Handlers of the relay's POSTs by path, to be looked up before the tree."""
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

    # For any method, since it is there for browsers only.
    @app.route("/", methods=list(ANY))
    def home(self, request: Request) -> bytes:
        """The way to the dashboard, for a browser."""
        if not self._dispatcher.config.ui or not web.wanted(request):
            raise _nowhere(request)
        return web.moved(request, b"ui/")

    @app.route("/ui", methods=["GET"])
    @app.route("/ui/", methods=["GET"])
    @app.route("/ui/<name>", methods=["GET"])
    @_guarded
    def dashboard(self, request: Request, name: str = "") -> bytes:
        """The dashboard, and the files that it loads."""
        if not self._dispatcher.config.ui:
            raise PathNotFound("The dashboard is off: the configuration has `ui: false`.")
        if request.path == b"/ui":
            return web.moved(request, b"ui/")
        return web.dashboard(request, name)

    @app.route("/ui/login", methods=["POST"])
    async def log_in(self, request: Request) -> bytes:
        """Begin a session with a key."""
        return await login.log_in(request, self._clock)

    @app.route("/ui/logout", methods=["POST"])
    def log_out(self, request: Request) -> bytes:
        """End a session."""
        return login.log_out(request)

    @app.route("/ui/session", methods=["GET"])
    def session(self, request: Request) -> bytes:
        """Who the caller is, and what it may do."""
        return login.told(request)

    @app.route("/web/<name>", methods=["GET"])
    def asset(self, request: Request, name: str) -> bytes:
        """A file that a page loads."""
        return web.asset(request, name)

    @app.route("/health", methods=["GET"], strict_slashes=False)
    @app.route("/v1/health", methods=["GET"], strict_slashes=False)
    def health(self, request: Request) -> bytes:
        """The gateway is up; with the models that run, have waiters, have failed, or are remote."""
        if not request.caller.scopes:
            # Who has no key is told that it is up, as load balancers ask.
            return _json(request, {"status": "ok"})
        told: dict[str, Any] = {
            "status": "ok",
            "version": __version__,
            "uptime_sec": round(self._clock.seconds() - self._started, 3),
            "max_loaded_models": self._dispatcher.config.max_loaded_models,
            "devices": self._devices.read(),
            "models": self._seen(request, self._dispatcher.report(busy=True)),
        }
        if accounts := self._dispatcher.accounts():
            told["memory"] = {account.device: account for account in accounts}
        return _json(request, told)

    @app.route("/v1/models", methods=["GET"], strict_slashes=False)
    async def models(self, request: Request) -> bytes:
        """All configured models and their aliases."""
        return _json(request, model_list(await self._model_entries(request)))

    @app.route("/v1/models/<path:name>", methods=["GET"])
    async def model(self, request: Request, name: str) -> bytes:
        """One model."""
        checked_name(name)
        check_model(request.caller, self._dispatcher.catalogue, name, name)
        entries = {entry["id"]: entry for entry in await self._model_entries(request)}
        # Resolved after the await: the configuration may be reloaded in the meantime.
        own = self._dispatcher.catalogue.own_name(name)
        # A name that only a pattern matches has no entry of its own.
        fitting = {**entries[own], "id": name, "display_name": name, "aliases": []}
        fitting["alias_of"] = own
        return _json(request, entries.get(name, fitting))

    @app.route("/models", methods=["GET"], strict_slashes=False)
    async def router_models(self, request: Request) -> bytes:
        """All models, in the format of llama-server's router."""
        data = [router_entry(*known) async for known in self._known(request)]
        return _json(request, {"object": "list", "data": data})

    @app.route("/models/load", methods=["POST"])
    @_guarded
    async def load(self, request: Request) -> bytes:
        """Load a model as a request for it would; with `wait`, answer when it is loaded."""
        await self._management.load(request)
        return _json(request, {"success": True})

    @app.route("/models/unload", methods=["POST"])
    @_guarded
    async def unload(self, request: Request) -> bytes:
        """Unload a model; answer when its run has ended."""
        await self._management.unload(request)
        return _json(request, {"success": True})

    @app.route("/models/pin", methods=["POST"])
    @_guarded
    def pin(self, request: Request) -> bytes:
        """Pin or unpin a model."""
        self._management.pin(request)
        return _json(request, {"success": True})

    @app.route("/models/sse", methods=["GET"])
    @_guarded
    def changes(self, request: Request) -> Deferred[None]:
        """Stream the changes of the models' states."""
        self._management.changes(request)
        return Deferred()

    @app.route("/models/logs", methods=["GET"])
    @_guarded
    def logs(self, request: Request) -> bytes | Deferred[None]:
        """The last lines of an engine's output."""
        body = self._management.log(request)
        if body is None:
            return Deferred()
        request.responseHeaders.setRawHeaders(b"Content-Type", [b"text/plain; charset=utf-8"])
        request.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        return body

    @app.route("/activity", methods=["GET"])
    @_guarded
    def activity(self, request: Request) -> bytes:
        """The last requests for models."""
        told = entries(request, self._activity, self._clock, self._may_tell(request))
        return _json(request, {"data": told})

    @app.route("/activity/sse", methods=["GET"])
    @_guarded
    def live(self, request: Request) -> Deferred[None]:
        """Stream what happens to the requests that are under way."""
        check_all(request.caller)
        self._live.follow(request, self._feeds)
        return Deferred()

    @app.route("/activity/<id:request_id>", methods=["GET"])
    @_guarded
    def request(self, request: Request, request_id: str) -> bytes:
        """One request, with its content if that is kept."""
        request.responseHeaders.setRawHeaders(b"Cache-Control", [b"no-store"])
        told = self._live.told(request_id, self._may_tell(request))
        if reason := told.get("waiting_for"):
            told["waiting_for"] = reason_for(request.caller, reason)
        return _json(request, told)

    @app.route("/activity/<id:request_id>/cancel", methods=["POST"])
    @_guarded
    def cancel(self, request: Request, request_id: str) -> bytes:
        """End a request that is under way."""
        cancelled = self._live.cancel(request_id, self._may_tell(request))
        return _json(request, {"success": True, "cancelled": cancelled})

    @app.route("/history", methods=["GET"])
    @_guarded
    def history(self, request: Request) -> bytes:
        """The last minutes or hours in numbers, for charts."""
        check_all(request.caller)
        return request.prepare(200, self._charts.body(request))

    @app.route("/usage", methods=["GET"])
    @_guarded
    async def usage(self, request: Request) -> bytes:
        """What keys have used."""
        return _json(request, await usage(request, self._tally))

    @app.route("/config", methods=["GET"])
    @_guarded
    async def config(self, request: Request) -> bytes:
        """The configuration in force, where each value comes from, and the text of its file."""
        check_all(request.caller)
        return request.prepare(200, await self._configuration.told(request))

    @app.route("/config/check", methods=["POST"])
    @_guarded
    async def check(self, request: Request) -> bytes:
        """What a reload of the text in the body would change, or the faults that it has."""
        check_all(request.caller)
        return _json(request, await self._configuration.checked(request))

    @app.route("/config/reload", methods=["POST"])
    @_guarded
    async def reload(self, request: Request) -> bytes:
        """Reload the configuration; answer when that is done, with changes or faults."""
        check_all(request.caller)
        return _json(request, await self._configuration.reloaded())

    def _seen(self, request: Request, reports: list[ModelReport]) -> list[ModelReport]:
        """Those of some models of which the caller may be told."""
        caller, catalogue = request.caller, self._dispatcher.catalogue
        if caller.every_model:
            return reports
        return [
            replace(report, waiting_for=reason_for(caller, report.waiting_for))
            for report in reports
            if sees(caller, catalogue, report.id)
        ]

    def _may_tell(self, request: Request) -> Callable[[Record], bool]:
        """Says of which requests the caller may be told: those for its models."""
        caller, catalogue = request.caller, self._dispatcher.catalogue

        def may(record: Record) -> bool:
            if caller.every_model:
                return True
            own = record.model or catalogue.names.find(record.asked or "")
            return own is not None and sees(caller, catalogue, own)

        return may

    async def _model_entries(self, request: Request) -> list[Described]:
        entries: list[Described] = []
        async for known in self._known(request):
            entries += model_entries(*known)
        return entries

    async def _known(
        self, request: Request
    ) -> AsyncIterator[tuple[ModelReport, ModelConfig, Described]]:
        """
        The report, configuration and description of each model that the caller may use.

        In the order of the configuration.
        Takes a turn of the reactor for each `MODELS_A_TURN` models.
        """
        descriptions = await self._dispatcher.descriptions()
        models = {model.name: model for model in self._dispatcher.config.models}
        for number, report in enumerate(self._seen(request, self._dispatcher.report())):
            if number and number % MODELS_A_TURN == 0:
                await deferLater(self._clock, 0)
            if report.id in models:
                yield report, models[report.id], descriptions.get(report.id, {})

    @app.handle_errors(WerkzeugMethodNotAllowed)  # type: ignore[arg-type]
    def method_not_allowed(self, request: Request, failure: Failure) -> bytes:
        assert isinstance(failure.value, WerkzeugMethodNotAllowed)
        allowed = sorted({*(failure.value.valid_methods or ()), "OPTIONS"})
        method = harmless(request.method.decode(errors="replace"), 20)
        path = request.path.decode(errors="replace")
        right = " or ".join(m for m in allowed if m not in ("HEAD", "OPTIONS"))
        body = f" with a body such as {BODIES[path]}" if path in BODIES else ""
        message = f"{method} is not possible at {harmless(path, SHOWN)}. Send {right}{body}."
        return _error(request, MethodNotAllowed(message, allow=allowed))

    @app.handle_errors(WerkzeugNotFound, RequestRedirect)  # type: ignore[arg-type]
    def not_found(self, request: Request, failure: Failure) -> bytes:
        return _error(request, _nowhere(request))

    @app.handle_errors(GatewayError)  # type: ignore[arg-type]
    def gateway_error(self, request: Request, failure: Failure) -> bytes:
        assert isinstance(failure.value, GatewayError)
        return _error(request, failure.value)


def _relayed(route: Route) -> Callable[..., Any]:
    """The handler of a route; of those in `Api.table`, Klein only needs it for its 405."""

    def relayed(self: Api, request: Request, **_: str) -> Any:
        if route.scope is not Scope.INFER:
            request.guard()
        if request.path == b"/metrics" and b"model" not in request.args:
            sees_model = None
            if not request.caller.every_model:
                sees_model = partial(sees, request.caller, self._dispatcher.catalogue)
            return Deferred.fromCoroutine(self._metrics.render(request, sees_model))
        if route.where is Where.PATH and request.requestHeaders.hasHeader(b"Service-Worker"):
            raise PathNotFound(_NO_WORKER)
        if route.where is Where.PATH and web.wanted(request):
            call = self._reader(route)(request)
            name = call.named(None)
            check_model(request.caller, self._dispatcher.catalogue, name, name)
            name = self._dispatcher.catalogue.own_name(name)
            if not call.load and not self._dispatcher.admits(name):
                return web.offer(request, name)
            # llama-server has its page kept for a year: once seen, it would come from the browser's
            # cache when the model is not loaded.
            request.cacheable = False
        self._relay.render(request, self._reader(route))
        # Never fires: the relay ends the answer, and Klein must not finish one that was cut off.
        return Deferred()

    return relayed


for _route in ROUTES:
    for _path in _route.paths:
        _rule = _path.replace("{model}/{rest}", "<path:rest>").replace("{id}", "<id>")
        _methods = list(_route.methods)
        Api.app.route(_rule, methods=_methods, endpoint=f"{_methods} {_path}")(_relayed(_route))


def _nowhere(request: Request) -> PathNotFound:
    """For a path that is not known: names those that it begins or resembles, three at most."""
    path = harmless(request.path.decode(errors="replace"), SHOWN)
    low = path.lower()
    begun = [known for known in _PATHS if known.startswith(low) and low != "/"]
    near = begun[:3] or get_close_matches(low, _PATHS, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else _USUAL
    return PathNotFound(f"There is nothing at {path}. {hint} {_ALL}")


def _json(request: Request, value: Any) -> bytes:
    return request.prepare(200, msgspec.json.encode(value))


def _error(request: Request, error: GatewayError) -> bytes:
    return request.refusal(error)
