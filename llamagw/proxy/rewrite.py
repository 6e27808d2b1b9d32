"""
Path, query and body of a request as they are sent to the engine; mostly unchanged.

Where the model is in the request was found out by call.py; the head is written by exchange.py.
"""

from __future__ import annotations

from itertools import product
from urllib.parse import quote

import msgspec
from msgspec import Raw

from llamagw.config import ModelConfig
from llamagw.dialects import Where
from llamagw.errors import BadRequest
from llamagw.proxy.call import Call
from llamagw.proxy.connections import LARGE
from llamagw.proxy.request import Request

#: Limits of a JSON body that is changed. Colons bound the number of keys, each of which takes some
#: 250 bytes and 0.2 µs; a long key would be in memory twice. Where only `model` is read they do not
#: apply, since other keys are not kept then.
MOST_COLONS, LONGEST_KEY = 200_000, 64 * 1024

#: Maximum number of colons where keys are only compared, which takes 0.03 µs each.
MOST_LOOKED_AT = 1_000_000

_ABSENT = Raw(b"")

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


def outgoing(
    request: Request, call: Call, model: ModelConfig, name: str | None
) -> tuple[bytes, bytes]:
    """
    Path and query, and body, as they are sent to the engine.

    :param call: what the request asks for
    :param model: its ``set_params``, ``default_params`` and ``strip_params`` apply
    :param name: the model's name on the server; None if the server accepts any
    :raises BadRequest: if a remote server might find another model in the request, or it cannot be
        changed as configured
    """
    target, body = call.target or request.uri, request.body
    if call.where is Where.BODY and name is not None:
        _see_one_model(body)
    put: dict[str, object] = {}
    if name is not None and name != call.model:
        if call.where is Where.BODY:
            put = {"model": name}
        elif call.form is not None:
            body = call.form.renamed(body, name)
        elif call.where is Where.QUERY:
            target = _renamed_query(target, name)
    if call.shaped and (model.set_params or model.default_params or model.strip_params):
        put.update(model.set_params)
        body = reshape(body, put, model.default_params, model.strip_params)
    elif put:
        body = reshape(body, put, {}, [])
    return target, body


def _see_one_model(body: bytes) -> None:
    """
    Check a body for a server of unknown make: some (in Go) accept ``MODEL`` as ``model``.

    :raises BadRequest: if it has such a key, or too many keys to check
    """
    if len(body) > LARGE and body.count(b":") > MOST_LOOKED_AT:
        raise BadRequest(f"The body has too many keys: over {MOST_LOOKED_AT} colons.")
    if _variants(body) != _NONE:
        raise BadRequest(
            "The body has the key `model` in capitals, which some servers read and others do not; "
            "write it in lower case, once.",
            param="model",
        )


def reshape(
    body: bytes, put: dict[str, object], default: dict[str, object], strip: list[str]
) -> bytes:
    """
    Change some keys of a JSON object; other values are copied byte by byte.

    :param put: values that are set, whether the key is there or not
    :param default: values that are set if the key is missing
    :param strip: keys that are removed
    :raises BadRequest: if it is not a JSON object, or its keys are too many or too long
    """
    if body.count(b":") > MOST_COLONS:
        raise BadRequest(
            f"The body has too many keys to be changed as this model's configuration wants it: "
            f"over {MOST_COLONS} colons."
        )
    try:
        fields: dict[str, object] = dict(msgspec.json.decode(body, type=dict[str, Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The body is not JSON: {error}.") from None
    if max(map(len, fields), default=0) > LONGEST_KEY:
        raise BadRequest(f"The body has a key of over {LONGEST_KEY} characters.")
    for key in strip:
        fields.pop(key, None)
    return msgspec.json.encode({**default, **fields, **put})


def _renamed_query(target: bytes, name: str) -> bytes:
    # `_model_of` has checked that there is one at most, and that it is written like this.
    path, _, query = target.partition(b"?")
    others = [f for f in query.split(b"&") if f and f.partition(b"=")[0] != b"model"]
    return path + b"?" + b"&".join([*others, b"model=" + quote(name, safe="").encode()])
