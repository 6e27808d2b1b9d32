"""Fuzz targets of what is read and changed in a request: forms, queries, JSON.

Of each it is checked that another reader understands the same model as the gateway does, before
and after the model got another name.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote_to_bytes

from multipart import MultipartError, PushMultipartParser, parse_options_header
from twisted.web.http import parse_qs
from twisted.web.http_headers import Headers

from llamagw.config import NAME_LENGTH
from llamagw.errors import GatewayError
from llamagw.proxy import by_body, by_form, by_query
from llamagw.proxy.rewrite import outgoing, reshape
from tests.support.configs import local_model

MODEL = local_model("small")
NAME = "other/näme"


class _Request:
    """As much of a request as a reader looks at."""

    method = b"POST"

    def __init__(self, target: bytes = b"/", body: bytes = b"", kind: bytes | None = None) -> None:
        self.uri, self.body = target, body
        self.path, _, query = target.partition(b"?")
        self.args = parse_qs(query, keep_blank_values=1) if query else {}
        self.requestHeaders = Headers({} if kind is None else {b"content-type": [kind]})


def _fake(*args: Any, **more: Any) -> Any:
    return _Request(*args, **more)


Part = tuple[str | None, list[tuple[str, str]], bytes]


def _parts(body: bytes, kind: bytes) -> list[Part]:
    _, options = parse_options_header(kind.decode("latin-1"))
    parser = PushMultipartParser(options.get("boundary", ""), max_segment_count=10_000)
    found: list[Any] = []
    for part in parser.parse(body):
        if isinstance(part, bytes | bytearray):
            found[-1][2] += part
        elif part is not None:
            found.append([part.name, list(part.headerlist), b""])
    parser.close()
    return [tuple(one) for one in found]


def form(data: bytes) -> None:
    """A form: its Content-Type in the first line, then the body."""
    kind, _, body = data.partition(b"\n")
    if b"\r" in kind or b"\0" in kind:
        return
    request = _fake(b"/v1/audio/transcriptions", body, kind)
    try:
        call = by_form(request)
        target, after = outgoing(request, call, MODEL, NAME)
    except GatewayError:
        return
    assert target == request.uri
    try:
        before = _parts(body, kind)
    except MultipartError as error:
        raise AssertionError(f"it is no form ({error}), and was read as one") from None
    names = [content.decode() for name, _, content in before if name == "model"]
    assert names == ([] if call.model is None else [call.model]), f"{names} and {call.model}"
    found = _parts(after, kind)
    renamed = [content.decode() for name, _, content in found if name == "model"]
    assert renamed == [call.model if call.model == NAME else NAME], renamed
    others = [part for part in before if part[0] != "model"]
    assert [part for part in found if part[0] != "model"] == others, "another part has changed"


def _unquoted(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _fields(query: bytes) -> list[tuple[bytes, bytes]]:
    """As an engine (cpp-httplib) reads a query: split at & only, then decoded."""
    pairs = [field.partition(b"=") for field in query.split(b"&") if field]
    return [(_unquoted(name), _unquoted(value)) for name, _, value in pairs]


def query(data: bytes) -> None:
    """A path with a query."""
    if any(byte <= 0x20 or byte == 0x7F for byte in data) or b"#" in data:
        return  # no request line has these
    target = b"/tokenize?" + data
    request = _fake(target)
    try:
        call = by_query(request)
        _, same = outgoing(request, call, MODEL, None)
        renamed, _ = outgoing(request, call, MODEL, NAME)
    except GatewayError:
        return
    given = [value.decode() for name, value in _fields(data) if name == b"model"]
    assert given == ([] if call.model is None else [call.model]), f"{given}, {call.model!r}"
    assert same == request.body
    path, _, after = renamed.partition(b"?")
    assert path == b"/tokenize"
    fields = _fields(after)
    assert [value.decode() for name, value in fields if name == b"model"] == [NAME], fields
    others = [field for field in _fields(data) if field[0] != b"model"]
    assert [field for field in fields if field[0] != b"model"] == others


PUT: dict[str, object] = {"model": NAME, "temperature": 0.5}
DEFAULT: dict[str, object] = {"top_p": 1, "n": 2}
STRIP = ["seed"]


class _Number(str):
    """One as it is written: whether it fits into 64 bits is the engine's affair."""


