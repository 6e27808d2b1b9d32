"""
Keys of clients: those in the configuration, and those in the file of ``keys_file``.

The file is YAML with the one key ``keys:``. `llamagw keys` writes each entry on a line of its own,
as JSON, which YAML includes: such lines are read without PyYAML, which would take ten seconds for
100,000 of them. What a key may do is decided in `llamagw.gate`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any, TypeAlias

import msgspec

from llamagw.config.document import MOST_BYTES, ConfigError, Document, Report, show
from llamagw.config.schema import KeyEntry, LimitsEntry
from llamagw.config.walk import fields

#: Bytes of a file of keys; 100,000 take some 20 MB.
MOST_KEY_BYTES = 64 * 2**20

#: An entry as `llamagw keys` writes it; the line before the first; and all that may stand around.
_ENTRY = re.compile(rb"( *)- (\{\".*\})[ \t]*")
_KEYS = re.compile(rb"keys:[ \t]*(#.*)?")
_REST = re.compile(rb"[ \t]*(#.*)?")

#: A name in a line of JSON without escapes, or what looks like one in a text.
_NAME = re.compile(rb'"([a-z_]*)"[ \t]*:')

_entry = msgspec.json.Decoder(KeyEntry, strict=True).decode

#: An entry, and its place in the file.
_Placed: TypeAlias = tuple[str, KeyEntry]


def read_keys(path: str) -> list[KeyEntry]:
    """
    Read the file of ``keys_file``.

    :param path: of the file, absolute
    :return: its entries
    :raises ConfigError: with all of its faults
    """
    document = Document(path)
    data = _content(document)
    keys: list[_Placed] = []
    if data is not None:
        lines = _by_lines(document, data)
        keys = _by_yaml(document, data) if lines is None else list(lines)
        names_once(document.fault, keys)
    if document.faults:
        raise ConfigError(document.sorted_faults())
    return [key for _, key in keys]


def listed(document: Document, raw: Any) -> list[KeyEntry]:
    """
    The valid entries of a configuration's ``keys:``; the others become faults.

    :param document: gets the faults
    :param raw: the list, as parsed
    """
    keys = _listed(document, raw)
    names_once(document.fault, keys)
    return [key for _, key in keys]


def when(text: str) -> float:
    """
    A time as seconds since the epoch.

    :param text: a day (its beginning in UTC counts), or day and time; UTC unless it says otherwise
    :raises ValueError: when it is neither
    """
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


def names_once(fault: Report, keys: Iterable[_Placed]) -> None:
    """
    Report names and secrets that two keys have.

    :param fault: reports a fault
    :param keys: each with its place
    """
    names: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for place, key in keys:
        first = names.setdefault(key.name, place)
        if first is not place:
            fault(f"{place}.name", f"{key.name} is the name of {first} too; each key needs its own")
        known = (("hash", key.hash), ("old_hash", key.old_hash), ("certificate", key.certificate))
        for name, value in known:
            if value is not None and hashes.setdefault(value, place) is not place:
                fault(f"{place}.{name}", f"is that of {hashes[value]} too; each key has its own")


def _content(document: Document) -> bytes | None:
    """What the file says; None, after a fault, if it cannot be read or others can."""
    path = document.path
    try:
        # Not blocking: it may be a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        document.fault("", "there is no such file; `llamagw keys new NAME` makes it")
        return None
    except OSError as error:
        document.fault("", f"cannot be read: {error.strerror}")
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        document.fault("", "is not a file")
        return None
    with open(descriptor, "rb") as file:
        # The credentials of systemd are in a folder of their own, and it sees to their modes.
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if status.st_mode & 0o077 and not (folder and path.startswith(f"{folder}/")):
            mode = stat.S_IMODE(status.st_mode)
            document.fault("", f"others can read it (mode {mode:04o}): chmod 600 {path}")
            return None
        data = file.read(MOST_KEY_BYTES + 1)
    if len(data) > MOST_KEY_BYTES:
        document.fault("", f"is no file of keys: it is over {MOST_KEY_BYTES // 2**20} MB")
        return None
    return data


def _by_lines(document: Document, data: bytes) -> list[_Placed] | None:
    """The entries of a file with one on each line; None if it is not of that form."""
    found: list[tuple[int, bytes]] = []
    begun, indent = False, None
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        entry = _ENTRY.fullmatch(line) if begun else None
        if entry is not None and indent in (None, entry[1]):
            indent = entry[1]
            found.append((number, entry[2]))
        elif not begun and _KEYS.fullmatch(line):
            begun = True
        elif _REST.fullmatch(line) is None:
            return None
    try:
        return list(_of_lines(document, found))
    except _NotJson as error:
        if len(data) <= MOST_BYTES:
            # Written by hand, perhaps as YAML, whose parser says better what is wrong.
            document.lines.clear()
            document.faults.clear()
            return None
        document.fault(error.place, f"is not JSON: {error}")
        return []


def _of_lines(document: Document, found: list[tuple[int, bytes]]) -> Iterator[_Placed]:
    for index, (number, text) in enumerate(found):
        place = f"keys[{index}]"
        document.lines[place] = number
        key = _valid(text)
        if key is None:
            key = _one_line(document, text, place)
        if key is not None:
            yield place, key


def _valid(text: bytes) -> KeyEntry | None:
    """A line's entry, unless it has faults, or looks as if it had."""
    names = _NAME.findall(text)
    # Msgspec takes a name that is given twice.
    if b"\\" in text or len(set(names)) != len(names):
        return None
    try:
        key = _entry(text)
        for time in (key.expires, key.old_expires):
            if time is not None:
                when(time)
    except (msgspec.MsgspecError, ValueError):
        return None
    return key if (key.old_hash is None) == (key.old_expires is None) else None


