"""Fuzz targets of what keeps secrets out of sight: of a configuration, and of captured requests."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import msgspec
import yaml

from llamagw.config import ConfigError
from llamagw.config.document import Document
from llamagw.config.secrets import MASK, masked_text
from llamagw.observe import Captured
from llamagw.text import harmless

#: The places of secrets.
SECRET = re.compile(r"\.(api_key\.*$|(env|headers)(\.|$))")

#: Bytes that are kept of a body.
LIMIT = 1024


def masked(data: bytes) -> None:
    """The text of a configuration: what is shown has as many lines, and no secret."""
    document = Document("/nowhere/config.yaml")
    with suppress(ConfigError):
        document.parse(data)
    if document.text is None or document.root is None:
        return
    shown = masked_text(document.text, document.root)
    assert shown.count("\n") == document.text.count("\n"), shown
    try:
        found = yaml.compose(shown, yaml.SafeLoader)
    except yaml.YAMLError:
        return  # an alias whose anchor went with its value
    _check(found, "", set())


def _check(node: yaml.Node | None, place: str, above: set[int]) -> None:
    """All that is secret in it is masked."""
    if node is None or id(node) in above:
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            _check(value, f"{place}.{name}", above | {id(node)})
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check(value, f"{place}.", above | {id(node)})
    elif SECRET.search(place):
        assert node.value in ("", MASK), f"{place} is shown: {node.value!r}"


def captured(data: bytes) -> None:
    """A request, its parts one a line: target, a header, and the body."""
    target, _, rest = data.partition(b"\n")
    header, _, body = rest.partition(b"\n")
    name, _, value = header.partition(b":")
    one = Captured(target, [(name, value)], body, LIMIT)
    one.answer.add(body)
    told = one.told()
    assert json.loads(msgspec.json.encode(told))
    for text in (told["request"]["target"], *told["request"]["headers"].values()):
        assert harmless(text) == text, repr(text)
    assert "\x1b" not in told["request"]["body"] + told["response"]["body"]
    if b"\\" not in body and len(body) <= LIMIT:
        with suppress(ValueError, RecursionError):
            json.loads(body)
            json.loads(told["request"]["body"], object_pairs_hook=_no_key, strict=False)


def _no_key(pairs: list[tuple[str, Any]]) -> None:
    for name, value in pairs:
        if name in ("api_key", "password", "access_token") and isinstance(value, str):
            assert value == "***", f"{name} is kept: {value!r}"


MASKED_WORDS = [
    b"api_key: sk-1", b"\n", b"  ", b"- ", b"models:\n", b"env: {A: sk-2}\n", b"env:\n  A: sk-3\n",
    b"extra_args: [--api-key, sk-4]\n", b"--hf-token=sk-5", b"&a ", b"*a", b"!!str ", b"<<: *a\n",
    b"|\n  sk-6\n", b">-\n  sk-7\n", b"'", b'"', b"{", b"}", b"[", b"]", b": ", b", ", b"? ", b"#",
    b" # key: sk-8\n", b"otel: {headers: {x-key: sk-9}}\n", b"\xef\xbb\xbf", b"\r\n",
    b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"url: http://a:b@c\n", b"---\n", b"...\n",
    b"%YAML 1.1\n", b"api_key_env: X\n",
]  # fmt: skip
CAPTURED_WORDS = [
    b"/v1/chat/completions?api_key=s3cret&a=b", b"\n", b"authorization: s3cret",
    b'{"api_key":"s3"}',
    b'"password" : "', b'"access_token":"a"', b"{", b"}", b'"', b"\\", b":", b",", b"\x1b[2J",
    b"\xe2\x80\xae", b"\xff", b"&", b"?", b";", b"=", b"%6b%65y", b"cookie:", b"[", b"]", b"\0",
    b"x" * 600,
]  # fmt: skip
