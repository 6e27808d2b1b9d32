"""
The field `model` of a multipart form (RFC 7578, RFC 2046): reading and replacing it.

When a form has to be changed is decided in rewrite.py.

No parser of a library is used: none reports the offset of a part, and all are lenient, so that two
of them can find different models in one form. The gateway chooses the backend by the model and the
backend parses the form again, so a form that parsers may read differently is refused. Every form
accepted here is read in the same way by the `multipart` library (tests/proxy/test_form.py).
"""

from __future__ import annotations

import re
from itertools import pairwise

from msgspec import Struct

from llamagw.errors import BadRequest

#: Maximum number of parts, and of occurrences of the boundary within lines (clients choose it at
#: random); against attacks on the time that parsing takes.
MOST_FIELDS = 1000
#: Maximum size of the headers of one part, and of all parts together, in bytes.
MOST_HEAD = 4 * 1024
MOST_HEADS = 256 * 1024
#: Maximum number of headers of one part; RFC 7578 defines three.
MOST_HEADERS = 8
#: In a form of more bytes, at most three quarters may be dashes: a search for `--boundary` takes
#: twice as long there.
MOST_DASHES = 16 * 1024 * 1024
#: Maximum size of the field `model`, in bytes.
MOST_MODEL = 1024

#: More than RFC 2046, 5.1.1, as clients use more. `_PARAMETER` excludes `"`, `;` and `\`.
_BOUNDARY = re.compile(rb"[!-~]([ -~]{0,68}[!-~])?")
_HEADER = re.compile(rb"([A-Za-z0-9_-]+):([^\x00-\x08\x0a-\x1f\x7f]*)\r\n")
_TOKEN = rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
#: `; key=value`. Parsers differ in how they read `\` and `;` in a quoted value; a filename may have
#: them, since to all parsers it makes the part a file.
_PARAMETER = re.compile(
    rb" *; *(?:"
    rb'((?i:filename)) *= *(%b|"[^"\\]*(?:\\.[^"\\]*)*")'
    rb"|((?i:filename)\*) *= *(%b)"
    rb'|([A-Za-z0-9_-]+) *= *(%b|"[^"\\;]*"))' % (_TOKEN, _TOKEN, _TOKEN)
)
_FILE = (b"filename", b"filename*")
#: Content-Transfer-Encodings that leave the content unchanged.
_PLAIN = (b"7bit", b"8bit", b"binary")


class Form(Struct, frozen=True):
    """
    Where the model is in a form. Offsets are in bytes, from the beginning of the body.

    :ivar boundary: without the dashes
    :ivar begin: offset of the first boundary
    :ivar model: the value of the field; None without one
    :ivar value: offsets of begin and end of the value
    :ivar length: offsets of begin and end of the value of the part's Content-Length; None without
        one
    """

    boundary: bytes
    begin: int
    model: str | None = None
    value: tuple[int, int] = (0, 0)
    length: tuple[int, int] | None = None

    def renamed(self, body: bytes, name: str) -> bytes:
        """
        The body with the field set to another name, or added; no other byte changes.

        :param body: the body that this form was read from
        :param name: the new value of `model`
        """
        new = name.encode()
        if self.model is None:
            field = b'--%b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
            edits = [(self.begin, self.begin, field % (self.boundary, new))]
        else:
            edits = [(*self.value, new)]
            if self.length is not None:
                edits.insert(0, (*self.length, b"%d" % len(new)))
        # Views, so that a body of 64 MB is copied only once.
        view = memoryview(body)
        pieces: list[bytes | memoryview] = []
        done = 0
        for begin, end, put in edits:
            pieces += (view[done:begin], put)
            done = end
        return b"".join([*pieces, view[done:]])


def boundary_of(content_type: bytes) -> bytes | None:
    """
    The boundary in a Content-Type.

    :return: None if the type is not multipart/form-data, or has no boundary
    :raises BadRequest: if it is not a valid boundary, or parsers may read it differently
    """
    kind, parameters = _parameters(content_type.strip(b" \t"), "Content-Type")
    boundary = parameters.get(b"boundary")
    if kind != b"multipart/form-data" or boundary is None:
        return None
    # Some parsers use what follows the first `boundary=`, even within another value.
    if content_type.lower().count(b"boundary=") != 1:
        raise BadRequest("The form's Content-Type must have `boundary=` once, without spaces.")
    if not _BOUNDARY.fullmatch(boundary):
        raise BadRequest(
            "The boundary of a form must be 1 to 70 visible ASCII characters, "
            "with spaces only between them."
        )
    return boundary


def read(body: bytes, boundary: bytes) -> Form:
    """
    Find the model in a form.

    The whole form is parsed, in linear time, since there may be a second `model` anywhere. Only
    headers and the model's value are copied.

    :param boundary: from `boundary_of`
    :raises BadRequest: if the body is not a form, parsers may read it differently, or it exceeds a
        limit
    """
    if len(body) > MOST_DASHES and body.count(b"-") > len(body) * 3 // 4:
        raise _wrong("it is over 16 MiB, and more than three quarters of it are dashes")
    marks = _boundaries(body, b"--" + boundary)
    form = Form(boundary, marks[0])
    heads = 0
    for mark, following in pairwise(marks):
        # Starts after `--boundary CRLF`; the CRLF before a boundary is part of the boundary.
        begin, end = mark + len(boundary) + 4, following - 2
        blank = body.find(b"\r\n\r\n", begin, min(begin + MOST_HEAD, end))
        if blank < 0:
            raise _wrong(f"a part has no empty line after at most {MOST_HEAD} bytes of headers")
        heads += blank - begin
        if heads > MOST_HEADS:
            raise _wrong(f"the headers of its parts are over {MOST_HEADS} bytes")
        value = (blank + 4, end)
        named, length = _part(body[begin : blank + 2], end - value[0])
        if not named:
            continue
        if form.model is not None:
            raise BadRequest("The form has more than one field `model`.", param="model")
        if length is not None:
            length = (begin + length[0], begin + length[1])
        form = Form(boundary, marks[0], _model(body, *value), value, length)
    return form


