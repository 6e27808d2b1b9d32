"""
Path, query and body of a request as they are sent to the engine; mostly unchanged.

Where the model is in the request was found out by call.py; the head is written by exchange.py.
"""

from __future__ import annotations

from itertools import product
from math import isfinite
from typing import Annotated
from urllib.parse import quote

import msgspec
from msgspec import Meta, Raw

from llamagw.config import ModelConfig
from llamagw.dialects import Where
from llamagw.errors import BadRequest
from llamagw.proxy.call import Call
from llamagw.proxy.request import Request

#: Limits of a JSON body that is changed. Colons bound the number of keys, each of which takes some
#: 250 bytes and 0.2 µs; an escape in a key takes 10 ns; a long key would be in memory twice. Where
#: only `model` is read they do not apply, since other keys are not kept then.
MOST_COLONS, MOST_ESCAPES, LONGEST_KEY = 200_000, 3_000_000, 64 * 1024

#: Maximum number of colons where keys are only compared, which takes 0.03 µs each.
MOST_LOOKED_AT = 1_000_000

_ABSENT, _NULL = Raw(b""), Raw(b"null")

#: The keys that say how many tokens an answer may have, whether the engine knows them or not.
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict")

#: Characters of a number that anybody means.
_DIGITS = 30

#: The key that ``json_object: strict`` is about, the type that it makes binding, and by what: to
#: llama-server a type without a schema forbids nothing.
_FORMAT, _OBJECT = "response_format", "json_object"
_ANY_OBJECT = {"type": "object"}

#: `model` wholly or partly in capitals. Some servers (in Go) accept such a key as `model`.
_VARIANTS = ["".join(v) for v in product(*((c, c.upper()) for c in "model")) if v != tuple("model")]

#: Decodes all keys that some server accepts as `model`, beside `model`.
Variants = msgspec.defstruct(
    "Variants",
    [(f"variant_{number}", Raw, _ABSENT) for number in range(len(_VARIANTS))],
    rename={f"variant_{number}": variant for number, variant in enumerate(_VARIANTS)},
)
_NONE = Variants()
_variants = msgspec.json.Decoder(Variants).decode
_Key = Annotated[str, Meta(max_length=LONGEST_KEY)]
_number = msgspec.json.Decoder(float).decode
_fields = msgspec.json.Decoder(dict[_Key, Raw]).decode


def check_large(call: Call, body: bytes, model: ModelConfig, name: str | None) -> None:
    """
    Check that `outgoing` takes less than 100 ms for a body of many megabytes.

    Counting takes 0.3 ns per byte, so it has a reactor turn of its own.

    :param name: as for `outgoing`
    :raises BadRequest: if the body has too many keys or escapes
    """
    if call.where is not Where.BODY:
        return
    if _shapes(call, model, body) or name not in (None, call.model):
        limits = [(b":", MOST_COLONS, "keys"), (b"\\", MOST_ESCAPES, "escapes")]
    elif name is not None:
        limits = [(b":", MOST_LOOKED_AT, "keys")]
    else:
        return
    for mark, most, what in limits:
        if body.count(mark) > most:
            raise BadRequest(
                f"The body has too many {what} for this model, whose configuration makes the "
                f"gateway read them: over {most} times `{mark.decode()}`."
            )


def _shapes(call: Call, model: ModelConfig, body: bytes) -> bool:
    """Whether the model's configuration, or the limits of a key, may change the body."""
    return call.shaped and bool(
        call.longest
        or model.set_params
        or model.default_params
        or model.strip_params
        or (model.json_object == "strict" and _FORMAT.encode() in body)
    )


def outgoing(
    request: Request, call: Call, model: ModelConfig, name: str | None
) -> tuple[bytes, bytes]:
    """
    Path and query, and body, as they are sent to the engine.

    :param call: what the request asks for
    :param model: its ``set_params``, ``default_params``, ``strip_params`` and ``json_object`` apply
    :param name: the model's name on the server; None if the server accepts any
    :raises BadRequest: if a remote server might find another model in the request, or it cannot be
        changed as configured
    """
    target, body = call.target or request.uri, request.body
    put: dict[str, object] = {}
    if name is not None and name != call.model:
        if call.where is Where.BODY:
            put = {"model": name}
        elif call.form is not None:
            body = call.form.renamed(body, name)
        elif call.where is Where.QUERY:
            target = _renamed_query(target, name)
    shapes = _shapes(call, model, body)
    if put or shapes:
        if shapes:
            put.update(model.set_params)
        default, strip = (model.default_params, model.strip_params) if shapes else ({}, [])
        strict = shapes and model.json_object == "strict"
        body = reshape(
            body, put, default, strip, once=name is not None, strict=strict, longest=call.longest
        )
    elif call.where is Where.BODY and name is not None and _variants(body) != _NONE:
        raise _twice()
    return target, body


