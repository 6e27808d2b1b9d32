"""
Reads the head of a GGUF file: its metadata and its table of tensors, never its weights.

What follows for a model is for facts.py.

llama.cpp's own `gguf` package (0.19 was tried) does not fit: it makes an object of each token of
the vocabulary (2.2 s and 190 MB for a model of 98 MB, here 0.1 s); a damaged length of an array
exhausts the memory; a tensor type that it does not know is an error; and it requires NumPy, 75 MB.
The other readers on PyPI are abandoned or weeks old.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple, TypeAlias

Value: TypeAlias = int | float | bool | str | list[int | float | bool] | None

#: The struct code of each type of value that has a fixed size, by the format's number for it.
_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

#: Longer arrays are vocabularies, and skipped. The others have a number for each layer.
_LONGEST = 4096

#: Bytes of the longest text that is kept; a chat template has some thousand.
_LONGEST_TEXT = 2**20

# Limits: a damaged or hostile file may declare more than any machine holds, and, as a sparse file,
# even be as large. The largest models have some 100 keys, 2,000 tensors and 800,000 tokens and
# merges.

#: Bytes before the weights.
_LONGEST_HEAD = 2**26

#: Bytes that are read at once of an array of texts.
_CHUNK = 2**18

#: Elements and bytes of a block, by the number of a tensor's type (gguf-py/gguf/constants.py of
#: llama.cpp). Of a type that is not here, as forks have them, only the place of a tensor is known.
BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34)},
    **{9: (32, 40), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176)},
    **{14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98)},
    **{19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1)},
    **{25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)},
    **{34: (256, 54), 35: (256, 66), 39: (32, 17)},
}

_WEB_PAGE = (
    "is a web page, not a GGUF file; download the file itself "
    "(on Hugging Face its link has /resolve/ in it, not /blob/)"
)
_POINTER = "is a pointer of Git LFS, not the file itself; git lfs pull gets that"

#: Keys and tensors, together.
_MOST_NAMES = 2**18

#: Texts and numbers of all arrays, together.
_MOST_ITEMS = 2_000_000

#: Bytes of all texts that are kept, together: keys, names, values.
_MOST_TEXT = 2**24


class Unreadable(Exception):
    """Not a GGUF file, or an incomplete one; the message says which, as a predicate."""


class Tensor(NamedTuple):
    """
    A tensor, without its weights.

    :ivar lengths: of its dimensions
    :ivar kind: the format's number for its type
    :ivar size: bytes; None for a type that is not known here
    """

    lengths: tuple[int, ...]
    kind: int
    size: int | None


@dataclass(frozen=True)
class Header:
    """
    The head of a GGUF file.

    :param values: the metadata; None for values too long to be of use here (vocabularies)
    :param tensors: the tensors in this file, by name
    :param lengths: of the arrays of texts, by key
    """

    values: dict[str, Value]
    tensors: dict[str, Tensor]
    lengths: dict[str, int] = field(default_factory=dict)

    def text(self, key: str) -> str:
        """
        A text of the metadata.

        :param key: such as ``general.type``
        :return: "" if there is none
        """
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """
        A whole number of the metadata.

        :param key: such as ``llama.block_count``
        :return: None if there is none, or it is negative
        """
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            return None
        # All numbers that are used here are counts.
        return value if value >= 0 else None

    @property
    def architecture(self) -> str:
        """Such as ``llama``; the prefix of most other keys."""
        return self.text("general.architecture")


def read(path: str) -> Header:
    """
    Read the head of a GGUF file.

    :param path: of the file
    :raises Unreadable: when it is no complete GGUF file
    :raises OSError: when it cannot be opened or read
    """
    with open(path, "rb", buffering=2**18) as file:
        return _Reader(file, os.fstat(file.fileno()).st_size).read()


class _Reader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file = file
        self.size = size
        self.end = min(size, _LONGEST_HEAD)
        self.items = _MOST_ITEMS
        self.texts = _MOST_TEXT
        self.lengths: dict[str, int] = {}

    def read(self) -> Header:
        if self.file.read(4) != b"GGUF":
            raise Unreadable(self.not_gguf())
        version = self.number("I")
        if version & 0xFFFF == 0:
            raise Unreadable("is a GGUF file for big-endian machines")
        if version not in (2, 3):
            raise Unreadable(f"is GGUF version {version}; llama.cpp reads 2 and 3")
        tensors, pairs = self.number("Q"), self.number("Q")
        values: dict[str, Value] = {}
        if tensors + pairs > _MOST_NAMES:
            raise Unreadable(f"is damaged: it claims {tensors} tensors and {pairs} keys")
        for _ in range(pairs):
            key = self.text() or ""
            values[key] = self.value(self.number("I"), key)
        found, end = {}, 0
        for _ in range(tensors):
            name = self.text() or ""
            found[name], tensor_end = self.tensor()
            end = max(end, tensor_end)
        header = Header(values, found, self.lengths)
        self.check_end(end, header.number("general.alignment") or 32)
        return header

    def not_gguf(self) -> str:
        """What a file is that does not begin as a GGUF file does."""
        self.file.seek(0)
        begin = self.file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
        if begin.startswith((b"<!doctype html", b"<html")) or b"<head" in begin:
            return _WEB_PAGE
        if begin.startswith(b"version https://git-lfs"):
            return _POINTER
        return "is not a GGUF file" if self.size else "is empty"

    def tensor(self) -> tuple[Tensor, int]:
        """The next of the table, and where it ends, in bytes from the first one's beginning."""
        dimensions = self.number("I")
        if dimensions > 8:
            raise Unreadable(f"is damaged: a tensor has {dimensions} dimensions")
        packed = struct.Struct(f"<{dimensions}QIQ")
        *lengths, kind, begin = packed.unpack(self.bytes(packed.size))
        elements, block = BLOCKS.get(kind, (None, 1))
        size = None if elements is None else math.prod(lengths) // elements * block
        return Tensor(tuple(lengths), kind, size), int(begin) + (1 if size is None else size)

    def check_end(self, end: int, alignment: int) -> None:
        """Detect an incomplete download: it has its head, and not all of its weights."""
        needed = -(-self.file.tell() // alignment) * alignment + end
        if end and needed > self.size:
            raise Unreadable(
                f"is incomplete: it has {self.size:,} of {needed:,} bytes; download it again"
            )

    def value(self, kind: int, key: str) -> Value:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(self.number("I"), self.number("Q"), key)
        code = _FIXED.get(kind)
        if code is None:
            raise Unreadable(f"is damaged: there is no type {kind} of metadata")
        found: Value = self.unpack(code)
        return found

    def array(self, kind: int, length: int, key: str) -> Value:
        if kind == _STRING:
            self.skip_texts(length)
            self.lengths[key] = length
            return None
        code = _FIXED.get(kind)
        if code is None:
            raise Unreadable(f"is damaged: there is no array of type {kind}")
        if length > _LONGEST:
            self.skip(length * struct.calcsize(code))
            return None
        self.count(length)
        return [*struct.unpack(f"<{length}{code}", self.bytes(length * struct.calcsize(code)))]

    def count(self, items: int) -> None:
        """:raises Unreadable: when the arrays have too many items with these"""
        self.items -= items
        if self.items < 0:
            raise Unreadable(f"is damaged: its arrays have over {_MOST_ITEMS} items")

    def skip_texts(self, count: int) -> None:
        # The slow part of reading a file: a vocabulary has 200,000 texts. One call for each of them
        # is four times as fast as three.
        self.count(count)
        unpack = struct.Struct("<Q").unpack_from
        place, at, last = self.file.tell(), 0, -1
        for _ in range(count):
            if at > last:
                place, at = place + at, 0
                self.file.seek(min(place, self.end))
                chunk = self.file.read(_CHUNK)
                last = min(len(chunk), self.end - place) - 8
                if last < 0:
                    break
            at += 8 + unpack(chunk, at)[0]
        if place + at > self.end or last < 0 < count:
            raise Unreadable(self.too_short if self.end == self.size else self.too_long)
        self.file.seek(place + at)

    def text(self) -> str | None:
        length = self.number("Q")
        if length > _LONGEST_TEXT:
            self.skip(length)
            return None
        self.texts -= length
        if self.texts < 0:
            raise Unreadable(f"is damaged: its texts have over {_MOST_TEXT} bytes")
        return self.bytes(length).decode("utf-8", "replace")

    def number(self, code: str) -> int:
        found: int = self.unpack(code)
        return found

    def unpack(self, code: str) -> Any:
        (found,) = struct.unpack("<" + code, self.bytes(struct.calcsize(code)))
        return found

    def skip(self, length: int) -> None:
        # Within the buffer this reads nothing. The check comes first because a seek beyond the end
        # raises no error.
        self.expect(length)
        self.file.seek(length, os.SEEK_CUR)

    def bytes(self, length: int) -> bytes:
        found = self.file.read(length)
        if len(found) < length:
            raise Unreadable(self.too_short)
        return found

    def expect(self, length: int) -> None:
        """:raises Unreadable: when so many bytes more do not belong to the head"""
        place = self.file.tell()
        if length > self.size - place:
            raise Unreadable(self.too_short)
        if length > self.end - place:
            raise Unreadable(self.too_long)

    @property
    def too_short(self) -> str:
        return "is damaged or incomplete: it ends in the middle of its metadata"

    @property
    def too_long(self) -> str:
        return f"is damaged: its head has over {_LONGEST_HEAD} bytes"
