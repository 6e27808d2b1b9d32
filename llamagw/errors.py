"""
Every way in which the gateway itself can fail a request.

One class per way to fail; each knows its HTTP status and OpenAI's ``type`` and ``code``. What an
engine answers, errors included, never passes through here: it reaches the client unchanged. How an
error looks to a client is the affair of the dialects.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from itertools import islice

from llamagw.text import harmless

#: How much of a name or path that a client gave is repeated to it.
SHOWN = 64

#: How many of the configured names an error lists, and among how many it looks for a near one:
#: each comparison takes some 10 µs.
LISTED, COMPARED = 20, 200


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

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that go with the status: ``Retry-After`` (whole seconds), ``Allow``."""
        # Never just as long: who comes back to the second would come a moment too soon.
        headers = []
        if self.retry_after is not None:
            headers.append((b"Retry-After", b"%d" % (math.floor(self.retry_after) + 1)))
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

    def __init__(self, name: str, known: Collection[str]) -> None:
        shown = harmless(name, SHOWN)
        near = nearest(name, known)
        hint = f" Did you mean `{near}`?" if near else ""
        names = ", ".join(f"`{k}`" for k in islice(known, LISTED))
        more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
        super().__init__(
            f"The model `{shown}` does not exist.{hint} Configured here: {names}{more}.",
            param="model",
        )


def nearest(name: str, known: Collection[str]) -> str | None:
    """
    The known name that this one may be a mistake for; None if none is near.

    :param name: of any length; only its first `SHOWN` characters are compared
    :param known: of more than `COMPARED`, only those with the same first character count
    """
    name = name[:SHOWN]
    if len(known) > COMPARED:
        known = list(islice((k for k in known if k[:1] == name[:1]), COMPARED))
    found = difflib.get_close_matches(name, known, n=1)
    return found[0] if found else None


class NotAllowed(GatewayError):
    """Whoever asks may not ask this; the message says what would allow it."""

    status = 403
    type = "permission_error"
    code = "not_allowed"


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


class Moved(GatewayError):
    """
    There is something, at another path.

    :ivar location: that path, with its query
    """

    status = 308
    type = "invalid_request_error"
    code = "moved"

    def __init__(self, location: bytes) -> None:
        super().__init__(f"This is at {harmless(location.decode(), SHOWN)}.")
        self.location = location

    def headers(self) -> list[tuple[bytes, bytes]]:
        """``Location``."""
        return [(b"Location", self.location)]


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


class PoisonedRequest(GatewayError):
    """The same request has killed two backends within the last ``poison_sec``."""

    status = 502
    code = "poisoned_request"


class ModelUnavailable(GatewayError):
    """The model cannot be loaded now; the message carries the engine's last words."""

    status = 503
    code = "model_unavailable"


class ServerBusy(GatewayError):
    """Too many wait for this model already, or too much is held for clients."""

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
