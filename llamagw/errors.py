"""
Every way in which the gateway itself can fail a request.

One class per way to fail; each has its HTTP status and OpenAI's ``type`` and ``code``. What an
engine answers, errors included, reaches the client unchanged and has no class here. The dialects
encode an error for the client.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from itertools import islice

from llamagw.text import harmless

#: Characters of a client's own text (a name, a path) that an error repeats at most.
SHOWN = 64

#: How many configured names an error lists at most, and with how many the unknown name is compared
#: for a suggestion; each comparison takes some 10 µs.
LISTED, COMPARED = 20, 200


class GatewayError(Exception):
    """
    A request that the gateway answers itself, with an error.

    :param message: for the client; one sentence or two
    :param param: the field of the request that is at fault; None for none
    :param retry_after: seconds after which a retry may succeed; None if unknown
    :param allow: the methods that the path takes (405 only)
    :ivar status: the HTTP status
    :ivar type: OpenAI's ``error.type``
    :ivar code: OpenAI's ``error.code``
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
        # Rounded up: a retry after exactly so many seconds would still meet the backoff.
        headers = []
        if self.retry_after is not None:
            headers.append((b"Retry-After", b"%d" % (math.floor(self.retry_after) + 1)))
        if self.allow:
            headers.append((b"Allow", ", ".join(self.allow).encode()))
        return headers


class BadRequest(GatewayError):
    """The request is malformed: invalid HTTP or JSON, or no model named."""

    status = 400
    type = "invalid_request_error"
    code = "bad_request"


class ModelNotFound(GatewayError):
    """
    The request names a model that is not configured.

    :param name: the name in the request
    :param known: the configured names, for the suggestion and the list
    """

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
    The configured name that an unknown one probably means, in upper or lower case.

    That is the same name, else the only one that begins with it, else the most similar one.

    :param name: of any length; only its first `SHOWN` characters are compared
    :param known: if more than `COMPARED`, the similar one is looked for among those with the same
        first character
    :return: None if none is similar
    """
    name = name[:SHOWN].lower()
    # Of two names that differ in case only, the first.
    lowered: dict[str, str] = {}
    for one in known:
        lowered.setdefault(one.lower(), one)
    if name in lowered:
        return lowered[name]
    begun = list(islice((k for k in lowered if name and k.startswith(name)), 2))
    if len(begun) == 1:
        return lowered[begun[0]]
    candidates: Iterable[str] = lowered
    if len(lowered) > COMPARED:
        candidates = islice((k for k in lowered if k[:1] == name[:1]), COMPARED)
    found = difflib.get_close_matches(name, candidates, n=1)
    return lowered[found[0]] if found else None


class NotAllowed(GatewayError):
    """The client may not send this request; the message says what would allow it."""

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
    """No route has this path."""

    status = 404
    type = "invalid_request_error"
    code = "path_not_found"


class Moved(GatewayError):
    """
    The route is at another path.

    :param location: that path, with the query
    """

    status = 308
    type = "invalid_request_error"
    code = "moved"

    def __init__(self, location: bytes) -> None:
        where = location.decode(errors="replace")  # a query has any bytes
        super().__init__(f"This is at {harmless(where, SHOWN)}.")
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
    """The connection to the backend was lost, or its answer is not HTTP."""

    status = 502
    code = "backend_lost"


class PoisonedRequest(GatewayError):
    """The same request has killed two backends within the last ``poison_sec``."""

    status = 502
    code = "poisoned_request"


class ModelUnavailable(GatewayError):
    """The model cannot be loaded now; the message has the engine's last error lines."""

    status = 503
    code = "model_unavailable"


class ServerBusy(GatewayError):
    """The model's queue is full, or too many bytes of request bodies are held."""

    status = 503
    code = "server_busy"


class ShuttingDown(GatewayError):
    """The gateway is draining and takes no new requests."""

    status = 503
    code = "shutting_down"


class QueueTimeout(GatewayError):
    """The request was queued for longer than ``queue_timeout_sec``."""

    status = 504
    code = "queue_timeout"


class LoadTimeout(GatewayError):
    """The load made no progress for ``load_timeout_sec``."""

    status = 504
    code = "load_timeout"
