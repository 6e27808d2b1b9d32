"""
What a request asks for: which model, whether a stream, and which path of the engine.

One reader for each place where a model's name can be (`llamagw.dialects.Where`). Readers do not
change the request, and parse no more of a body than they need. A request is changed for its engine
by rewrite.py.
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

#: How many times a path may be percent-encoded.
MOST_ENCODED = 3

#: Maximum length in JSON, in bytes, of a name of `NAME_LENGTH` characters: each may be written as
#: an escaped surrogate pair.
_NAME_BYTES = 12 * NAME_LENGTH + 2

#: Read-only methods: they load no model without ``autoload=true``.
LOOKING = (b"GET", b"HEAD")


#: Messages for a request that names no model when there is no default.
LACKING = {
    Where.BODY: "The body names no `model`.",
    Where.FORM: "The form has no field `model`.",
    Where.QUERY: "Say which model: ?model=….",
    Where.PATH: "The path names no model.",
}


class Call(Struct):
    """
    What a request asks for.

    :ivar model: the name in the request; None if it has none
    :ivar where: where the name is
    :ivar stream: whether the answer is to be a stream of events
    :ivar load: whether the model may be loaded for it
    :ivar shaped: whether ``set_params`` and the like apply to its body
    :ivar target: path and query for the engine; None for those of the request
    :ivar upgrade: the protocol to switch to (such as WebSocket); None for none
    :ivar form: where the model is in the form; None if the body is not a form
    :ivar longest: the keys of the body that say how many tokens its answer may have, and how many
        those are at most; None for any number
    """

    model: str | None
    where: Where
    stream: bool = False
    load: bool = True
    shaped: bool = False
    target: bytes | None = None
    upgrade: bytes | None = None
    form: forms.Form | None = None
    longest: tuple[tuple[str, ...], int] | None = None

    def named(self, default: str | None) -> str:
        """
        The name of the model that the request is for.

        :param default: the name for a request without one; None if none is configured
        :raises BadRequest: if there is neither, or the name is too long
        """
        name = self.model or default
        if not name:
            raise BadRequest(LACKING[self.where], param="model")
        return name if len(name) <= NAME_LENGTH else checked_name(name)


#: Finds out what a request asks for; may raise a GatewayError.
Reader = Callable[[Request], Call]


def checked_name(name: str) -> str:
    """
    Return a model's name from a request, after a check of its length.

    :raises BadRequest: if it is longer than `NAME_LENGTH` characters
    """
    if len(name) > NAME_LENGTH:
        raise BadRequest(
            f"The model's name is longer than {NAME_LENGTH} characters: `{harmless(name, SHOWN)}`.",
            param="model",
        )
    return name


#: A missing value; and the value of ``stream`` that asks for a stream.
_ABSENT, _TRUE = Raw(b""), Raw(b"true")


class Peek(Struct):
    """The keys that are read in a JSON body; undecoded, as a value may be as long as the body."""

    model: Raw = _ABSENT
    stream: Raw = _ABSENT


_peek = msgspec.json.Decoder(Peek).decode
_name = msgspec.json.Decoder(str | None).decode


def by_body(request: Request) -> Call:
    """
    Read ``model`` in the JSON body.

    :raises BadRequest: if the body is not a JSON object
    """
    model, stream = peek(request.body)
    return Call(model, Where.BODY, stream)


def peek(body: bytes) -> tuple[str | None, bool]:
    """
    Read ``model`` and ``stream`` in a JSON body.

    Of several keys ``model`` the last counts, as with every JSON parser that accepts them.

    :return: its ``model``, and whether ``stream`` is true
    :raises BadRequest: if it is not a JSON object
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
    Read ``model`` in the JSON body, for a route where the configuration may change the body.

    :raises BadRequest: if the body is not a JSON object
    """
    model, stream = peek(request.body)
    return Call(model, Where.BODY, stream, shaped=True)


def by_form(request: Request) -> Call:
    """
    Read the field ``model`` of a multipart form.

    :raises BadRequest: if the body is not a form, or one that parsers may read differently
    """
    # Of two Content-Types the backend may use the other one.
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
    Read ``?model=``; a GET loads nothing without ``autoload=true``.

    :raises BadRequest: if backends might find another model in the query, or another path
    """
    keep_in_place(request.path)
    _, _, query = request.uri.partition(b"?")
    return Call(_model_of(query), Where.QUERY, load=_may_load(request))


def by_path(request: Request, names: Names) -> Call:
    """
    Read the name that follows ``/upstream/``; the rest of the path is passed to the engine.

    A name may contain slashes, plain or as ``%2F``: the longest prefix that is a name is taken,
    else the shortest that a pattern matches, else the first segment.

    :param names: the configured names, aliases and patterns
    :raises PathNotFound: if nothing follows
    :raises BadRequest: if the rest may lead to another path on some servers
    :raises Moved: if only the name follows: relative links of a page need the slash after it
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
    The value of ``model`` in a query; None without one.

    :raises BadRequest: if it is there twice, or only some servers would find it: some split at
        semicolons, some take the first of several, some the last
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
    Check that a path means the same to every server.

    :param path: as received, without the query
    :raises BadRequest: if a segment is ``.`` or ``..``, or there are backslashes or control
        characters, percent-encoded (once or repeatedly) or not
    """
    plain = path
    for _ in range(MOST_ENCODED):
        plain = unquote_to_bytes(plain)
    # Some servers remove path parameters (from the semicolon on) first.
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
