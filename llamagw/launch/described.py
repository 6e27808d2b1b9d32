"""
A backend's description of its model, validated and bounded before it goes into the lists.

A remote server is not trusted: a value is kept only if it has the expected type, is small and can
be encoded again. One invalid or huge description would break the list of all models.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: Bytes of JSON that a model's ``meta`` has at most.
MAX_META = 16 * 1024


def described(body: bytes, name: str | None) -> dict[str, Any]:
    """
    The facts about a model in an answer to ``GET /v1/models``.

    :param body: the answer's body
    :param name: the model's name there; if no entry has it, the first entry is used
    :return: ``context_size`` (tokens) and ``size`` (bytes) if they are numbers, ``meta`` as JSON
    :raises Exception: of any class, when the body is not a list of models
    """
    entries = msgspec.json.decode(body)["data"]
    named = [entry for entry in entries if entry["id"] == name]
    entry = (named or entries or [{}])[0]
    meta = entry.get("meta")
    theirs = meta if isinstance(meta, dict) else {}
    contexts = (entry.get("context_size"), theirs.get("n_ctx"), entry.get("max_model_len"))
    facts: dict[str, Any] = {
        "context_size": next(filter(None, map(_number, contexts)), None),
        "size": _number(entry.get("size")),
    }
    if meta:
        encoded = msgspec.json.encode(meta)
        if len(encoded) <= MAX_META:
            facts["meta"] = msgspec.Raw(encoded)
    return {key: value for key, value in facts.items() if value is not None}


def _number(value: object) -> int | float | None:
    # A bool is an int in Python; a larger int cannot be encoded.
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if fits else None  # type: ignore[return-value]
