"""The names by which clients can request models: their own, their aliases, and patterns."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

#: Characters of a model's name at most, in a configuration and in a request.
NAME_LENGTH = 256


class Names:
    """
    Looks up the model that a client's name refers to.

    A pattern is an alias with ``*``, ``?`` or ``[…]`` in it, as in a shell (fnmatch, case
    sensitive). Exact names take precedence over patterns, and patterns over later ones in the file.

    :ivar exact: the model's own name, by name and by alias that is no pattern
    :ivar most_slashes: the number of slashes in the name that has most
    """

    def __init__(self, named: Iterable[tuple[str, Iterable[str]]]) -> None:
        """:param named: each model's own name and its aliases"""
        self.exact: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for name, aliases in named:
            self.exact[name] = name
            for alias in aliases:
                if is_pattern(alias):
                    self._patterns.append((re.compile(fnmatch.translate(alias)), name))
                else:
                    self.exact[alias] = name
        self.most_slashes = max((name.count("/") for name in self.exact), default=0)

    def __repr__(self) -> str:
        return f"<Names: {len(self.exact)} exact, {len(self._patterns)} patterns>"

    def find(self, name: str) -> str | None:
        """
        Look up a name.

        :param name: from a request: a name, an alias, or a match of a pattern
        :return: the model's own name; None if there is none
        """
        exact = self.exact.get(name)
        if exact is not None:
            return exact
        return next((own for pattern, own in self._patterns if pattern.match(name)), None)


def is_pattern(alias: str) -> bool:
    """
    Whether an alias is a pattern.

    :param alias: as configured
    """
    return any(c in alias for c in "*?[")
