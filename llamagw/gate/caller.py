"""Who sends a request, and what that may do: the holder of a key, or anybody."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from llamagw.config import LimitsEntry, is_pattern
from llamagw.dialects import Scope


class Caller:
    """
    Who sends a request.

    :param name: of the key; "" for anybody, where there are no keys
    :param scopes: what may be done
    :param models: names and patterns of the models, own names or aliases, with which it may be done
    :param priority: the highest class that its requests may have while they wait
    :param share: how much of the slots it gets where others of its class wait too
    :ivar models: as given
    :param limits: how much it may use; None for as much as it likes
    :ivar every_model: whether that is every model, those of later configurations too
    """

    __slots__ = (
        "_names",
        "_pattern",
        "every_model",
        "limits",
        "models",
        "name",
        "priority",
        "scopes",
        "share",
    )

    def __init__(
        self,
        name: str,
        scopes: Iterable[Scope],
        models: Iterable[str] = ("*",),
        priority: int = 0,
        share: float = 1.0,
        limits: LimitsEntry | None = None,
    ) -> None:
        self.models = models = tuple(models)
        self.name = name
        self.priority = priority
        self.share = share
        self.limits = limits
        self.scopes = frozenset(scopes)
        self.every_model = "*" in models
        self._names = frozenset(model for model in models if not is_pattern(model))
        patterns = [fnmatch.translate(model) for model in models if is_pattern(model)]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __repr__(self) -> str:
        return f"<Caller {self.name or 'anybody'}: {sorted(s.name.lower() for s in self.scopes)}>"

    def may_use(self, *names: str) -> bool:
        """
        Whether it may use a model.

        :param names: the model's own name and its aliases; one that is listed is enough: the right
            is to the model, whatever it is called
        """
        if self.every_model:
            return True
        if not self._names.isdisjoint(names):
            return True
        pattern = self._pattern
        return pattern is not None and any(map(pattern.match, names))


#: Everybody, where there are no keys.
ANYBODY = Caller("", Scope)
