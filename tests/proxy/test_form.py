"""
Promises of llamagw.proxy.form: the field `model` is found, and changed alone.

The `multipart` library and Python's `email` are the other readers: what is accepted, they have to
read in the same way.
"""

from __future__ import annotations

import email
import email.policy
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multipart import PushMultipartParser

from llamagw.errors import BadRequest
from llamagw.proxy import form as module
from llamagw.proxy.form import boundary_of, read

MODEL = b'Content-Disposition: form-data; name="model"\r\n'
FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n'


class Seen(NamedTuple):
    """A part as another reader has it."""

    name: str
    filename: str | None
    content: bytes


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"xyz") -> bytes:
    """A form of parts: the lines of their headers, and their contents."""
    written = (b"--%b\r\n%b\r\n%b\r\n" % (boundary, head, content) for head, content in parts)
    return b"".join(written) + b"--%b--\r\n" % boundary


def seen(body: bytes, boundary: bytes) -> list[Seen]:
    """The parts, as the library reads them."""
    parts: list[Seen] = []
    with PushMultipartParser(boundary, max_segment_count=1000) as parser:
        for event in parser.parse(body):
            if isinstance(event, bytes | bytearray):
                parts[-1] = parts[-1]._replace(content=parts[-1].content + event)
            elif event is not None:
                parts.append(Seen(event.name, event.filename, b""))
    return parts


def by_email(body: bytes, boundary: bytes) -> list[bytes]:
    """The fields `model`, as Python's email package reads them."""
    head = b'Content-Type: multipart/form-data; boundary="%b"\r\n\r\n' % boundary
    message = email.message_from_bytes(head + body, policy=email.policy.compat32)
    found: Any = message.get_payload()
    return [
        part.get_payload(decode=True)
        for part in (found if isinstance(found, list) else [])
        if part.get_param("name", header="content-disposition") == "model"
        and part.get_filename() is None
    ]


def refused(body: bytes, boundary: bytes = b"xyz") -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        read(body, boundary)
    return caught.value


# Random forms


class Drawn(NamedTuple):
    boundary: bytes
    before: bytes
    parts: list[tuple[bytes, bytes]]
    after: bytes
    #: Which of the parts is the field `model`.
    model: int | None

    def body(self) -> bytes:
        return self.before + form(*self.parts, boundary=self.boundary) + self.after


@st.composite
def forms(draw: st.DrawFn) -> Drawn:
    token = "0123456789abcxyz'+_.-"
    boundary = draw(st.text(token, min_size=1, max_size=70) | st.just("a")).encode()
    dashes = b"--" + boundary
    quotes = [
        b"\r\n", b"\n", b"--", b"\r\n--", b"--xyz", b'; name="model"', b"\0",
        b"content-disposition:;", MODEL, MODEL + b"\r\nno\r\n", b"\r\n" + MODEL + b"\r\n",
        boundary[:-1], b"\r\n--" + boundary[:-1],
    ]  # fmt: skip
    content = st.lists(st.sampled_from(quotes) | st.binary(max_size=4), max_size=8).map(b"".join)

    def harmless(text: bytes, begin: bytes = b"\n") -> bool:
        return dashes not in begin + text + b"\r\n--"

    spaces = st.sampled_from([b"", b" ", b"  "])
    lines = st.sampled_from(
        [b"Content-Type: text/plain", b"content-type:audio/wav", b'X-Y: a; name="model"', b"X-Z:"]
    )

    def part(name: bytes, filename: bytes | None, text: bytes) -> tuple[bytes, bytes]:
        header = draw(st.sampled_from([b"Content-Disposition", b"content-disposition"]))
        kind = draw(st.sampled_from([b"form-data", b"Form-Data"]))
        parameters = [
            draw(spaces) + b";" + draw(spaces) + key + draw(spaces) + b"=" + draw(spaces) + value
            for key, value in ((b"name", name), (b"filename", filename))
            if value is not None
        ]
        if draw(st.booleans()):
            parameters.reverse()
        disposition = b"%b:%b%b%b" % (header, draw(spaces), kind, b"".join(parameters))
        others = draw(st.lists(lines, max_size=2, unique_by=lambda line: line[:9].lower()))
        if draw(st.integers(0, 3)) == 0:
            others.append(b"Content-Length: %d" % len(text))
        head = draw(st.permutations([disposition, *others]))
        return b"".join(line + b"\r\n" for line in head), text

    names = st.sampled_from(
        [b"file", b'"file"', b'"models"', b'"Model"', b'"a model"', b'""', b'"model[]"', b"a'b"]
    )
    filenames = st.sampled_from(
        [
            b'"a; name=model"', b'"; name=\\"model\\""', b'"a\\"b"', b"model", b'""', b'"\\\\"',
            "\"é; name='model'\"".encode(), b'"C:\\model"',
        ]
    )  # fmt: skip
    parts = [
        part(name, filename, text)
        for name, filename, text in draw(
            st.lists(st.tuples(names, st.none() | filenames, content.filter(harmless)), max_size=4)
        )
    ]
    model = None
    if draw(st.integers(0, 3)):
        model = draw(st.integers(0, len(parts)))
        value = draw(st.text(max_size=12).map(str.encode).filter(harmless))
        parts.insert(model, part(draw(st.sampled_from([b"model", b'"model"'])), None, value))
    before = draw(st.sampled_from([b"", b"\r\n", b"x\r\n"]).filter(lambda text: dashes not in text))
    after = draw(st.just(b"") | content.filter(harmless))
    return Drawn(boundary, before, parts, after, model)


