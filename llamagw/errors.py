"""
Every way in which the gateway itself can fail a request.

One class per way to fail; each has its HTTP status and OpenAI's ``type`` and ``code``. The first
paragraph of its docstring says when it is answered, in docs/errors.md too. What an engine answers,
errors included, reaches the client unchanged and has no class here. The dialects encode an error
for the client.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from itertools import islice

from llamagw.text import harmless

#: Characters of a client's own text (a name, a path) that an error repeats at most.
SHOWN = 64

#: Seconds after which no client is to try again by itself.
RETRY_SEC = 120

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

    status: int
    type = "server_error"
    code: str

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

    def unnamed(self) -> GatewayError:
        """The same for a client that may use some models only: without the names of others."""
        return self

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that go with the status: ``Retry-After`` (whole seconds), ``Allow``."""
        # Rounded up: a retry after exactly so many seconds would still meet the backoff.
        headers = []
        if self.retry_after is not None:
            headers.append((b"Retry-After", b"%d" % (math.floor(self.retry_after) + 1)))
        if self.allow:
            headers.append((b"Allow", ", ".join(self.allow).encode()))
        return headers


class InternalError(GatewayError):
    """A bug in llamagw; its log has the traceback. Please report it."""

    status = 500
    code = "internal_error"


class BadRequest(GatewayError):
    """
    The body is not a JSON object, or names no ``model``, or one of over 256 characters; a query,
    form or path that two servers might read in two ways; invalid HTTP.
    """

    status = 400
    type = "invalid_request_error"
    code = "bad_request"


class WantsHttps(GatewayError):
    """
    The port speaks https, and the request was http. A browser gets 308, to the same page by https.

    :param location: where the same is by https; None for a client that is not to be sent there
    """

    status = 400
    type = "invalid_request_error"
    code = "https_required"

    def __init__(self, location: str | None = None) -> None:
        super().__init__("This port speaks https, and the request was http: use https:// instead.")
        self.location = location
        if location is not None:
            self.status = 308

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Where to go instead, which is not to be remembered: TLS may be switched off again."""
        if self.location is None:
            return []
        return [(b"Location", self.location.encode("ascii")), (b"Cache-Control", b"no-store")]


class ModelNotFound(GatewayError):
    """
    No model is configured by that name; the message has a similar name, and 20 names at most.

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


class Unauthorized(GatewayError):
    """
    The request has no valid API key, and the server wants one (`keys`, `keys_file`); the message
    says what is wrong with it.

    :param invalid: whether there was a key
    """

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def __init__(self, message: str, *, invalid: bool = False) -> None:
        super().__init__(message)
        self.invalid = invalid

    def headers(self) -> list[tuple[bytes, bytes]]:
        """``WWW-Authenticate`` too (RFC 6750)."""
        why = b', error="invalid_token"' if self.invalid else b""
        return [*super().headers(), (b"WWW-Authenticate", b'Bearer realm="llamagw"%b' % why)]


class NotPermitted(GatewayError):
    """
    The API key is valid, and lacks a right that the request needs; the message names it.

    :param key: the key's name
    """

    status = 403
    type = "permission_error"
    code = "not_permitted"

    def __init__(self, message: str, *, key: str = "", param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.key = key


class NotAllowed(GatewayError):
    """
    A web page may not send this request, or it is not sent to a server with llamagw's own key; the
    message names the key of the configuration that would allow it.
    """

    status = 403
    type = "permission_error"
    code = "not_allowed"


class ModelNotLoaded(GatewayError):
    """
    A GET for a model that is not loaded; without ``?autoload=true`` it does not load it. A browser
    gets a page that offers to.
    """

    status = 409
    type = "invalid_request_error"
    code = "model_not_loaded"


class RequestTimeout(GatewayError):
    """The request took longer than ``request_timeout_sec`` to arrive."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class PathNotFound(GatewayError):
    """There is no such path."""

    status = 404
    type = "invalid_request_error"
    code = "path_not_found"


class Moved(GatewayError):
    """
    The path lacks its last slash; with ``Location``.

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


class RequestNotFound(GatewayError):
    """
    No request with this id is under way, nor among the last ones that are kept.

    :param request_id: as in the path
    :param where: where it was looked for, as the end of a sentence
    """

    status = 404
    type = "invalid_request_error"
    code = "not_found"

    def __init__(self, request_id: str, where: str) -> None:
        shown = harmless(request_id, SHOWN)
        super().__init__(f"No request with the id `{shown}` is {where}; GET /activity lists them.")


class MethodNotAllowed(GatewayError):
    """The path does not take this method; ``Allow`` says which it takes."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class BodyTooLarge(GatewayError):
    """
    The request's body is over ``max_body_mb``, that of the configuration or of the API key's
    `limits`, or a configuration to be checked over 1 MB.
    """

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class RateLimited(GatewayError):
    """
    The API key is at one of its `limits`, for longer than ``limit_wait_sec``; the message names it.
    With ``Retry-After``, and with what is left of the key's limits.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """
        ``X-Should-Retry: false`` too, where a retry would be hours away.

        The SDKs of OpenAI and Anthropic heed it. By itself Anthropic's (2.12) would wait until
        then, and OpenAI's (2.54) would not wait long enough.
        """
        headers = super().headers()
        if self.retry_after is not None and self.retry_after > RETRY_SEC:
            headers.append((b"X-Should-Retry", b"false"))
        return headers


class RequestCancelled(GatewayError):
    """
    Somebody has cancelled the request (``POST /activity/{id}/cancel``). A stream ends with this as
    its last event; any other answer that has begun is cut off.
    """

    status = 499
    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("The request was cancelled: the gateway was told to end it.")


class BackendLost(GatewayError):
    """
    The engine broke off before its answer began, and so did a second one, where there is one to
    ask; or its answer is not HTTP; or its model was unloaded by force.
    """

    status = 502
    code = "backend_lost"


class PoisonedRequest(GatewayError):
    """The same request has killed two engines within ``poison_sec``; no third one is tried."""

    status = 502
    code = "poisoned_request"


class ModelUnavailable(GatewayError):
    """
    The model cannot be loaded, or has crashed several times; with the engine's last words, and
    ``Retry-After``.
    """

    status = 503
    code = "model_unavailable"


class InsufficientMemory(GatewayError):
    """
    The model does not fit into memory, or ran out of it while it was loaded; with what it needs,
    how much there is, and who holds it. With ``Retry-After`` if that may change by itself.
    """

    status = 503
    code = "insufficient_memory"
    #: The message without the names of other models; None if it has none.
    plain: str | None = None

    def unnamed(self) -> GatewayError:
        """With `plain` for its message, if it has one."""
        if self.plain is None:
            return self
        return InsufficientMemory(self.plain, param=self.param, retry_after=self.retry_after)


class ServerBusy(GatewayError):
    """
    ``max_queue`` requests wait for this model already, or ``max_bodies_mb`` of bodies are held, or
    64 clients follow events or logs, or 8 look at the configuration, or there are too many
    connections for the limit of open files; with ``Retry-After``.
    """

    status = 503
    code = "server_busy"


class ShuttingDown(GatewayError):
    """The gateway is being stopped and takes no new requests; with ``Retry-After``."""

    status = 503
    code = "shutting_down"


class QueueTimeout(GatewayError):
    """The request waited for its model for longer than ``queue_timeout_sec``."""

    status = 504
    code = "queue_timeout"


class LoadTimeout(GatewayError):
    """The model was loading for ``load_timeout_sec`` without getting on."""

    status = 504
    code = "load_timeout"
