"""
The JSON of the lists of models: in the format of OpenAI, and of llama-server's router.

Only formats; the data comes from the dispatcher and the configuration.
"""

from __future__ import annotations

import os
from typing import Any

from llamagw.config import ModelConfig, is_pattern
from llamagw.fleet import Change, ModelReport
from llamagw.models import file_size

#: A description of a model by its engine (`llamagw.launch.described`), {} if unknown; or an entry.
Described = dict[str, Any]


def openai_entries(
    report: ModelReport, model: ModelConfig, description: Described
) -> list[Described]:
    """
    The entries of ``GET /v1/models`` for a model: one for its name, one for each alias.

    :param description: the engine's description
    """
    # A stopping model is in memory but cannot be used, so it is listed as unloaded.
    status = "unloaded" if report.status == "stopping" else report.status
    entry = {**_facts(model, description), "status": status}
    aliases = _aliases(model)
    named = {"id": model.name, **entry, "aliases": aliases}
    return [named, *({"id": alias, **entry, "alias_of": model.name} for alias in aliases)]


def router_entry(report: ModelReport, model: ModelConfig, description: Described) -> Described:
    """
    A model's entry of ``GET /models``.

    The format is that of llama-server's router (tools/server/server-models.cpp), with keys of the
    gateway's own added.

    :param description: the engine's description
    """
    entry = {
        "id": model.name,
        "aliases": _aliases(model),
        "tags": [],
        **_facts(model, description),
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
    """
    A change as an event of ``GET /models/sse``, in the format of llama-server's router.

    :param event: the event's name
    """
    data = _status(change.status, change.exit_code, change.error)
    data = {"status": data.pop("value"), **data}
    return {"model": change.model, "event": event, "data": data}


def _facts(model: ModelConfig, description: Described) -> Described:
    # The configuration knows no size of a remote model, but its server's description may.
    context, size = model.context_size, file_size(model.model_path)
    facts: Described = {
        "object": "model",
        "created": _created(model),
        "owned_by": "llamagw",
        "context_size": description.get("context_size") if context is None else context,
        "size": description.get("size") if size is None else size,
    }
    if "meta" in description:
        facts["meta"] = description["meta"]
    return facts


def _status(status: str, exit_code: int | None, error: str | None) -> Described:
    """The router has no state `failed`: it says `unloaded`, and adds the reason."""
    entry: Described = {"value": "unloaded" if status == "failed" else status}
    if status == "failed":
        entry["failed"] = True
    if exit_code is not None:
        entry["exit_code"] = exit_code
    if error is not None:
        entry["error"] = error
    return entry


def _aliases(model: ModelConfig) -> list[str]:
    return [alias for alias in model.aliases if not is_pattern(alias)]


def _created(model: ModelConfig) -> int:
    try:
        return int(os.stat(model.model_path).st_mtime)
    except OSError:
        return 0
