"""By which names models are known: their own, their aliases, and patterns."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

#: Characters that a model's name may have, in a configuration and in a request.
NAME_LENGTH = 256


class Names:
    """
    Finds the model that a name means.

    A pattern is an alias with ``*``, ``?`` or ``[…]`` in it, as in a shell (fnmatch, upper and
    lower case told apart). Exact names come before patterns, and patterns in the order of the file.

    :ivar exact: the model's own name for each name and each alias that is no pattern
    :ivar most_slashes: how many slashes a name has at most
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
        Look a name up.

        :param name: what a client says: a name, an alias, or what a pattern fits
        :return: the model's own name; None if it means no model
        """
        exact = self.exact.get(name)
        if exact is not None:
            return exact
        return next((own for pattern, own in self._patterns if pattern.match(name)), None)


def is_pattern(alias: str) -> bool:
    """Whether an alias stands for many names."""
    return any(c in alias for c in "*?[")
