"""
Every way in which the gateway itself can fail a request, and the envelope it is told in.

One class per way to fail; each knows its HTTP status and OpenAI's ``type`` and ``code``. What an
engine answers, errors included, never passes through here: it reaches the client unchanged.
Who raises them and who writes them to a client is the affair of the other modules.

The envelope is that of the API that the path belongs to: Anthropic's for its messages
(https://docs.anthropic.com/en/api/errors), OpenAI's for all else
(https://platform.openai.com/docs/guides/error-codes).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from enum import Enum
from itertools import islice

import msgspec

from llamagw.text import harmless

#: How much of a name or path that a client gave is repeated to it.
SHOWN = 64

#: How many of the configured names an error lists, and among how many it looks for a near one:
#: each comparison takes some 10 µs.
LISTED, COMPARED = 20, 200


class Dialect(Enum):
    """In which API's envelope an error is told."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"

    @classmethod
    def of(cls, path: bytes) -> Dialect:
        """The dialect of a request's path."""
        return cls.ANTHROPIC if b"/v1/messages" in path else cls.OPENAI

    def event(self, envelope: bytes) -> bytes:
        """
        An envelope as a server-sent event.

        The blank line before it ends an event that may have been cut in two.
        """
        name = b"event: error\n" if self is Dialect.ANTHROPIC else b""
        lines = b"\ndata: ".join(envelope.splitlines())
        return b"\n\n%bdata: %b\n\n" % (name, lines)


#: Anthropic's ``error.type`` by status; other statuses are an ``invalid_request_error`` below 500
#: and an ``api_error`` above.
_ANTHROPIC_TYPES = {
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
    504: "timeout_error",
}


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

    def body(self, dialect: Dialect = Dialect.OPENAI) -> bytes:
        """The envelope, as JSON."""
        if dialect is Dialect.ANTHROPIC:
            other = "invalid_request_error" if self.status < 500 else "api_error"
            kind = _ANTHROPIC_TYPES.get(self.status, other)
            told = {"type": "error", "error": {"type": kind, "message": self.message}}
            return msgspec.json.encode(told)
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
    """The backend broke off, or answered what is not HTTP."""

    status = 502
    code = "backend_lost"


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
