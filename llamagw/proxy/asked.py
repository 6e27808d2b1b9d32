"""
What a request asks for: which model, and what of it goes to the model's engine.

One reader for each place where a model's name can stand (`llamagw.routes.Where`). They look into
a request and change nothing; a body is not parsed beyond what is looked for. `outgoing` gives the
request as the engine is to get it, which is nearly always as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, unquote_to_bytes

import msgspec
from msgspec import Raw, Struct

from llamagw.config import ModelConfig, Names
from llamagw.errors import BadRequest, Moved, PathNotFound
from llamagw.proxy import form as forms
from llamagw.proxy.server import Request
from llamagw.routes import Where

SLASH = 0x2F

#: Methods that look and change nothing: they load no model unless asked to.
LOOKING = (b"GET", b"HEAD")


#: What is said when there is no name, nor a default.
LACKING = {
    Where.BODY: "The body names no `model`.",
    Where.FORM: "The form has no field `model`.",
    Where.QUERY: "Say which model: ?model=….",
    Where.PATH: "The path names no model.",
}


class Asked(Struct):
    """
    :ivar model: the name that the request gives; None if it gives none
    :ivar where: where it stands
    :ivar stream: whether it asks for a stream of events
    :ivar load: whether the model may be loaded for it
    :ivar shaped: whether the configuration may change its body
    :ivar target: what the engine is asked for, if not the request's own path and query
    :ivar upgrade: the protocol that it wants to go on with, if it does (WebSocket)
    :ivar form: where the model stands in its form, if its body is one
    """

    model: str | None
    where: Where
    stream: bool = False
    load: bool = True
    shaped: bool = False
    target: bytes | None = None
    upgrade: bytes | None = None
    form: forms.Form | None = None

    def named(self, default: str | None) -> str:
        """
        The name to go by.

        :param default: that for a request that gives none
        :raises BadRequest: when there is none either
        """
        name = self.model or default
        if not name:
            raise BadRequest(LACKING[self.where], param="model")
        return name


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
    return Asked(found.model, Where.BODY, found.stream is True, shaped=shaped)


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

    :raises BadRequest: when the body is no such form, or one that can be read in two ways
    """
    # One that is given twice may be read as another one by the backend.
    types = request.requestHeaders.getRawHeaders(b"content-type", [])
    boundary = forms.boundary_of(types[0]) if len(types) == 1 else None
    if boundary is None:
        raise BadRequest(
            "The body must be a form: Content-Type: multipart/form-data; boundary=…, "
            "with a field `model`."
        )
    form = forms.read(request.body, boundary)
    return Asked(form.model, Where.FORM, form=form)


def by_query(request: Request) -> Asked:
    """By ``?model=``; a GET loads nothing unless ``autoload=true`` stands there too."""
    return Asked(_query(request, b"model"), Where.QUERY, load=_may_load(request))


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
        Where.PATH,
        load=upgrade is not None or _may_load(request),
        target=(given[end:] or b"/") + query,
        upgrade=upgrade,
    )


def outgoing(
    request: Request, asked: Asked, model: ModelConfig, name: str | None
) -> tuple[bytes, bytes]:
    """
    A request as its engine is to get it: path with query, and body.

    :param model: how requests for this model are shaped
    :param name: what the model is called there, if it has to be called so
    """
    target, body = asked.target or request.uri, request.body
    put: dict[str, object] = {}
    if name is not None and name != asked.model:
        if asked.where is Where.BODY:
            put = {"model": name}
        elif asked.form is not None:
            body = asked.form.renamed(body, name)
        elif asked.where is Where.QUERY:
            target = _renamed_query(target, name)
    if asked.shaped and (model.set_params or model.default_params or model.strip_params):
        put.update(model.set_params)
        body = reshape(body, put, model.default_params, model.strip_params)
    elif put:
        body = reshape(body, put, {}, [])
    return target, body


def reshape(
    body: bytes, put: dict[str, object], default: dict[str, object], strip: list[str]
) -> bytes:
    """
    A JSON object with some of its keys changed.

    Values that are not touched stay as they are, byte for byte.

    :param put: keys that get this value, whether they are there or not
    :param default: keys that get this value where they are not there
    :param strip: keys that are taken out
    :raises BadRequest: when it has keys that are no text
    """
    try:
        fields: dict[str, object] = dict(msgspec.json.decode(body, type=dict[str, Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None
    for key in strip:
        fields.pop(key, None)
    return msgspec.json.encode({**default, **fields, **put})


def _renamed_query(target: bytes, name: str) -> bytes:
    path, _, query = target.partition(b"?")
    others = [field for field in query.split(b"&") if field and not field.startswith(b"model=")]
    return path + b"?" + b"&".join([*others, b"model=" + quote(name, safe="").encode()])


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
