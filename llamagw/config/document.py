"""
A YAML file as a document: its values, the line of each place in it, and the faults found so far.

What keys and values are allowed is defined in schema.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import yaml
from msgspec import Struct
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import Resolver

from llamagw.config import mistakes

try:
    # libyaml's: a file that would take seconds takes a tenth of that.
    from yaml._yaml import CParser as _Events
except ImportError:
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class _Events(Reader, Scanner, Parser):  # type: ignore[no-redef]
        """PyYAML's parser in Python, where libyaml is missing."""

        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)


# Limits; a file over one of them is a mistake, or made to exhaust the memory.

#: Bytes of a file. 5,000 models take 0.6 MB.
MOST_BYTES = 4 * 2**20

#: Keys and values, including those repeated by aliases and merge keys.
MOST_NODES = 200_000

#: Characters of all places together: a long key is part of each place below it.
MOST_PLACE_TEXT = 2**24

#: Digits of a number. Python's time to convert them grows with their square.
MOST_DIGITS = 100

#: Faults that are reported; with so many, most repeat the same mistake.
MOST_FAULTS = 100

#: Characters of a fault's place, and of its message.
LONGEST_PLACE, LONGEST_MESSAGE = 200, 1000

#: Reports a fault: takes its place, such as ``models[1].threads``, and the message.
Report: TypeAlias = Callable[[str, str], None]
#: What PyYAML raises, beside its own errors, for a value that does not match its tag (!!int "").
_UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class Fault(Struct, frozen=True):
    """
    One fault of a configuration.

    :ivar file: its path
    :ivar line: from 1; None if the fault has no line
    :ivar place: such as ``models[1].threads``; "" for the whole file
    :ivar message: what is wrong and what would be right
    :ivar excerpt: the line of the file and a mark beneath it; empty where the place says it all
    """

    file: str
    line: int | None
    place: str
    message: str
    excerpt: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        text = ": ".join(filter(None, (where, self.place, self.message)))
        # The file's own text may have line breaks and control characters.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ConfigError(Exception):
    """
    A configuration that cannot be used; as a text, one line for each fault, and its excerpt.

    :param faults: all of its faults, at least one
    """

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(line for f in faults for line in (str(f), *f.excerpt)))
        self.faults = faults


class Document:
    """
    A file, and the faults found in it so far.

    :ivar folder: that of the file, absolute
    :ivar text: what it says; None before `parse`, and if it could not be read
    :ivar root: its values with their positions in the text; None if it is not YAML, or empty
    :ivar lines: the line of each place, such as ``models[1].threads``
    :ivar texts: the scalar at each place as written: YAML reads 0755 as 493
    """

    def __init__(self, path: str) -> None:
        """:param path: the file, which is not read yet"""
        self.path = path
        self.folder = os.path.dirname(os.path.abspath(path))
        self.text: str | None = None
        self.root: yaml.Node | None = None
        self.faults: list[Fault] = []
        self.lines: dict[str, int] = {}
        self.texts: dict[str, str] = {}
        self._place_text = 0

    def __repr__(self) -> str:
        return f"<Document {self.path}: {len(self.faults)} faults>"

    def fault(self, place: str, message: str) -> None:
        """
        Add a fault, unless it has been added already.

        :param place: such as ``models[1].threads``; "" for the whole file
        :param message: what is wrong and what would be right
        :raises ConfigError: with all faults, when there are more than `MOST_FAULTS`
        """
        self._note(self.line_of(place), place, message)

    def line_of(self, place: str) -> int | None:
        """
        The line of a place, or of the nearest one around it that has a line.

        :param place: such as ``models[1].threads``; a missing key has the line of its parent
        :return: from 1; None if there is none
        """
        while place and place not in self.lines:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        return self.lines.get(place)

    def _note(
        self, line: int | None, place: str, message: str, excerpt: tuple[str, ...] = ()
    ) -> None:
        place, message = shortened(place, LONGEST_PLACE), shortened(message, LONGEST_MESSAGE)
        fault = Fault(self.path, line, place, message, excerpt)
        if fault in self.faults:
            return
        if len(self.faults) == MOST_FAULTS:
            last = Fault(self.path, None, "", f"has more faults than these {MOST_FAULTS}")
            raise ConfigError([*self.sorted_faults(), last])
        self.faults.append(fault)

    def sorted_faults(self) -> list[Fault]:
        """All faults, in the order of their lines."""
        return sorted(self.faults, key=lambda fault: fault.line or 0)

    def parse(self, given: bytes | None = None) -> dict[Any, Any] | None:
        """
        Read and parse the file.

        :param given: a text to be parsed as if it stood there; None to read the file
        :return: its plain values; None, after adding a fault, if it cannot be read or parsed
        :raises ConfigError: when there are more than `MOST_FAULTS`
        """
        try:
            data = self._content() if given is None else given
            if len(data) > MOST_BYTES:
                self.fault("", f"is no configuration: it is over {MOST_BYTES // 2**20} MB")
                return None
            text = self.text = data.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.fault("", f"cannot be read: {reason}; see config.example.yaml for a beginning")
            return None
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            if node is not None:
                _weigh(node, {})
                self._walk(node, "")
            raw = None if node is None else loader.construct_document(node)
            self.root = node
        except yaml.MarkedYAMLError as error:
            slip = mistakes.explain(error, text)
            self._note(slip.line, "", f"is not YAML: {slip.message}", slip.excerpt)
            return None
        except RecursionError:
            self._note(None, "", "is not YAML: it is nested too deeply")
            return None
        except (yaml.YAMLError, *_UNFIT) as error:
            what = " ".join(str(error).split())
            self._note(None, "", f"is not YAML: {what}")
            return None
        if not isinstance(raw, dict):
            self.fault(
                "", f'expected keys and values such as "listen_addr: :8000", got {show(raw)}'
            )
            return None
        return raw

    def _content(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read(MOST_BYTES + 1)

    def _walk(self, node: yaml.Node, place: str) -> None:
        """Record the line of each place, and report duplicate keys (YAML would keep the last)."""
        if place in self.lines:
            self.fault(place, f"is given twice; line {node.start_mark.line + 1} has it again")
            return
        self._place_text += len(place)
        if self._place_text > MOST_PLACE_TEXT:
            raise _TooMuch("its keys are too long, and nested too deeply")
        self.lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            self.texts[place] = node.value
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):  # other keys are not hashable, and fail later
                    inner = f"{place}.{key.value}" if place else str(key.value)
                    self._walk(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, f"{place}[{index}]")


