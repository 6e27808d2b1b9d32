"""
How the models are told to clients: as OpenAI lists them, and as llama-server's router does.

Only shapes; what there is to tell comes from the dispatcher and the configuration.
"""

from __future__ import annotations

import os
from typing import Any

from llamagw.config import ModelConfig, is_pattern
from llamagw.fleet import Change, ModelReport
from llamagw.models import file_size

#: What the engine says of its model (`llamagw.launch.described`); {} if nothing is known.
Described = dict[str, Any]


def openai_entries(report: ModelReport, model: ModelConfig, said: Described) -> list[Described]:
    """The entries of ``GET /v1/models`` for a model: one for its name, one for each alias."""
    # A stopping model is still in memory, but nobody can have it: to a client it is unloaded.
    status = "unloaded" if report.status == "stopping" else report.status
    entry = {**_facts(model, said), "status": status}
    aliases = _aliases(model)
    named = {"id": model.name, **entry, "aliases": aliases}
    return [named, *({"id": alias, **entry, "alias_of": model.name} for alias in aliases)]


def router_entry(report: ModelReport, model: ModelConfig, said: Described) -> Described:
    """
    A model's entry of ``GET /models``.

    The shape is that of llama-server's router (tools/server/server-models.cpp), with what only the
    gateway knows beside it.
    """
    entry = {
        "id": model.name,
        "aliases": _aliases(model),
        "tags": [],
        **_facts(model, said),
        "status": _status(report.status, report.exit_code, report.error),
        "port": report.port,
        "in_flight": report.in_flight,
        "waiting": report.waiting,
        "last_used": report.last_used,
        "pinned": report.pinned,
    }
    if report.replicas:
        entry["replicas"] = report.replicas
    return entry


def router_event(change: Change, event: str = "status_change") -> Described:
    """What ``GET /models/sse`` says of a change, as llama-server's router says it."""
    data = _status(change.status, change.exit_code, change.error)
    data = {"status": data.pop("value"), **data}
    return {"model": change.model, "event": event, "data": data}


def _facts(model: ModelConfig, said: Described) -> Described:
    # Of a model without a file here, its servers know more than the configuration.
    context, size = model.context_size, file_size(model.model_path)
    facts: Described = {
        "object": "model",
        "created": _created(model),
        "owned_by": "llamagw",
        "context_size": said.get("context_size") if context is None else context,
        "size": said.get("size") if size is None else size,
    }
    if "meta" in said:
        facts["meta"] = said["meta"]
    return facts


def _status(status: str, exit_code: int | None, error: str | None) -> Described:
    """The router knows no state of failure: there it is unloaded, with the reason beside it."""
    told: Described = {"value": "unloaded" if status == "failed" else status}
    if status == "failed":
        told["failed"] = True
    if exit_code is not None:
        told["exit_code"] = exit_code
    if error is not None:
        told["error"] = error
    return told


def _aliases(model: ModelConfig) -> list[str]:
    return [alias for alias in model.aliases if not is_pattern(alias)]


def _created(model: ModelConfig) -> int:
    try:
        return int(os.stat(model.model_path).st_mtime)
    except OSError:
        return 0