def _twice() -> BadRequest:
    """The error for a body whose model a server of unknown make may read elsewhere."""
    return BadRequest(
        "The body has the key `model` in capitals, which some servers read and others do not; "
        "write it in lower case, once.",
        param="model",
    )


def reshape(
    body: bytes,
    put: dict[str, object],
    default: dict[str, object],
    strip: list[str],
    once: bool = False,
    strict: bool = False,
    longest: tuple[tuple[str, ...], int] | None = None,
) -> bytes:
    """
    Change some keys of a JSON object; other values are copied byte by byte.

    :param put: values that are set, whether the key is there or not
    :param default: values that are set if the key is missing
    :param strip: keys that are removed
    :param once: whether the key ``model`` in capitals is refused, as some servers (in Go) read it
    :param strict: whether a ``response_format`` of type ``json_object`` gets a schema
    :param longest: as in `Call`: keys that say how long an answer may be, and the most tokens
    :raises BadRequest: if it is not a JSON object, or has a key that is too long or refused
    """
    fields = _read(body)
    if once and any(variant in fields for variant in _VARIANTS):
        raise _twice()
    for key in strip:
        fields.pop(key, None)
    fields = {**default, **fields, **put}
    if strict and _FORMAT in fields:
        fields[_FORMAT] = _binding(fields[_FORMAT])
    if longest is not None:
        _bound(fields, *longest)
    return msgspec.json.encode(fields)


def _bound(fields: dict[str, object], names: tuple[str, ...], most: int) -> None:
    """
    Have an answer be no longer than it may be, whatever the client and the configuration say.

    :param fields: the keys of the body
    :param names: those that the engine knows; the first is set if none of them is there
    :param most: tokens
    """
    least = most
    for name in LENGTHS:
        given = fields.get(name)
        if given is None or given == _NULL:
            fields.pop(name, None)
            continue
        number = as_number(given if isinstance(given, Raw) else msgspec.json.encode(given))
        if number is None or not 0 <= number <= most:
            fields[name] = most
        else:
            least = min(least, int(number))
    if not any(name in fields for name in names):
        fields[names[0]] = least


def as_number(given: bytes) -> float | None:
    """
    A number of JSON.

    :param given: as it was sent
    :return: None if it is none, or none that anybody means
    """
    if len(given) > _DIGITS:
        return None
    try:
        number = _number(given)
    except msgspec.DecodeError:
        return None
    return number if isfinite(number) else None


def _binding(given: object) -> object:
    """A ``response_format`` with a schema, if it asks for an object and has none."""
    asked = msgspec.json.encode(given)
    if not asked.lstrip().startswith(b"{"):
        return given
    inner = _read(asked)
    if inner.get("type") != Raw(msgspec.json.encode(_OBJECT)) or "schema" in inner:
        return given
    return {**inner, "schema": _ANY_OBJECT}


def _read(body: bytes) -> dict[str, object]:
    """
    The keys of a JSON object, with values that are not decoded.

    :raises BadRequest: if it is none, or has a key that is too long
    """
    try:
        return dict(_fields(body))
    except msgspec.ValidationError as error:
        # `peek` has seen that it is an object; a key that is too long is not hashed or kept.
        if "length" not in str(error):
            raise BadRequest('The body must be a JSON object such as {"model": "…", …}.') from None
        raise BadRequest(f"The body has a key of over {LONGEST_KEY} characters.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None


def _renamed_query(target: bytes, name: str) -> bytes:
    # `_model_of` has checked that there is one at most, and that it is written like this.
    path, _, query = target.partition(b"?")
    others = [f for f in query.split(b"&") if f and f.partition(b"=")[0] != b"model"]
    return path + b"?" + b"&".join([*others, b"model=" + quote(name, safe="").encode()])
