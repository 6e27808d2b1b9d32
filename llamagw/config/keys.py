"""
Keys of clients: those in the configuration, and those in the file of ``keys_file``.

The file is YAML with the one key ``keys:``. `llamagw keys` writes each entry on a line of its own,
as JSON, which YAML includes: such lines are read without PyYAML, which would take ten seconds for
100,000 of them. What a key may do is decided in `llamagw.gate`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import Any

import msgspec

from llamagw.config.document import ConfigError, Document, Report, show
from llamagw.config.schema import KeyEntry
from llamagw.config.walk import fields

#: Bytes of a file of keys; 100,000 take some 20 MB.
MOST_KEY_BYTES = 64 * 2**20

#: An entry as `llamagw keys` writes it, and all that may stand around such lines.
_ENTRY = re.compile(rb"[ ]*- (\{.*\})[ \t]*")
_REST = re.compile(rb"\s*(#.*)?|keys:[ \t]*(\[\])?[ \t]*(#.*)?|---[ \t]*")

_entry = msgspec.json.Decoder(KeyEntry, strict=True).decode
_raw = msgspec.json.Decoder(dict[str, Any]).decode
_FIELDS = frozenset(KeyEntry.__struct_fields__)


def read_keys(path: str) -> list[KeyEntry]:
    """
    Read the file of ``keys_file``.

    :param path: of the file, absolute
    :return: its entries
    :raises ConfigError: with all of its faults
    """
    document = Document(path)
    data = _content(document)
    keys: list[KeyEntry] = []
    if data is not None:
        lines = _by_lines(document, data)
        keys = _by_yaml(document, document.parse(data)) if lines is None else list(lines)
        names_once(document.fault, ((f"keys[{n}]", key) for n, key in enumerate(keys)))
    if document.faults:
        raise ConfigError(document.sorted_faults())
    return keys


def listed(document: Document, raw: Any, place: str = "keys") -> list[KeyEntry]:
    """
    The valid entries of a list of keys; the others become faults.

    :param document: gets the faults
    :param raw: the list, as parsed
    :param place: of it in the file
    """
    if raw is None:
        return []
    if not isinstance(raw, list):
        document.fault(place, f'expected a list of keys, each begun with "- ", got {show(raw)}')
        return []
    keys = []
    for number, one in enumerate(raw):
        key = _of_mapping(document, one, f"{place}[{number}]")
        if key is not None:
            keys.append(key)
    return keys


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


def names_once(fault: Report, keys: Iterable[tuple[str, KeyEntry]]) -> None:
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
        for name, value in (("hash", key.hash), ("old_hash", key.old_hash)):
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
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            document.fault("", "is not a file")
            return None
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


def _by_lines(document: Document, data: bytes) -> Iterator[KeyEntry] | None:
    """The entries of a file with one on each line; None if it is not of that form."""
    found: list[tuple[int, bytes]] = []
    begun = False
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        entry = _ENTRY.fullmatch(line)
        if entry is not None and begun:
            found.append((number, entry[1]))
        elif _REST.fullmatch(line) is None:
            return None
        else:
            begun = begun or line.startswith(b"keys:")
    return _of_lines(document, found) if begun else None


def _of_lines(document: Document, found: list[tuple[int, bytes]]) -> Iterator[KeyEntry]:
    for index, (number, text) in enumerate(found):
        place = f"keys[{index}]"
        document.lines[place] = number
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            # Not by the Struct alone: it takes unknown names, and one that is given twice.
            raw = _raw(text)
            if text.count(b'":') == len(raw) and raw.keys() <= _FIELDS:
                key = _entry(text)
                if _valid_times(key):
                    yield key
                    continue
        yield from _one_line(document, text, place)


def _valid_times(key: KeyEntry) -> bool:
    """
    Whether the times of an entry are such.

    :raises ValueError: if they are not
    """
    for text in (key.expires, key.old_expires):
        if text is not None:
            when(text)
    return (key.old_hash is None) == (key.old_expires is None)


def _one_line(document: Document, text: bytes, place: str) -> Iterator[KeyEntry]:
    """An entry with a fault, or with text that only looks like one."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for number, (name, _) in enumerate(pairs):
            if any(name == other for other, _ in pairs[:number]):
                document.fault(f"{place}.{name}", "is given twice")
        return dict(pairs)

    try:
        raw = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        document.fault(place, f"is not JSON: {error}")
        return
    key = _of_mapping(document, raw, place)
    if key is not None:
        yield key


def _by_yaml(document: Document, raw: dict[Any, Any] | None) -> list[KeyEntry]:
    if raw is None:
        return []
    for name in raw:
        if name != "keys":
            document.fault(str(name), "unknown key; the file has `keys:` alone")
    if "keys" not in raw:
        document.fault("keys", "is missing; a list of keys is needed")
    return listed(document, raw.get("keys"))


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
    values = fields(document, KeyEntry, raw, place)
    for name in ("expires", "old_expires"):
        if values.get(name) is not None:
            try:
                when(values[name])
            except ValueError:
                day = "expected a day such as 2027-01-31"
                fault(f"{place}.{name}", f"{day}, got {show(values[name])}")
    if ("old_hash" in raw) != ("old_expires" in raw):
        fault(f"{place}.old_hash", "and old_expires go together; give both or neither")
    return KeyEntry(**values) if len(document.faults) == before else None