def _one_line(document: Document, text: bytes, place: str) -> KeyEntry | None:
    """
    An entry with a fault, or with text that only looks like one.

    :raises _NotJson: if it is not JSON
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for number, (name, _) in enumerate(pairs):
            if any(name == other for other, _ in pairs[:number]):
                document.fault(f"{place}.{name}", "is given twice")
        return dict(pairs)

    try:
        raw = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _NotJson(place, str(error)) from None
    return _of_mapping(document, raw, place)


class _NotJson(Exception):
    """A line that is not JSON."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(why)
        self.place = place


def _by_yaml(document: Document, data: bytes) -> list[_Placed]:
    if len(data) > MOST_BYTES:
        document.fault(
            "",
            f"is over {MOST_BYTES // 2**20} MB, and not of the form that `llamagw keys` writes: "
            "each entry on a line of its own, as JSON",
        )
        return []
    raw = document.parse(data)
    if raw is None:
        return []
    for name in raw:
        if name != "keys":
            document.fault(str(name), "unknown key; the file has `keys:` alone")
    if "keys" not in raw:
        document.fault("keys", "is missing; a list of keys is needed")
    return _listed(document, raw.get("keys"))


def _listed(document: Document, raw: Any) -> list[_Placed]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        document.fault("keys", f'expected a list of keys, each begun with "- ", got {show(raw)}')
        return []
    keys: list[_Placed] = []
    for number, one in enumerate(raw):
        place = f"keys[{number}]"
        key = _of_mapping(document, one, place)
        if key is not None:
            keys.append((place, key))
    return keys


def _of_mapping(document: Document, raw: Any, place: str) -> KeyEntry | None:
    fault = document.fault
    if not isinstance(raw, dict):
        fault(place, f'expected keys such as "name: …", got {show(raw)}')
        return None
    before = len(document.faults)
    for name in ("expires", "old_expires"):
        # YAML reads a day without quotes as a date.
        if hasattr(raw.get(name), "isoformat"):
            raw = {**raw, name: raw[name].isoformat()}
    values = fields(document, KeyEntry, raw, place, apart=("limits",))
    limits = raw.get("limits")
    if isinstance(limits, dict):
        values["limits"] = LimitsEntry(**fields(document, LimitsEntry, limits, f"{place}.limits"))
    elif limits is not None:
        wanted = "limits such as {requests_per_min: 60, tokens_per_day: 100000}"
        fault(f"{place}.limits", f"expected {wanted}, got {show(limits)}")
    for name in ("expires", "old_expires"):
        if values.get(name) is not None:
            try:
                when(values[name])
            except ValueError:
                day = "expected a day such as 2027-01-31"
                fault(f"{place}.{name}", f"{day}, got {show(values[name])}")
    if (raw.get("old_hash") is None) != (raw.get("old_expires") is None):
        fault(f"{place}.old_hash", "and old_expires go together; give both or neither")
    return KeyEntry(**values) if len(document.faults) == before else None
