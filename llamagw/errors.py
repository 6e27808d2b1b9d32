"""
Every way in which the gateway itself can fail a request, and the envelope it is told in.

One class per way to fail; each knows its HTTP status and OpenAI's ``type`` and ``code``. What an
engine answers, errors included, never passes through here: it reaches the client unchanged.
Who raises them and who writes them to a client is the affair of the other modules.

The envelope is OpenAI's: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

import msgspec


class GatewayError(Exception):
    """
    A request that the gateway answers itself, with an error.

    :ivar status: the HTTP status
    :ivar type: OpenAI's ``error.type``
    :ivar code: OpenAI's ``error.code``
    :ivar param: the field of the request that is at fault, if one is
    :ivar retry_after: seconds after which it is worth asking again, if the gateway knows
    :ivar allow: the methods that the path takes (405 only)
    """

    status = 500
    type = "server_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        allow: Iterable[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.allow = tuple(allow)

    def body(self) -> bytes:
        """The envelope, as JSON."""
        return msgspec.json.encode(
            {
                "error": {
                    "message": self.message,
                    "type": self.type,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that go with the status: ``Retry-After`` (whole seconds), ``Allow``."""
        headers = []
        if self.retry_after is not None:
            headers.append((b"Retry-After", b"%d" % max(1, math.ceil(self.retry_after))))
        if self.allow:
            headers.append((b"Allow", ", ".join(self.allow).encode()))
        return headers


class BadRequest(GatewayError):
    """The request cannot be understood: broken HTTP, no JSON, no model named."""

    status = 400
    type = "invalid_request_error"
    code = "bad_request"


class ModelNotFound(GatewayError):
    """The request names a model that is not configured."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = list(known)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        names = ", ".join(f"`{k}`" for k in known)
        super().__init__(
            f"The model `{name}` does not exist.{hint} Configured here: {names}.", param="model"
        )


class ModelNotLoaded(GatewayError):
    """The model is not in memory, and a request of this kind does not load it."""

    status = 409
    type = "invalid_request_error"
    code = "model_not_loaded"


class RequestTimeout(GatewayError):
    """The client took too long to send its request."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class PathNotFound(GatewayError):
    """There is nothing at this path."""

    status = 404
    type = "invalid_request_error"
    code = "path_not_found"


class MethodNotAllowed(GatewayError):
    """The path exists and does not take this method; ``allow`` says which it takes."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class BodyTooLarge(GatewayError):
    """The request's body is over ``max_body_mb``."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class BackendLost(GatewayError):
    """The backend broke off, or answered what is not HTTP."""

    status = 502
    code = "backend_lost"


class ModelUnavailable(GatewayError):
    """The model cannot be loaded now; the message carries the engine's last words."""

    status = 503
    code = "model_unavailable"


class ServerBusy(GatewayError):
    """Too many wait for this model already."""

    status = 503
    code = "server_busy"


class ShuttingDown(GatewayError):
    """The gateway is on its way out and takes no new work."""

    status = 503
    code = "shutting_down"


class QueueTimeout(GatewayError):
    """Somebody waited for the model for longer than ``queue_timeout_sec``."""

    status = 504
    code = "queue_timeout"


class LoadTimeout(GatewayError):
    """The model was loading for too long without getting on."""

    status = 504
    code = "load_timeout"
