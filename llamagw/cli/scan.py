"""
The models in a folder of GGUF files: what each file is.

Reads the heads of the files only. init.py makes a configuration of the result.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from llamagw.cli.show import plain
from llamagw.models import Shape, gguf, kind, no_model, shape

_PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_QUANT = re.compile(r"[-._](?:i?q\d\w*|[bf]?f(?:16|32)|fp(?:16|32)|mxfp4\w*)$", re.IGNORECASE)

_POOLING_NONE = 0

_ADD_BY_HAND = "is left to you: add --mmproj and its path to the extra_args of its model"


@dataclass
class Model:
    """
    A model that was found.

    :param path: absolute; the first part of a model that is split
    :param name: to be configured
    :param size: bytes, all parts together
    :param architecture: as GGUF has it, such as ``llama``
    :param kind: ``text``, ``embeddings`` or ``ranking``
    :param trained: the longest context that it was trained for, in tokens
    :param shape: what decides how much memory it takes; None if that is not told
    :param pooled: whether the file gives the pooling, or none is needed
    :param mmproj: the path of its projector; None if it has none
    """

    path: str
    name: str
    size: int
    architecture: str
    kind: str
    trained: int
    shape: Shape | None
    pooled: bool = True
    mmproj: str | None = None


@dataclass
class Found:
    """
    The result of a scan.

    :param models: sorted by path
    :param left_out: a path, and the reason as a predicate, such as "is empty"
    """

    models: list[Model] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def scan(folder: str) -> Found:
    """
    Find the models in a folder and the folders in it; symbolic links are followed.

    :param folder: must exist
    """
    found = Found()
    files = sorted(_files(folder, found))
    projectors: list[str] = []
    for path in files:
        try:
            why = _look(path, files, found, projectors)
        except gguf.Unreadable as error:
            why = str(error)
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
        if why:
            found.left_out.append((path, why))
    _name(folder, found.models)
    for path, why in _give_projectors(projectors, found.models):
        found.left_out.append((path, why))
    return found


def _files(folder: str, found: Found) -> Iterator[str]:
    seen: set[str] = set()

    def leave_out(error: OSError) -> None:
        found.left_out.append((str(error.filename), f"cannot be read: {error.strerror}"))

    for where, folders, files in os.walk(folder, onerror=leave_out, followlinks=True):
        # A link may lead to a folder that contains it.
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        for name in files:
            if name.lower().endswith(".gguf"):
                yield os.path.join(where, name)


def _look(path: str, files: list[str], found: Found, projectors: list[str]) -> str | None:
    """Add a file to what was found; returns why it was left out, None if it was not."""
    try:
        os.path.abspath(path).encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8, which YAML cannot hold"
    if not os.path.isfile(path):
        return "is a broken link" if os.path.islink(path) else "is not a file"
    stem = _stem(path)
    parts, more = [path], []
    if split := _PART.search(stem):
        number, count = int(split[1]), int(split[2])
        base = path[: -len(".gguf") - len(split[0])]
        parts = [f"{base}-{n:05}-of-{count:05}{path[-5:]}" for n in range(1, count + 1)]
        if number != 1:
            return None if parts[0] in files else "is a part of a model whose first part is missing"
        missing = [n for n, part in enumerate(parts, 1) if not os.path.isfile(part)]
        if missing:
            return f"is the first of {count} parts, and part {missing[0]} is missing"
        for number, part in enumerate(parts[1:], 2):
            try:
                more.append(gguf.read(part))
            except gguf.Unreadable as error:
                return f"has a part {number} that {error}"
        stem = stem[: split.start()]
    header = gguf.read(path)
    if header.architecture == "clip" or header.text("general.type") == "mmproj":
        projectors.append(path)
        return None
    why = _no_model(header)
    if why is None:
        size = sum(map(os.path.getsize, parts))
        found.models.append(_model(path, stem or "model", size, [header, *more]))
    return why


def _no_model(header: gguf.Header) -> str | None:
    """Why a file is not a model, as a predicate; None if it is one."""
    why = no_model(header)
    if why:
        return why
    if not header.tensors:
        return "has no weights"
    arch = header.architecture
    if not header.number(f"{arch}.context_length") or not header.number(f"{arch}.block_count"):
        return f"is not a language model (architecture: {plain(arch) or 'not told'})"
    return None


def _model(path: str, name: str, size: int, headers: list[gguf.Header]) -> Model:
    header, arch = headers[0], headers[0].architecture
    pooling, use = header.number(f"{arch}.pooling_type"), kind(header)
    return Model(
        path=os.path.abspath(path),
        name=name,
        size=size,
        architecture=arch,
        kind=use,
        trained=header.number(f"{arch}.context_length") or 0,
        shape=shape(headers),
        pooled=use != "embeddings" or pooling not in (None, _POOLING_NONE),
    )


def _stem(path: str) -> str:
    return os.path.basename(path)[: -len(".gguf")]


def _name(folder: str, models: list[Model]) -> None:
    """Make the names unique: models with the same name get their folder in it too."""
    count = Counter(model.name for model in models)
    taken: set[str] = set()
    for model in models:
        if count[model.name] > 1:
            inside = os.path.dirname(os.path.relpath(model.path, os.path.abspath(folder)))
            model.name = os.path.join(inside, model.name)
        base, number = model.name, 1
        while model.name in taken:
            number += 1
            model.name = f"{base}-{number}"
        taken.add(model.name)


def _give_projectors(projectors: list[str], models: list[Model]) -> Iterator[tuple[str, str]]:
    """
    Assign each projector to its models; yields those that belong to none, with the reason.

    A projector belongs to the models in its folder whose names begin with its own. One without a
    name of its own (mmproj-F16.gguf) belongs to all models in its folder, if those are the same
    model in different quantizations.
    """
    # F16 first, the usual precision: a model keeps the first projector that it gets.
    projectors.sort(key=lambda path: ("f16" not in _stem(path).lower().replace("bf16", ""), path))
    for path in projectors:
        folder = os.path.dirname(os.path.abspath(path))
        beside = [model for model in models if os.path.dirname(model.path) == folder]
        beside = [model for model in beside if model.kind == "text"]
        own = _bare(re.sub(r"[-._]?mmproj[-._]?(model)?", "-", _stem(path), flags=re.IGNORECASE))
        if own:
            matching = [m for m in beside if _bare(_model_stem(m)).startswith(own)]
        else:
            same = len({_bare(_model_stem(model)) for model in beside}) == 1
            matching = beside if same else []
        for model in matching:
            model.mmproj = model.mmproj or os.path.abspath(path)
        if not matching:
            yield path, _ADD_BY_HAND


def _model_stem(model: Model) -> str:
    return _PART.sub("", _stem(model.path))


def _bare(stem: str) -> str:
    """A file's name without its quantization, for comparisons."""
    stem = stem.strip("-._").lower()
    while (shorter := _QUANT.sub("", f"-{stem}").strip("-._")) != stem:
        stem = shorter
    return stem
