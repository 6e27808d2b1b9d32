"""
The slots of an engine, and how they forget: what it answers, and the flag that it needs.

llama-server 10068 erases a slot only if it was started with ``--slot-save-path`` ("This server does
not support slots action"). The folder is made for that alone, and only root can write into it.
"""

from __future__ import annotations

import os

import msgspec

from llamagw.system import state_folder

#: The flag.
SAVE_FLAG = "--slot-save-path"

#: Slots that are looked at; no engine has so many.
_MOST = 256


class _Slot(msgspec.Struct):
    """An item of the answer to ``GET /slots``."""

    id: int
    is_processing: bool = True


class _Erased(msgspec.Struct):
    """The answer to ``POST /slots/{id}?action=erase``."""

    n_erased: int = 0


_slots = msgspec.json.Decoder(list[_Slot])
_erased = msgspec.json.Decoder(_Erased)


def idle_slots(body: bytes) -> list[int]:
    """
    The slots that have no request.

    :param body: of the answer to ``GET /slots``
    :return: their ids
    :raises msgspec.DecodeError: when it is no such answer
    """
    slots = _slots.decode(body)
    return [slot.id for slot in slots[:_MOST] if not slot.is_processing and 0 <= slot.id < _MOST]


def tokens_erased(body: bytes) -> int:
    """
    How many tokens a slot has forgotten.

    :param body: of the answer to ``POST /slots/{id}?action=erase``
    :raises msgspec.DecodeError: when it is no such answer
    """
    return _erased.decode(body).n_erased


def save_folder() -> str:
    """The folder that `SAVE_FLAG` names; `make_folder` makes it."""
    return os.path.join(state_folder(), "slots")


def make_folder() -> None:
    """
    Make the folder that `SAVE_FLAG` names.

    :raises OSError: when it cannot be made
    """
    os.makedirs(state_folder(), mode=0o700, exist_ok=True)
    os.makedirs(save_folder(), mode=0o500, exist_ok=True)