class _TooMuch(yaml.YAMLError):
    """A file that is over a limit; the message says which."""


class _Loader(Composer, _Events, SafeConstructor, Resolver):
    """
    PyYAML's safe loader: its parser in C if there is one, the rest in Python.

    PyYAML's own loader in C composes in C as well, and overflows its stack if a file is nested too
    deeply.
    """

    def __init__(self, text: str) -> None:
        _Events.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._count += 1
        if self._count > MOST_NODES:
            raise _TooMuch(f"it has over {MOST_NODES} keys and values")
        return super().compose_node(parent, index)


def _weigh(node: yaml.Node, known: dict[int, int | None]) -> int:
    """
    Count the values of a node, including those repeated by aliases; visits each node once.

    :param known: the counts so far, by the id of the node; None for the ancestors of this node
    :raises _TooMuch: when there are more than `MOST_NODES`, or an alias contains itself
    :raises ConstructorError: when a number has too many digits
    """
    weight = known.get(id(node), 0)
    if weight is None:
        raise _TooMuch("an alias stands inside of what it repeats")
    if weight:
        return weight
    known[id(node)] = None
    weight = 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            weight += _weigh(key, known) + _weigh(value, known)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            weight += _weigh(value, known)
    elif node.tag in _NUMBERS and len(node.value) > MOST_DIGITS:
        what = f"a number has over {MOST_DIGITS} digits"
        raise ConstructorError(None, None, what, node.start_mark)
    if weight > MOST_NODES:
        raise _TooMuch("its aliases make too much of it")
    known[id(node)] = weight
    return weight


def with_lines(faults: list[Fault], text: bytes | None = None) -> list[Fault]:
    """
    Add the lines to faults that were found after their file had been read.

    :param faults: of one file
    :param text: what the file would say; None to read it
    :return: the same, in the order of their lines; as they are if the file cannot be read now
    """
    if not faults:
        return []
    document = Document(faults[0].file)
    with contextlib.suppress(ConfigError):
        document.parse(text)
    found = [msgspec.structs.replace(f, line=document.line_of(f.place)) for f in faults]
    return sorted(found, key=lambda fault: fault.line or 0)


def shortened(text: str, most: int) -> str:
    """
    Shorten a text.

    :param text: any text
    :param most: characters of the result at most, including the "…" at its end
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def show(value: Any) -> str:
    """
    A value of the file for a message: as JSON, shortened.

    :param value: any that YAML can hold
    """
    if value is None:
        return "nothing"
    try:
        text = msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, OverflowError):
        text = str(value)
    if isinstance(value, float):
        # JSON has no infinity.
        text = str(value)
    return shortened(text, 60)
