"""
What the heads of a model's files say of it: its problem, its use, its context, its shape.

Reads no configuration and judges none; how a file is read is for gguf.py.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from llamagw.models import files
from llamagw.models.gguf import Header, Unreadable, read
from llamagw.models.shape import Shape, shape

#: What a model is for.
Kind: TypeAlias = Literal["text", "embeddings", "ranking"]

#: Architectures for embeddings only.
_ENCODERS = re.compile(r"bert|embedding|t5encoder", re.IGNORECASE)
_POOLING_RANK = 4


class Facts(NamedTuple):
    """
    What is known of a model's files.

    :ivar problem: why it cannot be loaded, with its path; "" if nothing is known against it
    :ivar stamp: of the files that were read; None if they were not
    :ivar size: bytes, all parts together
    :ivar kind: what it is for
    :ivar trained: the longest context that it was trained for, in tokens; 0 if unknown
    :ivar shape: what decides how much memory it takes; None if that is not told, or it is no model
    """

    problem: str
    stamp: files.Stamp | None = None
    size: int = 0
    kind: Kind = "text"
    trained: int = 0
    shape: Shape | None = None


def look(path: str) -> Facts:
    """
    Read the heads of a model's files. Blocks, for a second at most on a disk that answers.

    :param path: its file; the first part of one that is split
    """
    absent = files.absent(path)
    if absent:
        return Facts(absent)
    # Before they are read: what is changed meanwhile is read again.
    stamp = files.stamp(path)
    part = path
    try:
        heads = []
        for part in files.parts(path):
            heads.append(read(part))
        why = no_model(heads[0])
    except Unreadable as error:
        why = str(error)
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    # Of projectors and adapters too, which are no models: they are loaded beside one.
    size = files.size(path) or 0
    if why:
        return Facts(f"{part} {why}", stamp, size)
    head = heads[0]
    trained = head.number(f"{head.architecture}.context_length") or 0
    return Facts("", stamp, size, kind(head), trained, shape(heads))


def look_at(paths: Sequence[str], seconds: float) -> dict[str, Facts]:
    """
    Read the heads of many models; each takes some 20 to 100 ms, a hostile one up to 1 s.

    :param paths: of each one's file
    :param seconds: after which no further one is read
    :return: by path; without those that are there and were not reached
    """
    end = time.monotonic() + seconds
    # That takes some µs, so it is known of all of them.
    found = {path: Facts(why) for path in paths if (why := files.absent(path))}
    for path in paths:
        if time.monotonic() > end:
            break
        if path not in found:
            found[path] = look(path)
    return found


def no_model(header: Header) -> str:
    """
    Why a file is none that an engine loads as its model, as a predicate.

    :param header: of the file
    :return: "" if nothing is known against it
    """
    names = {
        "adapter": "a LoRA adapter, not a model; give it by --lora",
        "imatrix": "an importance matrix, not a model",
        "mmproj": "a projector, not a model; give it by --mmproj",
    }
    given = header.text("general.type")
    what = names.get("mmproj" if header.architecture == "clip" else given)
    return f"is {what}" if what else ""


def kind(header: Header) -> Kind:
    """
    What a model is for.

    :param header: of its file
    """
    pooling = header.number(f"{header.architecture}.pooling_type")
    encoder = _ENCODERS.search(header.architecture) is not None
    if pooling == _POOLING_RANK or (encoder and _ranks(header)):
        return "ranking"
    return "embeddings" if pooling or encoder else "text"


def _ranks(header: Header) -> bool:
    labels = f"{header.architecture}.classifier.output_labels" in header.values
    return labels or "cls.output.weight" in header.tensors