@settings(deadline=None, max_examples=400)
@given(drawn=forms(), name=st.text("abcé/:", min_size=1, max_size=12))
def test_the_model_is_found_and_changed_and_no_other_byte_is(drawn: Drawn, name: str) -> None:
    body = drawn.body()
    there = None if drawn.model is None else drawn.parts[drawn.model][1]
    found = read(body, drawn.boundary)
    assert found.model == (None if there is None else there.decode())
    renamed = found.renamed(body, name)

    new = name.encode()
    parts = list(drawn.parts)
    if drawn.model is None:
        parts.insert(0, (MODEL, new))
    else:
        head, _ = parts[drawn.model]
        length = b"Content-Length: %d\r\n"
        parts[drawn.model] = head.replace(length % len(there or b""), length % len(new)), new
    assert renamed == drawn._replace(parts=parts).body()

    again = read(renamed, drawn.boundary)
    assert again.model == name
    assert again.renamed(renamed, name) == renamed

    theirs = seen(renamed, drawn.boundary)
    at = drawn.model or 0
    assert theirs.pop(at) == Seen("model", None, new)
    before = seen(body, drawn.boundary)
    if drawn.model is not None:
        before.pop(at)
    assert theirs == before
    assert not any(part.name == "model" and part.filename is None for part in theirs)
    assert by_email(renamed, drawn.boundary) == [new]


PIECES = [
    b"--a", b"--a\r\n", b"\r\n--a\r\n", b"\r\n--a--", b"\r\n--a--\r\n", b"\r\n", b"\n", b"\r", b"-",
    b"\r\n\r\n", MODEL, FILE, MODEL + b"\r\nm", b"Content-Disposition: form-data", b"; ", b"name=",
    b"name = ", b'"model"', b"model", b'"', b"\\", b";", b"filename=", b"filename*=", b"name*=",
    b"Content-Length: 1\r\n", b"Content-Length:", b" ", b"\t", b"\0", b"\xff", b"x", b"%22", b":",
    b"\r\n--a\r\n" + MODEL + b"\r\nm", b"Content-Type: a\r\n", b"=", b"a",
]  # fmt: skip


@settings(deadline=None, max_examples=3000)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12), kept=st.booleans())
def test_what_is_accepted_other_readers_read_in_the_same_way(
    pieces: list[bytes], kept: bool
) -> None:
    body = b"".join(pieces)
    if kept:
        body = b"--a\r\nContent-Disposition: form-data; " + body + b"\r\n--a--\r\n"
    try:
        found = read(body, b"a")
    except BadRequest:
        return
    parts = seen(body, b"a")
    fields = [part.content for part in parts if part.name == "model" and part.filename is None]
    assert fields == ([] if found.model is None else [found.model.encode()])
    assert by_email(body, b"a") == fields


