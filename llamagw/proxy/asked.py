"""
What a request asks for: which model, and what of it goes to the model's engine.

One reader for each place where a model's name can stand (`llamagw.routes.Where`). They look into
a request and change nothing; a body is not parsed beyond what is looked for.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw, Struct
from multipart import MultipartError, PushMultipartParser, parse_options_header

from llamagw.config import Names
from llamagw.errors import BadRequest, Moved, PathNotFound
from llamagw.proxy.server import Request

SLASH = 0x2F

#: Methods that look and change nothing: they load no model unless asked to.
LOOKING = (b"GET", b"HEAD")


class Asked(Struct):
    """
    :ivar model: the name that the request gives; None if it gives none
    :ivar lacking: what is said when it gives none and there is no default
    :ivar stream: whether it asks for a stream of events
    :ivar load: whether the model may be loaded for it
    :ivar shaped: whether the configuration may change its body
    :ivar target: what the engine is asked for, if not the request's own path and query
    :ivar upgrade: the protocol that it wants to go on with, if it does (WebSocket)
    """

    model: str | None
    lacking: str
    stream: bool = False
    load: bool = True
    shaped: bool = False
    target: bytes | None = None
    upgrade: bytes | None = None


#: Reads a request; may raise a GatewayError.
Reader = Callable[[Request], Asked]


class Peek(Struct):
    """What is looked at in a JSON body."""

    model: str | None = None
    #: Whatever it is, the engine is to judge it.
    stream: object = False


_decode = msgspec.json.Decoder(Peek).decode


def by_body(request: Request, shaped: bool = False) -> Asked:
    """
    By ``model`` in the JSON body.

    :raises BadRequest: when the body is not a JSON object
    """
    found = peek(request.body)
    return Asked(found.model, "The body names no `model`.", found.stream is True, shaped=shaped)


def peek(body: bytes) -> Peek:
    """
    What a JSON body says of itself.

    :raises BadRequest: when it is not a JSON object
    """
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        if "$.model" in str(error):
            raise BadRequest("`model` must be a string.", param="model") from None
        raise BadRequest('The body must be a JSON object such as {"model": "…", …}.') from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = str(error) if body else "it is empty"
        raise BadRequest(f"The body is not JSON: {what}.") from None


def by_shaped_body(request: Request) -> Asked:
    """By ``model`` in the JSON body, which the configuration may change."""
    return by_body(request, shaped=True)


def by_form(request: Request) -> Asked:
    """
    By the field ``model`` of a multipart form.

    :raises BadRequest: when the body is no such form
    """
    [kind] = request.requestHeaders.getRawHeaders(b"content-type", [b""])[-1:]
    name, options = parse_options_header(kind.decode("latin-1"))
    if name != "multipart/form-data" or not options.get("boundary"):
        raise BadRequest(
            "The body must be a form: Content-Type: multipart/form-data; boundary=…, "
            "with a field `model`."
        )
    model: bytes | None = None
    try:
        with PushMultipartParser(options["boundary"]) as parser:
            inside = False
            for part in parser.parse(request.body):
                if part is None:
                    inside = False
                elif not isinstance(part, bytes | bytearray):
                    inside = part.name == "model"
                    model = b"" if inside else model
                elif inside:
                    model = (model or b"") + part
        text = None if model is None else model.decode()
    except UnicodeDecodeError:
        raise BadRequest("The form's `model` is not UTF-8.", param="model") from None
    except MultipartError as error:
        raise BadRequest(f"The body is not a multipart form: {error}.") from None
    return Asked(text, "The form has no field `model`.")


def by_query(request: Request) -> Asked:
    """By ``?model=``; a GET loads nothing unless ``autoload=true`` stands there too."""
    return Asked(_query(request, b"model"), "Say which model: ?model=….", load=_may_load(request))


def by_path(request: Request, names: Names) -> Asked:
    """
    By what follows ``/upstream/``; the rest of the path is the engine's, as it is.

    A name may have slashes in it, written as they are or as ``%2F``: the longest beginning that is
    a name is taken, else the shortest that a pattern fits, else the first part.

    :raises PathNotFound: when nothing follows
    :raises Moved: when only the name follows: a page's links need the slash after it
    """
    given = request.path.removeprefix(b"/upstream/")
    ends = [at for at, byte in enumerate(given) if byte == SLASH] + [len(given)]
    beginnings = [
        (unquote_to_bytes(given[:end]).decode(), end) for end in ends[: names.most_slashes + 1]
    ]
    if not beginnings[0][0]:
        raise PathNotFound("The model's name is missing: /upstream/{model}/….")
    exact = [b for b in reversed(beginnings) if b[0] in names.exact]
    fitting = exact or [b for b in beginnings if names.find(b[0]) is not None]
    model, end = (fitting or beginnings)[0]
    query = request.uri[len(request.path) :]
    if end == len(given) and request.method in LOOKING:
        raise Moved(request.path + b"/" + query)
    upgrade = request.requestHeaders.getRawHeaders(b"upgrade", [None])[0]
    if b"upgrade" not in _tokens(request, b"connection"):
        upgrade = None
    return Asked(
        model,
        "",
        load=upgrade is not None or _may_load(request),
        target=(given[end:] or b"/") + query,
        upgrade=upgrade,
    )


def reshape(
    body: bytes, put: dict[str, object], default: dict[str, object], strip: list[str]
) -> bytes:
    """
    A JSON object with some of its keys changed.

    Values that are not touched stay as they are, byte for byte.

    :param put: keys that get this value, whether they are there or not
    :param default: keys that get this value where they are not there
    :param strip: keys that are taken out
    """
    fields: dict[str, object] = dict(msgspec.json.decode(body, type=dict[str, Raw]))
    for key in strip:
        fields.pop(key, None)
    return msgspec.json.encode({**default, **fields, **put})


def _query(request: Request, name: bytes) -> str | None:
    values = request.args.get(name)
    if not values:
        return None
    try:
        return bytes(values[-1]).decode()
    except UnicodeDecodeError:
        raise BadRequest(f"?{name.decode()}= is not UTF-8.", param=name.decode()) from None


def _may_load(request: Request) -> bool:
    return request.method not in LOOKING or _query(request, b"autoload") in ("true", "1")


def _tokens(request: Request, name: bytes) -> list[bytes]:
    lines = request.requestHeaders.getRawHeaders(name, [])
    return [token.strip().lower() for line in lines for token in line.split(b",")]
