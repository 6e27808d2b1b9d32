"""
How a backend describes its model, reduced to what may be repeated to clients.

A backend may be a server that somebody else runs: what it says is kept only if it is of its kind
and small, and in a form that can be written out again whatever it was. A description that breaks
or bloats the lists would do so for all models.
"""

from __future__ import annotations

from typing import Any

import msgspec

#: Bytes of JSON that a model's ``meta`` may have.
MAX_META = 16 * 1024


def described(body: bytes, name: str | None) -> dict[str, Any]:
    """
    What is said of a model in the answer to ``GET /v1/models``.

    :param name: what the model is called there; the first is taken if none has that name
    :return: ``context_size`` (tokens) and ``size`` (bytes) if they are numbers, ``meta`` as JSON
    :raises Exception: when it is no list of models; which one is nobody's concern
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
    # A bool is an int to Python; a larger int cannot be encoded.
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if fits else None  # type: ignore[return-value]