PARAMETERS = [
    "; ", ";", " ", "\t", "name", "filename", "x", "=", "*=", "*0=", '"', "\\", "model", "mo",
    "del", '="model"', "=model", '"a; name=model"', "%22", "utf-8''", "é", "/", "'",
]  # fmt: skip


@settings(deadline=None, max_examples=2000)
@given(
    parameters=st.lists(
        st.sampled_from(PARAMETERS),
        max_size=12,
    ).map("".join)
)
def test_a_disposition_that_is_accepted_is_read_by_the_library_in_the_same_way(
    parameters: str,
) -> None:
    body = form((f"Content-Disposition: form-data; name{parameters}\r\n".encode(), b"m"))
    try:
        found = read(body, b"xyz")
    except BadRequest:
        return
    [part] = seen(body, b"xyz")
    assert (part.name == "model" and part.filename is None) == (found.model is not None)


# One by one


@pytest.mark.parametrize(
    "body",
    [
        form((FILE.replace(b"a.wav", b"a; name=model"), b"sound")),
        form((FILE, b"X: 1\r\n" + MODEL + b"\r\nquoted")),
        form((FILE, b"content-disposition:;" * 1000)),
    ],
    ids=["a filename", "a content", "lines"],
)
def test_what_only_looks_like_the_field_is_left_as_it_is(body: bytes) -> None:
    found = read(body, b"xyz")
    assert found.model is None
    field = b"--xyz\r\n" + MODEL + b"\r\ntheirs\r\n"
    assert found.renamed(body, "theirs") == field + body


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name = "model"\r\n',
        b"content-disposition:form-data;name=model\r\n",
        b'CONTENT-DISPOSITION: FORM-DATA ;  NAME="model";\r\n',
        b"X-Long: %b\r\n" % (b"x" * 3900) + MODEL,
        b'Content-Disposition: form-data; size=1; name="model"\r\n',
        MODEL + b"Content-Transfer-Encoding: 8bit\r\nContent-Type: text/plain\r\n",
    ],
)
def test_however_the_field_is_written_it_is_changed_in_its_place(head: bytes) -> None:
    body = form((FILE, b"sound"), (head, b"mine"))
    found = read(body, b"xyz")
    assert found.model == "mine"
    assert found.renamed(body, "theirs") == form((FILE, b"sound"), (head, b"theirs"))


def test_the_length_that_a_part_gives_is_the_new_one() -> None:
    def body(model: bytes) -> bytes:
        return form((b"Content-Length:  %d\r\n%b" % (len(model), MODEL), model), (FILE, b"sound"))

    assert read(body(b"m"), b"xyz").renamed(body(b"m"), "x" * 12) == body(b"x" * 12)
    assert seen(body(b"x" * 12), b"xyz")[0].content == b"x" * 12


def test_an_empty_field_is_a_field() -> None:
    body = form((MODEL, b""))
    found = read(body, b"xyz")
    assert found.model == ""
    assert found.renamed(body, "m") == form((MODEL, b"m"))


def test_a_form_without_parts_gets_the_field() -> None:
    found = read(b"--xyz--", b"xyz")
    assert found.model is None
    assert found.renamed(b"--xyz--", "m") == b"--xyz\r\n" + MODEL + b"\r\nm\r\n--xyz--"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (form((MODEL, b"a"), (FILE, b""), (MODEL, b"b")), "more than one"),
        (form((MODEL, b"a"), (MODEL, b"a")), "more than one"),
        (form((MODEL.replace(b'model"', b'model"; filename="m"'), b"a")), "is a file"),
        (form((MODEL.replace(b'model"', b'model"; filename=""'), b"a")), "is a file"),
        (form((MODEL.replace(b'model"', b"model\"; filename*=utf-8''m"), b"a")), "is a file"),
        (form((MODEL + b"Content-Transfer-Encoding: base64\r\n", b"bQ==")), "encoded"),
        (form((MODEL, b"m" * (module.MOST_MODEL + 1))), "over 1024 bytes"),
        (form((MODEL, b"\xff")), "UTF-8"),
    ],
)
def test_a_model_that_is_not_one_name_is_refused(body: bytes, said: str) -> None:
    error = refused(body)
    assert said in error.message
    assert error.param == "model"


