"""
The resource tree: what is at which path, and the gateway's own answers.

Klein routes; every error of its and ours becomes an envelope in one place. Requests for a model are
handed to the relay; the POSTs among them are in `Api.table`, where the server finds them without a
URL match.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any

import msgspec
from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed
from werkzeug.exceptions import NotFound as WerkzeugNotFound
from werkzeug.routing import RequestRedirect

from llamagw import __version__
from llamagw.errors import GatewayError, MethodNotAllowed, ModelNotFound, PathNotFound
from llamagw.fleet.manager import Manager, ModelReport
from llamagw.proxy.asked import Reader, by_body, by_form, by_path, by_query, by_shaped_body
from llamagw.proxy.relay import Relay
from llamagw.proxy.server import Request
from llamagw.routes import OWN, ROUTES, Route, Where

_PATHS = (*(path for route in ROUTES for path in route.paths), *(path for _, path, _ in OWN))


class Api:
    """
    The gateway's HTTP interface.

    :param clock: for the uptime
    """

    app = Klein()

    # A doubled slash is a mistake to be told, not to be redirected.
    app.url_map.merge_slashes = False

    def __init__(self, manager: Manager, relay: Relay, clock: IReactorTime) -> None:
        self._manager = manager
        self._relay = relay
        self._clock = clock
        self._started = clock.seconds()

    @property
    def tree(self) -> KleinResource:
        """The tree's root."""
        return self.app.resource()

    @property
    def table(self) -> dict[bytes, Callable[[Request], object]]:
        """The paths of the relay that are POSTed to, to be looked at before the tree."""
        return {
            path.encode(): partial(self._relay.render, read=self._reader(route))
            for route in ROUTES
            for path in route.paths
            if "POST" in route.methods and "{" not in path
        }

    def _reader(self, route: Route) -> Reader:
        if route.where is Where.PATH:
            return lambda request: by_path(request, self._manager.directory)
        if route.where is Where.BODY and route.shaped:
            return by_shaped_body
        return {Where.BODY: by_body, Where.FORM: by_form, Where.QUERY: by_query}[route.where]

    @app.route("/health", methods=["GET"], strict_slashes=False)
    def health(self, request: Request) -> bytes:
        """200 as long as the gateway serves, with the models in memory or on their way."""
        reports = self._manager.report()
        return _json(
            request,
            {
                "status": "ok",
                "version": __version__,
                "uptime_sec": round(self._clock.seconds() - self._started, 3),
                "max_loaded_models": self._manager.config.max_loaded_models,
                "models": [r for r in reports if r.port is not None or r.waiting],
            },
        )

    @app.route("/v1/models", methods=["GET"], strict_slashes=False)
    def models(self, request: Request) -> bytes:
        """All models that are configured."""
        data = [_model(report) for report in self._manager.report()]
        return _json(request, {"object": "list", "data": data})

    @app.route("/v1/models/<path:name>", methods=["GET"])
    def model(self, request: Request, name: str) -> bytes:
        """One model."""
        for report in self._manager.report():
            if report.id == name:
                return _json(request, _model(report))
        raise ModelNotFound(name, self._manager.names)

    @app.handle_errors(WerkzeugMethodNotAllowed)  # type: ignore[arg-type]
    def method_not_allowed(self, request: Request, failure: Failure) -> bytes:
        assert isinstance(failure.value, WerkzeugMethodNotAllowed)
        allowed = sorted({*(failure.value.valid_methods or ()), "OPTIONS"})
        method = request.method.decode(errors="replace")
        message = f"{method} is not possible here; {', '.join(allowed)} is."
        return _error(request, MethodNotAllowed(message, allow=allowed))

    @app.handle_errors(WerkzeugNotFound, RequestRedirect)  # type: ignore[arg-type]
    def not_found(self, request: Request, failure: Failure) -> bytes:
        path = request.path.decode(errors="replace")
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
    return request.prepare(error.status, error.body(request.dialect), error.headers())


def _model(report: ModelReport) -> dict[str, object]:
    """A model as OpenAI describes one, and its status."""
    # A stopping model is still in memory, but nobody can have it: to a client it is unloaded.
    status = "unloaded" if report.status == "stopping" else report.status
    return {
        "id": report.id,
        "object": "model",
        "created": 0,
        "owned_by": "llamagw",
        "status": status,
    }
