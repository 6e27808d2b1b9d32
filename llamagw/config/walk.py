"""
Checks a mapping of the file against its Struct: that keys are known and values of their type.

Each key is checked by itself; rules.py checks combinations.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from llamagw.config.document import Document, show
from llamagw.config.schema import A_FILE, TEXT


def fields(
    document: Document,
    struct: type[Struct],
    raw: dict[Any, Any],
    place: str,
    apart: Collection[str] = (),
    meant: Mapping[object, str] | None = None,
) -> dict[str, Any]:
    """
    The valid values of a mapping; the others become faults.

    :param document: gets the faults
    :param struct: one of schema.py
    :param raw: the mapping, as parsed
    :param place: of the mapping in the file; "" for the file itself
    :param apart: keys whose values are checked by the caller
    :param meant: for unknown keys, what would be right; of the others the nearest known one is told
    :return: values by key, for the Struct: without missing and wrong ones, paths made absolute
    """
    hints, fault = _hints(struct), document.fault
    known = msgspec.structs.fields(struct)
    names = [field.name for field in known]
    prefix = f"{place}." if place else ""
    for key in raw:
        if key in hints:
            continue
        if meant and key in meant:
            fault(f"{prefix}{key}", f"unknown key; {meant[key]}")
        else:
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
    for name, value in values.items():
        if value is not None and _description(hints[name]) == A_FILE:
            values[name] = _absolute(document.folder, value)
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
        if not isinstance(value, bool):
            value = _as_written(document, value, at)
        if not isinstance(name, str) or not re.fullmatch(r"[^=\0\ud800-\udfff]+", name):
            document.fault(at, f'expected a name without "=", such as OMP_WAIT, got {show(name)}')
        elif not isinstance(value, str) or not re.search(TEXT, value):
            document.fault(at, f"expected a text, got {show(value)}; put it in quotes")
        else:
            variables[name] = value
    return variables


def texts(document: Document, raw: list[Any], place: str) -> list[Any]:
    """
    A list of texts in which numbers, true and false may stand without quotes.

    :param document: knows how they are written
    :param raw: the list, as parsed
    :param place: of the list in the file
    :return: the same; what is neither is left as it is
    """
    return [_as_written(document, one, f"{place}[{number}]") for number, one in enumerate(raw)]


def _as_written(document: Document, value: Any, place: str) -> Any:
    """A number, true or false as the text that is in the file; any other value as it is."""
    if not isinstance(value, int | float):
        return value
    # A merge key brings values from another place.
    return document.texts.get(place, str(value).lower())


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
    # Where systemd puts the credentials of a service (systemd.exec(5)).
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and path.startswith("$CREDENTIALS_DIRECTORY/"):
        path = credentials + path.removeprefix("$CREDENTIALS_DIRECTORY")
    return os.path.normpath(os.path.join(folder, os.path.expanduser(path)))


def _description(annotation: Any) -> str:
    """What values a key takes, in words, from its ``Meta``."""
    arguments = get_args(annotation)
    for argument in arguments:
        if isinstance(argument, Meta) and argument.description:
            return argument.description
    # The Meta of a key that may be null is one level down.
    return _description(arguments[0]) if arguments else "a value"