def _boundaries(body: bytes, dashes: bytes) -> list[int]:
    """
    The offsets of the boundaries, including the last one.

    A form in which the beginning of a line looks like a boundary and is none is refused. As parsers
    differ in what ends a line, that includes lines after a CR or LF alone.
    """
    marks: list[int] = []
    inside = 0
    closed = False
    # Not bytes.find, which takes twice as long on adversarial bodies.
    for found in re.finditer(re.escape(dashes), body):
        mark = found.start()
        before = body[max(mark - 2, 0) : mark]
        if before[-1:] not in (b"", b"\r", b"\n"):
            inside += 1
            if inside > MOST_FIELDS:
                raise _wrong("its boundary is inside its parts again and again")
            if not marks:
                raise _wrong("something stands before its first boundary, on the same line")
            continue
        if before not in (b"", b"\r\n"):
            raise _wrong("the line before a boundary does not end in CR LF")
        if closed:
            raise _wrong("it goes on after its last boundary")
        if len(marks) > MOST_FIELDS:
            raise _wrong(f"it has more than {MOST_FIELDS} parts")
        marks.append(mark)
        closed = _ends(body, found.end())
    if not marks:
        raise _wrong("no line begins with its boundary")
    if not closed:
        raise _wrong("its last boundary is missing")
    return marks


def _ends(body: bytes, after: int) -> bool:
    """
    Whether a boundary is the last one.

    :param after: offset of the boundary's end
    :raises BadRequest: if its line goes on
    """
    tail = body[after : after + 4]
    if tail in (b"--", b"--\r\n"):
        return True
    if not tail.startswith(b"\r\n"):
        raise _wrong("a line begins with its boundary and goes on")
    return False


def _part(head: bytes, size: int) -> tuple[bool, tuple[int, int] | None]:
    """
    Parse the headers of a part.

    :param head: the header lines, each with its CR LF
    :param size: size of the content, in bytes
    :return: whether the part is the field `model`; and the offsets in the head of begin and end of
        the value of Content-Length, None without one
    :raises BadRequest: if parsers may read them differently, or they exceed a limit
    """
    headers: dict[bytes, bytes] = {}
    length = None
    at = 0
    while at < len(head):
        line = _HEADER.match(head, at)
        if line is None:
            raise _wrong("a part has a header line that is not `Name: value`")
        at = line.end()
        key, value = line[1].lower(), line[2].strip(b" \t")
        if key in headers:
            raise _wrong(f"a part has two headers {key.decode()}")
        headers[key] = value
        if len(headers) > MOST_HEADERS:
            raise _wrong(f"a part has more than {MOST_HEADERS} headers")
        if key == b"content-length":
            if line[2].lstrip(b" \t") != b"%d" % size:
                raise _wrong("the Content-Length of a part is not its length")
            length = (line.end(2) - len(value), line.end(2))
    try:
        head.decode()
    except UnicodeDecodeError:
        raise _wrong("the headers of a part are not UTF-8") from None
    kind, parameters = _parameters(headers.get(b"content-disposition", b""), "Content-Disposition")
    name = parameters.get(b"name")
    if kind != b"form-data" or name is None:
        raise _wrong('a part has no header `Content-Disposition: form-data; name="…"`')
    if name != b"model":
        return False, None
    if any(key in parameters for key in _FILE):
        raise BadRequest("`model` must be a field; in this form it is a file.", param="model")
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN:
        raise BadRequest("The form's `model` must not be encoded.", param="model")
    return True, length


def _parameters(text: bytes, header: str) -> tuple[bytes, dict[bytes, bytes]]:
    """
    The value of a header, in lower case, and its parameters.

    :raises BadRequest: if parsers may read them differently
    """
    kind = text.partition(b";")[0]
    parameters: dict[bytes, bytes] = {}
    at = len(kind)
    while (found := _PARAMETER.match(text, at)) is not None:
        at = found.end()
        key, value = (group for group in found.groups() if group is not None)
        key = key.lower()
        if key in parameters:
            raise BadRequest(f"A {header} of the form gives `{key.decode()}` twice.")
        parameters[key] = value[1:-1] if value[:1] == b'"' else value
    if text[at:].strip(b" ") not in (b"", b";"):
        raise BadRequest(
            f"A {header} of the form can be read in more than one way. After its value may come "
            '`; name=value` or `; name="value"`; only a filename may have `\\` or `;` in its '
            "quotes, and only `filename*=` a star."
        )
    return kind.strip(b" ").lower(), parameters


def _model(body: bytes, begin: int, end: int) -> str:
    if end - begin > MOST_MODEL:
        raise BadRequest(f"The form's `model` is over {MOST_MODEL} bytes.", param="model")
    try:
        return body[begin:end].decode()
    except UnicodeDecodeError:
        raise BadRequest("The form's `model` is not UTF-8.", param="model") from None


def _wrong(what: str) -> BadRequest:
    return BadRequest(f"The body is not a multipart form as it should be: {what}.")