@pytest.mark.parametrize(
    "parameters",
    [
        b'name="x"; name="model"',
        b'name="model"; name="x"',
        b"name=model; NAME=model",
        b"name*=utf-8''model",
        b"name=\"x\"; name*=utf-8''model",
        b'name*0="mo"; name*1="del"',
        b'name="mo\\del"',
        b'name="x; name=model; y"',
        b'name="x"; y="; name=model; z"',
        b'name="x"; y="\\"; name=model; z=\\""',
        b'name="x" name="model"',
        b"name=model/x",
        b'name="model',
        b'\tname="model"',
        b'name="x";\tname="model"',
        b'name="x";; name="model"',
        b'name="x"; filename="a\\"; name="model"',
        b'name="x"; filename="a"; filename="b"',
    ],
)
def test_a_disposition_that_can_be_read_in_two_ways_is_refused(parameters: bytes) -> None:
    error = refused(form((b"Content-Disposition: form-data; %b\r\n" % parameters, b"m")))
    assert "Content-Disposition" in error.message


@pytest.mark.parametrize(
    "head",
    [
        FILE + MODEL,
        FILE + MODEL.lower(),
        FILE + b"X: 1\r\nx: 2\r\n",
        FILE.replace(b"\r\n", b"\n") + MODEL,
        FILE.replace(b"\r\n", b"\r\n ") + MODEL,
        FILE + b"Content-Disposition : form-data; name=model\r\n",
        FILE + b"nonsense\r\n",
        FILE + b"X: \0\r\n",
        FILE + b"X: \xff\r\n",
        FILE + b"Content-Length: 2\r\n",
        FILE + b"Content-Length: 01\r\n",
        FILE + b"Content-Length: %b\r\n" % (b"1" * 4000),
        b"Content-Type: text/plain\r\n",
        b"Content-Disposition: attachment; name=model\r\n",
        b"Content-Disposition: form-data\r\n",
        b"",
    ],
)
def test_headers_that_can_be_read_in_two_ways_are_refused(head: bytes) -> None:
    assert "multipart" in refused(form((head, b"m"))).message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"--xyz",
        b"--xyz\r\n",
        form((FILE, b"")).removesuffix(b"--\r\n"),
        form((FILE, b"")).removesuffix(b"--xyz--\r\n"),
        form((FILE, b"")).replace(b"--xyz--", b"--xyz--x"),
        form((FILE, b"")).replace(b"--xyz--", b"--xyz --"),
        form((FILE, b"x\r\n--xyzx\r\n")),
        form((FILE, b"x\r\n--xyz \r\n" + MODEL)),
        form((FILE, b"x\r\n--xyzxx" + MODEL + b"\r\nm")),
        form((FILE, b"x\n--xyz\r\n" + MODEL + b"\r\nm")),
        form((FILE, b"x\n--xyz\n" + MODEL + b"\r\nm")),
        form((FILE, b"x\r--xyz\r" + MODEL + b"\r\nm")),
        form((FILE, b"--xyz\r\n" + MODEL + b"\r\nm")),
        form((FILE + b"--xyz: x\r\n", b"m")),
        b"x--xyz\r\n" + form((MODEL, b"m")),
        b"\n" + form((MODEL, b"m")),
    ],
)
def test_lines_that_can_be_read_as_boundaries_or_not_are_refused(body: bytes) -> None:
    assert "multipart" in refused(body).message


@pytest.mark.parametrize("more", [form((MODEL, b"m")), b"--xyz--\r\n", b"x\r\n--xyz--"])
def test_a_form_that_goes_on_after_its_last_boundary_is_refused(more: bytes) -> None:
    assert "after its last boundary" in refused(form((FILE, b"")) + more).message


