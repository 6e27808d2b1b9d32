"""
What a request asks for: which model, and what of it goes to the model's engine.

One reader for each place where a model's name can stand (`llamagw.dialects.Where`). They look into
a request and change nothing; a body is not parsed beyond what is looked for. How a request is
changed for its engine is rewrite.py's affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw, Struct

from llamagw.config import NAME_LENGTH, Names
from llamagw.dialects import Where
from llamagw.errors import SHOWN, BadRequest, Moved, PathNotFound
from llamagw.proxy import form as forms
from llamagw.proxy.request import Request
from llamagw.text import harmless

SLASH = 0x2F

#: How often a path may be percent-encoded.
MOST_ENCODED = 3

#: Bytes that a name of `NAME_LENGTH` characters takes in JSON at most: each may be written as a
#: surrogate pair.
_NAME_BYTES = 12 * NAME_LENGTH + 2

#: Methods that look and change nothing: they load no model unless asked to.
LOOKING = (b"GET", b"HEAD")


#: What is said when there is no name, nor a default.
LACKING = {
    Where.BODY: "The body names no `model`.",
    Where.FORM: "The form has no field `model`.",
    Where.QUERY: "Say which model: ?model=….",
    Where.PATH: "The path names no model.",
}


class Call(Struct):
    """
    What a request asks for.

    :ivar model: the name that the request gives; None if it gives none
    :ivar where: where it stands
    :ivar stream: whether it asks for a stream of events
    :ivar load: whether the model may be loaded for it
    :ivar shaped: whether the configuration may change its body
    :ivar target: path and query for the engine, if not the request's own
    :ivar upgrade: the protocol to which it asks to switch (WebSocket); None for none
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
        The name of the model that it is for.

        :param default: the name for a request that gives none
        :raises BadRequest: when there is none either, or it is too long
        """
        name = self.model or default
        if not name:
            raise BadRequest(LACKING[self.where], param="model")
        return name if len(name) <= NAME_LENGTH else checked_name(name)


#: Reads a request; may raise a GatewayError.
Reader = Callable[[Request], Call]


def checked_name(name: str) -> str:
    """
    A model's name that a client gave.

    :raises BadRequest: when it is longer than any model's can be
    """
    if len(name) > NAME_LENGTH:
        raise BadRequest(
            f"The model's name is longer than {NAME_LENGTH} characters: `{harmless(name, SHOWN)}`.",
            param="model",
        )
    return name


#: What is not in a body, and what asks for a stream.
_ABSENT, _TRUE = Raw(b""), Raw(b"true")


class Peek(Struct):
    """What is looked at in a JSON body. It stays as it came: a value may be as long as the body."""

    model: Raw = _ABSENT
    stream: Raw = _ABSENT


_peek = msgspec.json.Decoder(Peek).decode
_name = msgspec.json.Decoder(str | None).decode


def by_body(request: Request) -> Call:
    """
    By ``model`` in the JSON body.

    :raises BadRequest: when the body is not a JSON object
    """
    model, stream = peek(request.body)
    return Call(model, Where.BODY, stream)


def peek(body: bytes) -> tuple[str | None, bool]:
    """
    What a JSON body says of itself.

    Of several keys ``model`` the last counts, as for every JSON reader that takes them.

    :return: its ``model``, and whether ``stream`` is true
    :raises BadRequest: when it is not a JSON object
    """
    try:
        found = _peek(body)
        model = found.model
        if len(model) > _NAME_BYTES:
            raise BadRequest(
                f"`model` is not a name of at most {NAME_LENGTH} characters.", param="model"
            )
        name = _name(model) if model is not _ABSENT else None
    except msgspec.ValidationError as error:
        if "`str | null`" in str(error):
            raise BadRequest("`model` must be a string.", param="model") from None
        raise BadRequest('The body must be a JSON object such as {"model": "…", …}.') from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = str(error) if body else "it is empty"
        raise BadRequest(f"The body is not JSON: {what}.") from None
    return name, found.stream == _TRUE


def by_shaped_body(request: Request) -> Call:
    """
    By ``model`` in the JSON body, which the configuration may change.

    :raises BadRequest: when the body is not a JSON object
    """
    model, stream = peek(request.body)
    return Call(model, Where.BODY, stream, shaped=True)


def by_form(request: Request) -> Call:
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
    return Call(form.model, Where.FORM, form=form)


def by_query(request: Request) -> Call:
    """
    By ``?model=``; a GET loads nothing unless ``autoload=true`` stands there too.

    :raises BadRequest: when backends might find another model in it, or another path
    """
    keep_in_place(request.path)
    _, _, query = request.uri.partition(b"?")
    return Call(_model_of(query), Where.QUERY, load=_may_load(request))


def by_path(request: Request, names: Names) -> Call:
    """
    By what follows ``/upstream/``; the rest of the path is the engine's, as it is.

    A name may have slashes in it, written as they are or as ``%2F``: the longest beginning that is
    a name is taken, else the shortest that a pattern fits, else the first part.

    :raises PathNotFound: when nothing follows
    :raises BadRequest: when the rest leads out of it
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
    keep_in_place(given[end:])
    query = request.uri[len(request.path) :]
    if end == len(given) and request.method in LOOKING:
        raise Moved(request.path + b"/" + query)
    upgrade = request.requestHeaders.getRawHeaders(b"upgrade", [None])[0]
    if b"upgrade" not in _tokens(request, b"connection"):
        upgrade = None
    return Call(
        model,
        Where.PATH,
        load=upgrade is not None or _may_load(request),
        target=(given[end:] or b"/") + query,
        upgrade=upgrade,
    )


def _model_of(query: bytes) -> str | None:
    """
    The value of ``model`` in a query.

    :raises BadRequest: when it stands there twice, or as only some readers would find it: some
        split at semicolons, some take the first of several, some the last
    """
    fields = [field.partition(b"=") for field in re.split(b"[&;]", query)]
    ours = [(key, value) for key, _, value in fields if _decoded(key) == b"model"]
    if not ours:
        return None
    plain = query.split(b"&")
    if len(ours) > 1 or not any(
        field.partition(b"=") == (b"model", b"=", ours[0][1]) for field in plain
    ):
        raise BadRequest(
            "Say once which model, as ?model=…: in this query, some servers would find another.",
            param="model",
        )
    try:
        return _decoded(ours[0][1]).decode()
    except UnicodeDecodeError:
        raise BadRequest("?model= is not UTF-8.", param="model") from None


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def keep_in_place(path: bytes) -> None:
    """
    See to it that a path means the same to every server.

    :param path: as it came, without a query
    :raises BadRequest: when it has ``.`` or ``..`` as a part of it, backslashes or control
        characters, percent-encoded (once or more often) or not
    """
    plain = path
    for _ in range(MOST_ENCODED):
        plain = unquote_to_bytes(plain)
    # Some servers cut a part off at its semicolon first.
    parts = [part.partition(b";")[0] for part in plain.split(b"/")]
    odd = re.search(rb"[\\\0-\x1f\x7f]", plain) or unquote_to_bytes(plain) != plain
    if odd or b"." in parts or b".." in parts:
        raise BadRequest(
            "The path may lead to another place on some servers: it has `.` or `..` for a part, a "
            "backslash, a control character, or is percent-encoded again and again."
        )


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
