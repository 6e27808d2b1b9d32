"""
A request as its engine is to get it, which is nearly always as it came: path with query, and body.

Where the model stands in it, and what else it asks for, is known from call.py; who gets it, and the
head that goes with it, is the affair of relay.py and exchange.py.
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

#: A JSON body that is to be changed has no more colons than this, and so no more keys: each takes
#: some 250 bytes and 0.2 µs. Nor has it a longer key, which would be held twice. Where only its
#: `model` is read, keys are not kept.
MOST_COLONS, LONGEST_KEY = 200_000, 64 * 1024

#: Where the keys of a body are looked at, each takes 0.03 µs.
MOST_LOOKED_AT = 1_000_000

_ABSENT = Raw(b"")

#: `model` in capitals, whole or in part. Some servers (those in Go) take such a key for `model`.
_VARIANTS = ["".join(v) for v in product(*((c, c.upper()) for c in "model")) if v != tuple("model")]

#: All the keys of a body that some server takes for `model`, apart from itself.
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
    A request as its engine is to get it: path with query, and body.

    :param model: how requests for this model are shaped
    :param name: what the model is called there, if it has to be called so
    :raises BadRequest: when a remote server might find another model in it; or when it cannot be
        changed as it should
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
    Before a body goes to a server of unknown make: some (those in Go) take ``MODEL`` for ``model``.

    :raises BadRequest: when it has such a key, or too many keys to be looked at
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
    A JSON object with some of its keys changed.

    Values that are not touched stay as they are, byte for byte.

    :param put: keys that get this value, whether they are there or not
    :param default: keys that get this value where they are not there
    :param strip: keys that are taken out
    :raises BadRequest: when it has keys that are no text, or far too many
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
    # `_model_of` has seen that there is one at most, and that it is written as it is here.
    path, _, query = target.partition(b"?")
    others = [f for f in query.split(b"&") if f and f.partition(b"=")[0] != b"model"]
    return path + b"?" + b"&".join([*others, b"model=" + quote(name, safe="").encode()])
