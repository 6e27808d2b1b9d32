"""
The resource tree: what is at which path, and the gateway's own answers.

Klein routes; every error of its and ours becomes an envelope in one place. Requests for a model are
handed to the relay; they are in `INFERENCE` so that the server finds them without a URL match.
"""

from __future__ import annotations

from collections.abc import Callable
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
from llamagw.proxy.relay import Relay
from llamagw.proxy.server import Request

#: POST, routed by the ``model`` of the JSON body.
INFERENCE = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

#: GET, answered by the gateway itself. The start-up lines list both.
OWN = ("/v1/models", "/health")


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
        """The paths of the relay, to be looked at before the tree."""
        return {path.encode(): self._relay.render for path in INFERENCE}

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
        paths = ", ".join((*INFERENCE, *OWN))
        path = request.path.decode(errors="replace")
        return _error(request, PathNotFound(f"There is nothing at {path}. Known paths: {paths}."))

    @app.handle_errors(GatewayError)  # type: ignore[arg-type]
    def gateway_error(self, request: Request, failure: Failure) -> bytes:
        assert isinstance(failure.value, GatewayError)
        return _error(request, failure.value)


def _inference(self: Api, request: Request) -> Deferred[None]:
    # Reached when the table was passed over; what it is here for above all is the 405.
    return self._relay.render(request)


for _path in INFERENCE:
    Api.app.route(_path, methods=["POST"], endpoint=_path)(_inference)


def _json(request: Request, value: Any) -> bytes:
    return request.prepare(200, msgspec.json.encode(value))


def _error(request: Request, error: GatewayError) -> bytes:
    return request.prepare(error.status, error.body(), error.headers())


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