def test_what_is_before_and_behind_the_form_stays() -> None:
    body = b"before\r\n" + form((MODEL, b"m")) + b"behind\r\nx--xyz"
    found = read(body, b"xyz")
    assert found.model == "m"
    done = b"before\r\n" + form((MODEL, b"theirs")) + b"behind\r\nx--xyz"
    assert found.renamed(body, "theirs") == done


@pytest.mark.parametrize(
    ("most", "said"),
    [
        (lambda n: form(*[(FILE, b"")] * (module.MOST_FIELDS + n)), "parts"),
        (lambda n: form((FILE, b"x--xyz" * (module.MOST_FIELDS + n))), "again and again"),
        (lambda n: form((FILE + b"X: %b\r\n" % (b"x" * _left(n)), b"")), "headers"),
        (lambda n: form((FILE + b"".join(b"X%d:\r\n" % k for k in range(7 + n)), b"")), "headers"),
        (lambda n: form(*[(_head(2048), b"")] * 127, (_head(2048 + n), b"")), "headers"),
    ],
    ids=["parts", "boundaries inside", "a head", "headers", "heads"],
)
def test_what_costs_work_has_a_limit(most: object, said: str) -> None:
    assert callable(most)
    assert read(most(0), b"xyz").model is None
    assert said in refused(most(1)).message


def test_a_large_form_that_is_mostly_dashes_is_refused_and_others_are_not() -> None:
    size = module.MOST_DASHES
    for value, is_refused in ((b"-" * (size - 1000), False), (b"-" * size, True)):
        body = form((FILE, value))
        assert (len(body) > size) is is_refused
        if is_refused:
            assert "dashes" in refused(body).message
        else:
            read(body, b"xyz")
    read(form((FILE, b"---x" * (size // 4))), b"xyz")


def _left(more: int) -> int:
    """Bytes that a header can have beside that of the file."""
    return module.MOST_HEAD - len(FILE) - len(b"X: \r\n") - 2 + more


def _head(size: int) -> bytes:
    """A head of so many bytes, without the CR LF at its end."""
    return FILE + b"X: %b\r\n" % (b"x" * (size - len(FILE) - len(b"X: ")))


@pytest.mark.parametrize(
    ("given", "boundary"),
    [
        (b"multipart/form-data; boundary=xyz", b"xyz"),
        (b'Multipart/Form-Data;boundary="x z:/=?";charset=utf-8', b"x z:/=?"),
        (b"multipart/form-data; boundary=" + b"x" * 70, b"x" * 70),
        (
            b"multipart/form-data; boundary=----WebKitFormBoundary7MA4",
            b"----WebKitFormBoundary7MA4",
        ),
        (b"multipart/form-data; boundary=*****", b"*****"),
        (b"multipart/form-data", None),
        (b"multipart/mixed; boundary=x", None),
        (b"application/json", None),
        (b"", None),
    ],
)
def test_the_boundary_is_that_of_the_content_type(given: bytes, boundary: bytes | None) -> None:
    assert boundary_of(given) == boundary


@pytest.mark.parametrize(
    "parameters",
    [
        b'boundary=""',
        b"boundary=" + b"x" * 71,
        b'boundary="x "',
        b'boundary=" x"',
        b'boundary="x\xe9"',
        b'boundary="x\ty"',
        b'boundary="x\\y"',
        b'boundary="x;y"',
        b"boundary=x/y",
        b"boundary=x, boundary=y",
        b"boundary=x; boundary=y",
        b"boundary=x; BOUNDARY=y",
        b"boundary=x; boundary*=utf-8''y",
        b"xboundary=x; boundary=y",
        b'charset="boundary=x"; boundary=y',
        b"boundary = x",
    ],
)
def test_a_boundary_that_is_none_or_can_be_read_in_two_ways_is_refused(parameters: bytes) -> None:
    with pytest.raises(BadRequest):
        boundary_of(b"multipart/form-data; " + parameters)