def _no_number(text: str) -> float:
    raise ValueError(f"JSON has no {text}")


def _loads(body: bytes) -> Any:
    return json.loads(
        body.decode(), parse_int=_Number, parse_float=_Number, parse_constant=_no_number
    )


def _model(found: Any) -> tuple[bool, str | None]:
    """Whether it is an object whose model is a text or missing; and that."""
    model = found.get("model") if isinstance(found, dict) else None
    sound = isinstance(found, dict) and not isinstance(model, _Number)
    return sound and isinstance(model, str | None), model


def body(data: bytes) -> None:
    """A JSON body."""
    request = _fake(b"/v1/chat/completions", data)
    try:
        other, wrong = _loads(data), None
    except (ValueError, RecursionError) as error:
        other, wrong = None, error
    sound, model = _model(other)
    try:
        call = by_body(request)
    except GatewayError:
        assert not sound or _may_be_refused(data, other), f"Python reads it as {other!r}"
        return
    if isinstance(wrong, RecursionError | UnicodeDecodeError):
        return  # what stands deep inside is not looked at
    assert wrong is None, f"Python does not read it: {wrong!r}"
    assert sound, f"Python reads it as {other!r}"
    assert call.model == model, f"{call.model!r}, and to Python {model!r}"
    try:
        after = reshape(data, PUT, DEFAULT, STRIP)
    except GatewayError:
        return
    expected = {**_loads(json.dumps(DEFAULT).encode()), **other}
    expected.pop("seed", None)
    expected |= _loads(json.dumps(PUT).encode())
    assert _loads(after) == expected, f"{after!r}"


def _may_be_refused(data: bytes, found: dict[str, Any]) -> bool:
    """Whether some reader may see another model in it than Python does, or none."""
    if b"\\u" in data:  # half a surrogate pair, which Python takes
        return True
    if len(found.get("model") or "") > NAME_LENGTH:
        return True
    return any(key != "model" and key.lower() == "model" for key in found)


FORM_WORDS = [
    b"multipart/form-data; boundary=b\n", b'multipart/form-data; boundary="b"\n', b"boundary=",
    b"--b\r\n", b"--b--\r\n", b"\r\n--b\r\n", b"\r\n--b--\r\n", b"\r\n\r\n", b"\r\n", b"--b",
    b"Content-Disposition: form-data; name=model\r\n", b"content-disposition: form-data; ",
    b'Content-Disposition: form-data; name="model"\r\n\r\nsmall', b'name="model"', b"name=model",
    b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n', b"; name=", b"name*=",
    b"Content-Type: audio/wav\r\n", b"RIFF", b"\0", b"\xff", b'"', b"\\", b"utf-8''model", b"\n",
    b"filename=", b"model", b";", b"%22", b"Content-Transfer-Encoding: base64\r\n", b" \t",
]  # fmt: skip
QUERY_WORDS = [
    b"model=small", b"model", b"=", b"&", b";", b"%6dodel", b"%26", b"%3d", b"+", b"%", b"%ff",
    b"%00", b"%2b", b"autoload=true", b"model=", b"Model=", b"model[]=", b"%e2%82%ac", b"a=b", b"?",
]  # fmt: skip
BODY_WORDS = [
    b'{"model": "small"', b"{", b"}", b"[", b"]", b'"', b":", b",", b'"model"', b'"mod\\u0065l"',
    b"null", b"true", b"false", b'"stream": true', b"NaN", b"Infinity", b"-0", b"1e999", b"-",
    b"1.",
    b"99999999999999999999999", b"0.1e-7", b"\\ud800", b"\\u", b"\\", b"\xef\xbb\xbf", b"\xff",
    b'"temperature": 1', b'"top_p": 0.5', b'"seed": [1, {"a": "b"}]', b" ", b"\t\r\n", b"\0",
    b"/**/",
    b'"messages": [{"role": "user", "content": "Hi"}]', b"[" * 100, b'{"a":' * 50, b"\xe2\x82\xac",
]  # fmt: skip
