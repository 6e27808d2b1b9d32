"""
A YAML file as a document: its values, the line of each place, and what is wrong at which place.

Knows nothing of what the file should say; that is schema.py's affair.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import yaml
from msgspec import Struct
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import Resolver

try:
    # libyaml's: a file that would take seconds takes a tenth of that.
    from yaml._yaml import CParser as _Events
except ImportError:
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class _Events(Reader, Scanner, Parser):  # type: ignore[no-redef]
        """What PyYAML makes of a text without libyaml."""

        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)


# A file is a mistake, or made to fill the memory, when it goes beyond one of these.

#: Bytes of a file. 5,000 models have 0.6 MB.
MOST_BYTES = 4 * 2**20

#: Keys and values, with those that its aliases and merge keys repeat.
MOST_NODES = 200_000

#: Characters of all places together: a long key is a part of each place below it.
MOST_PLACE_TEXT = 2**24

#: Digits of a number. Python's time for more than this is that of their square.
MOST_DIGITS = 100

#: Faults that are told; with so many, most are the same one.
MOST_FAULTS = 100

#: Characters of a fault's place, and of its message.
LONGEST_PLACE, LONGEST_MESSAGE = 200, 1000

#: Notes what is wrong: takes its place, such as ``models[1].threads``, and what is wrong there.
Report: TypeAlias = Callable[[str, str], None]
#: What PyYAML lets out, beside its own errors, for a value that does not fit its tag (!!int "").
_UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


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

    :ivar folder: the file's own, absolute
    :ivar lines: the line of each place, such as ``models[1].threads``
    :ivar texts: what stands at each place, letter by letter: YAML reads 0755 as 493
    """

    def __init__(self, path: str) -> None:
        """:param path: the file, which is not read yet"""
        self.path = path
        self.folder = os.path.dirname(os.path.abspath(path))
        self.faults: list[Fault] = []
        self.lines: dict[str, int] = {}
        self.texts: dict[str, str] = {}
        self._place_text = 0

    def fault(self, place: str, message: str) -> None:
        """
        Note that something is wrong; what is noted already is not noted again.

        :param place: such as ``models[1].threads``; "" for the whole file
        :param message: what is wrong and what would be right
        :raises ConfigError: when there are too many, with those that were found
        """
        # A key that is missing has no line; its parent's is the next best.
        at = place
        while at and at not in self.lines:
            at = at[: max(at.rfind("."), at.rfind("["), 0)]
        self._note(self.lines.get(at), place, message)

    def _note(self, line: int | None, place: str, message: str) -> None:
        place, message = shortened(place, LONGEST_PLACE), shortened(message, LONGEST_MESSAGE)
        fault = Fault(self.path, line, place, message)
        if fault in self.faults:
            return
        if len(self.faults) == MOST_FAULTS:
            last = Fault(self.path, None, "", f"has more faults than these {MOST_FAULTS}")
            raise ConfigError([*self.sorted_faults(), last])
        self.faults.append(fault)

    def sorted_faults(self) -> list[Fault]:
        """All faults that were found, in the order of the file."""
        return sorted(self.faults, key=lambda fault: fault.line or 0)

    def parse(self) -> dict[Any, Any] | None:
        """
        Read the file.

        :return: its plain values; None, with a fault noted, if it cannot be had
        :raises ConfigError: when there are too many faults already
        """
        try:
            with open(self.path, "rb") as file:
                data = file.read(MOST_BYTES + 1)
            if len(data) > MOST_BYTES:
                self.fault("", f"is no configuration: it is over {MOST_BYTES // 2**20} MB")
                return None
            text = data.decode()
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
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else None
            what = " ".join(str(error.problem or error.context).split())
            if "alias" in str(error.context):
                what += '; a text that begins with * or & needs quotes, such as "*"'
            self._note(line, "", f"is not YAML: {what}")
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

    def _walk(self, node: yaml.Node, place: str) -> None:
        """Note the line of each place, and keys given twice (YAML would keep the last)."""
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
                if isinstance(key, yaml.ScalarNode):  # of others no dict can be made
                    inner = f"{place}.{key.value}" if place else str(key.value)
                    self._walk(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, f"{place}[{index}]")


class _TooMuch(yaml.YAMLError):
    """A file that is YAML, and too much of it; the message says of what."""


class _Loader(Composer, _Events, SafeConstructor, Resolver):
    """
    PyYAML's safe loader: its parser in C if there is one, the rest in Python.

    PyYAML's own loader in C composes in C as well, and overruns its stack where a file is nested
    too deeply.
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
    How many values a node makes, with those that aliases repeat, without going there twice.

    :param known: what is known already of the nodes, by their id; None of those we are inside of
    :raises _TooMuch: when there are too many, or endlessly many
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


def shortened(text: str, most: int) -> str:
    """
    A text, shortened if it is long.

    :param most: characters that it may have, with the "…" at its end
    """
    return text if len(text) <= most else text[: most - 1] + "…"


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
    return shortened(text, 60)
