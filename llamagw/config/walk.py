"""
Checks a mapping of the file against its Struct: that keys are known and values of their type.

Each key is checked by itself; rules.py checks combinations.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from llamagw.config.document import Document, show
from llamagw.config.schema import TEXT

#: The keys whose values are paths.
_PATHS = ("llama_server_path", "model_path", "ca_file")


def fields(
    document: Document,
    struct: type[Struct],
    raw: dict[Any, Any],
    place: str,
    apart: Collection[str] = (),
) -> dict[str, Any]:
    """
    The valid values of a mapping; the others become faults.

    :param document: gets the faults
    :param struct: one of schema.py
    :param raw: the mapping, as parsed
    :param place: of the mapping in the file; "" for the file itself
    :param apart: keys whose values are checked by the caller
    :return: values by key, for the Struct: without missing and wrong ones, paths made absolute
    """
    hints, fault = _hints(struct), document.fault
    known = msgspec.structs.fields(struct)
    names = [field.name for field in known]
    prefix = f"{place}." if place else ""
    for key in raw:
        if key not in hints:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
            fault(f"{prefix}{key}", f"unknown key; {hint}")
    values = {}
    for field in known:
        name = field.name
        if name not in raw:
            if field.required:
                fault(f"{prefix}{name}", f"is missing; {_description(hints[name])} is needed")
        elif name not in apart:
            try:
                values[name] = msgspec.convert(raw[name], hints[name])
            except (msgspec.ValidationError, UnicodeEncodeError):
                wanted = _description(hints[name])
                fault(f"{prefix}{name}", f"expected {wanted}, got {show(raw[name])}")
    for name in _PATHS:
        if values.get(name) is not None:
            values[name] = _absolute(document.folder, values[name])
    return values


def environment(document: Document, raw: dict[Any, Any], place: str) -> dict[str, str]:
    """
    The valid variables of an ``env:``; the others become faults.

    :param document: gets the faults
    :param raw: the mapping, as parsed; a number in it is used as written
    :param place: of the mapping in the file
    :return: values by name
    """
    variables = {}
    for name, value in raw.items():
        at = f"{place}.{name}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = document.texts.get(at, str(value))
        if not isinstance(name, str) or not re.fullmatch(r"[^=\0\ud800-\udfff]+", name):
            document.fault(at, f'expected a name without "=", such as OMP_WAIT, got {show(name)}')
        elif not isinstance(value, str) or not re.search(TEXT, value):
            document.fault(at, f"expected a text, got {show(value)}; put it in quotes")
        else:
            variables[name] = value
    return variables


def takes(struct: type[Struct]) -> dict[str, str]:
    """
    What values each key takes, in words.

    :param struct: one of schema.py
    """
    return {name: _description(hint) for name, hint in _hints(struct).items()}


@cache
def _hints(struct: type[Struct]) -> dict[str, Any]:
    return get_type_hints(struct, include_extras=True)


def _absolute(folder: str, path: str) -> str:
    return os.path.normpath(os.path.join(folder, os.path.expanduser(path)))


def _description(annotation: Any) -> str:
    """What values a key takes, in words, from its ``Meta``."""
    arguments = get_args(annotation)
    for argument in arguments:
        if isinstance(argument, Meta) and argument.description:
            return argument.description
    # The Meta of a key that may be null is one level down.
    return _description(arguments[0]) if arguments else "a value"
