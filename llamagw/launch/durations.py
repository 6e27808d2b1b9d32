"""
How long loads have taken, by model; kept across restarts, to tell how long the next one will.

One small file for all gateways of a user, in the user's state folder. Each load adds to what the
file has by then, so that gateways side by side learn from each other; if two write at the same
moment, one load is forgotten. Whether and when a model is loaded does not depend on it.
"""

from __future__ import annotations

from statistics import median
from typing import Annotated

from msgspec import Meta, Struct

from llamagw.config import LocalModel
from llamagw.state import StateFile

#: How many loads of each model count, and of how many models they are kept; the ones that were not
#: loaded for the longest are dropped.
KEPT_LOADS, KEPT_MODELS = 9, 1000

#: What a load depends on: the model's name, its file, and how many layers are on the GPU.
_Key = tuple[str, str, int | str]


class _Loads(Struct, frozen=True):
    """
    The last loads of one model.

    :ivar seconds: what each took, the latest last
    """

    name: str
    model_path: str
    gpu_layers: int | str
    seconds: Annotated[list[Annotated[float, Meta(ge=0, le=1e7)]], Meta(min_length=1)]

    @property
    def key(self) -> _Key:
        return self.name, self.model_path, self.gpu_layers


class Durations:
    """
    The last loads of each model.

    :param folder: of the file; None, or one that is not safe, for no file: then they are kept in
        memory only
    """

    def __init__(self, folder: str | None = None) -> None:
        self._file = StateFile(folder, "loads.json", _Loads, "the times of earlier loads are")
        #: The least recently loaded model first; None before they are asked for.
        self._known: dict[_Key, _Loads] | None = None

    def __repr__(self) -> str:
        return f"<Durations, {self._file}: {len(self._known or ())} models>"

    def usual(self, model: LocalModel) -> float | None:
        """
        What a load of the model usually takes: the median of its last loads.

        :return: seconds; None if none is known
        """
        if self._known is None:
            self._known = self._read() or {}
        loads = self._known.get(_key(model))
        return None if loads is None else round(median(loads.seconds[-KEPT_LOADS:]), 3)

    def add(self, model: LocalModel, seconds: float) -> None:
        """
        Add a load that has ended well.

        :param seconds: what it took
        """
        # By now the file may have loads of other gateways, or be gone.
        known = self._read() or self._known or {}
        key = _key(model)
        before = known.pop(key, None)
        earlier = [] if before is None else before.seconds
        known[key] = _Loads(*key, [*earlier, round(seconds, 3)][-KEPT_LOADS:])
        self._known = {key: known[key] for key in list(known)[-KEPT_MODELS:]}
        self._file.write(list(self._known.values()))

    def _read(self) -> dict[_Key, _Loads] | None:
        """What the file has; None if there is none, or it cannot be used."""
        loads = self._file.read()
        return None if loads is None else {each.key: each for each in loads}


def _key(model: LocalModel) -> _Key:
    return model.name, model.model_path, model.gpu_layers
