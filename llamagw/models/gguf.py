"""
Reads the head of a GGUF file: its metadata and the names of its tensors, never its weights.

llama.cpp's own `gguf` package (0.19 was tried) does not fit: it makes an object of each token of
the vocabulary (2.2 s and 190 MB for a model of 98 MB, here 0.1 s); a damaged length of an array
exhausts the memory; a tensor type that it does not know is an error; and it requires NumPy, 75 MB.
The other readers on PyPI are abandoned or weeks old.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

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

#: Keys and tensors, together.
_MOST_NAMES = 2**18

#: Texts and numbers of all arrays, together.
_MOST_ITEMS = 2_000_000

#: Bytes of all texts that are kept, together: keys, names, values.
_MOST_TEXT = 2**24


class Unreadable(Exception):
    """Not a GGUF file, or an incomplete one; the message says which, as a predicate."""


@dataclass(frozen=True)
class Header:
    """
    The head of a GGUF file.

    :param values: the metadata; None for values too long to be of use here (vocabularies)
    :param tensors: the names of the tensors in this file
    """

    values: dict[str, Value]
    tensors: frozenset[str]

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

    def read(self) -> Header:
        if self.file.read(4) != b"GGUF":
            raise Unreadable("is not a GGUF file" if self.size else "is empty")
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
            values[key] = self.value(self.number("I"))
        names = {}
        for _ in range(tensors):
            name = self.text() or ""
            dimensions = self.number("I")
            if dimensions > 8:
                raise Unreadable(f"is damaged: a tensor has {dimensions} dimensions")
            self.skip(8 * dimensions + 4)  # their lengths, and the type
            names[name] = self.number("Q")
        header = Header(values, frozenset(names))
        self.check_end(max(names.values(), default=None), header.number("general.alignment") or 32)
        return header

    def check_end(self, last: int | None, alignment: int) -> None:
        """Detect an incomplete download: it has its head, and not all of its weights."""
        if last is None:
            return
        start = -(-self.file.tell() // alignment) * alignment
        if start + last >= self.size:
            raise Unreadable(
                f"is incomplete: it has {self.size} bytes, and its last tensor begins "
                f"at {start + last}"
            )

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        code = _FIXED.get(kind)
        if code is None:
            raise Unreadable(f"is damaged: there is no type {kind} of metadata")
        found: Value = self.unpack(code)
        return found

    def array(self, kind: int, length: int) -> Value:
        if kind == _STRING:
            self.skip_texts(length)
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
        # The slow part of reading a file: a vocabulary has 200,000 texts.
        self.count(count)
        read, seek, unpack = self.file.read, self.file.seek, struct.Struct("<Q").unpack
        left = self.end - self.file.tell()
        for _ in range(count):
            left -= 8
            if left < 0:
                break
            (length,) = unpack(read(8))
            left -= length
            if left < 0:
                break
            seek(length, os.SEEK_CUR)
        if left < 0:
            raise Unreadable(self.too_short if self.end == self.size else self.too_long)

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
