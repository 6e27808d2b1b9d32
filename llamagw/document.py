"""
A YAML file as a document: its values, the line of each place, and what is wrong at which place.

Knows nothing of what the file should say; that is config.py's affair.
"""

from __future__ import annotations

from typing import Any

import msgspec
import yaml
from msgspec import Struct

#: A file whose aliases make more values than this of it is a mistake, or a bomb.
MOST_PLACES = 100_000


class Fault(Struct, frozen=True):
    """One thing that is wrong: where it stands, what it is and what would be right."""

    file: str
    line: int | None
    place: str
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        text = ": ".join(filter(None, (where, self.place, self.message)))
        # One line, whatever the file has in it, and one that any terminal can take.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ConfigError(Exception):
    """A configuration that cannot be used; ``faults`` holds all that is wrong with it."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


class Document:
    """
    A file, and the faults that are found in it.

    :ivar lines: the line of each place, such as ``models[1].threads``
    :ivar texts: what stands at each place, letter by letter: YAML reads 0755 as 493
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self.lines: dict[str, int] = {}
        self.texts: dict[str, str] = {}

    def fault(self, place: str, message: str) -> None:
        """Something is wrong at this place. What is said already is not said again."""
        # A key that is missing has no line; its parent's is the next best.
        at = place
        while at and at not in self.lines:
            at = at[: max(at.rfind("."), at.rfind("["), 0)]
        fault = Fault(self.path, self.lines.get(at), place, message)
        if fault not in self.faults:
            self.faults.append(fault)

    def parse(self) -> dict[Any, Any] | None:
        """The file as plain values; None, with a fault noted, if it cannot be had."""
        try:
            with open(self.path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.fault("", f"cannot be read: {reason}; see config.example.yaml for a beginning")
            return None
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if node is not None:
                self._walk(node, "")
            raw = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else None
            what = " ".join(str(error.problem or error.context).split())
            if "alias" in str(error.context):
                what += '; a text that begins with * or & needs quotes, such as "*"'
            self.faults.append(Fault(self.path, line, "", f"is not YAML: {what}"))
            return None
        except (RecursionError, OverflowError):
            what = "it is nested too deeply, or its aliases make too much of it"
            self.faults.append(Fault(self.path, None, "", f"is not YAML: {what}"))
            return None
        except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
            # PyYAML lets the last three out for a value that does not fit its tag (!!int "").
            what = " ".join(str(error).split())
            self.faults.append(Fault(self.path, None, "", f"is not YAML: {what}"))
            return None
        if not isinstance(raw, dict):
            self.fault(
                "", f'expected keys and values such as "listen_addr: :8000", got {show(raw)}'
            )
            return None
        return raw

    def _walk(self, node: yaml.Node, place: str) -> None:
        """Note the line of each place, and keys given twice (YAML would keep the last)."""
        if len(self.lines) > MOST_PLACES:
            raise OverflowError
        if place in self.lines:
            self.fault(place, f"is given twice; line {node.start_mark.line + 1} has it again")
            return
        self.lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            self.texts[place] = node.value
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = f"{place}.{key.value}" if place else str(key.value)
                self._walk(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, f"{place}[{index}]")


def show(value: Any) -> str:
    """A value of the file as its writer would know it again, shortened."""
    if value is None:
        return "nothing"
    try:
        text = msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, OverflowError):
        text = str(value)
    if isinstance(value, float):
        # JSON has no infinity.
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
