"""
The JSON of the lists of models: in the formats of OpenAI and Anthropic, which one list serves, and
of llama-server's router.

Only formats; the data comes from the dispatcher and the configuration.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from llamagw.config import ModelConfig, is_pattern
from llamagw.fleet import Change, ModelReport, Progress
from llamagw.models import file_size

#: A description of a model by its engine (`llamagw.launch.described`), {} if unknown; or an entry.
Described = dict[str, Any]

#: The end of the year 9999, in seconds since the epoch.
_LAST_SECOND = 253_402_300_799


def model_entries(
    report: ModelReport, model: ModelConfig, description: Described
) -> list[Described]:
    """
    The entries of ``GET /v1/models`` for a model: one for its name, one for each alias.

    Each is both a ``model`` of OpenAI's API and a ``ModelInfo`` of Anthropic's.

    :param description: the engine's description
    """
    # A stopping model is in memory but cannot be used, so it is listed as unloaded.
    status = "unloaded" if report.status == "stopping" else report.status
    facts = _facts(model, description)
    entry = {"type": "model", **facts, "created_at": _rfc_3339(facts["created"]), "status": status}
    if report.error is not None:
        entry |= {"error": report.error, "failed_at": report.failed_at}
    aliases = _aliases(model)
    named = {"id": model.name, "display_name": model.name, **entry, "aliases": aliases}
    return [
        named,
        *(
            {"id": alias, "display_name": alias, **entry, "alias_of": model.name}
            for alias in aliases
        ),
    ]


def model_list(entries: Sequence[Described]) -> Described:
    """
    The answer to ``GET /v1/models``: a list of OpenAI's, and the only page of Anthropic's.

    :param entries: of all models
    """
    return {
        "object": "list",
        "data": entries,
        "has_more": False,
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
    }


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
        "status": _status(report),
        "port": report.port,
        "in_flight": report.in_flight,
        "waiting": report.waiting,
        "last_used": report.last_used,
        "pinned": report.pinned,
    }
    if report.socket is not None:
        entry["socket"] = report.socket
    if report.memory is not None:
        entry["memory"] = report.memory
    if report.charge is not None:
        entry |= {"charge": report.charge, "charge_from": report.charge_from}
    if report.waiting_for is not None:
        entry |= {"waiting_sec": report.waiting_sec, "waiting_for": report.waiting_for}
    for key in ("usual_sec", "load_sec", "unloads_in_sec"):
        if (seconds := getattr(report, key)) is not None:
            entry[key] = seconds
    if report.replicas:
        entry["replicas"] = report.replicas
    return entry


def router_event(change: Change, event: str = "status_change") -> Described:
    """
    A change as an event of ``GET /models/sse``, in the format of llama-server's router.

    :param event: the event's name
    """
    data = _status(change)
    data = {"status": data.pop("value"), **data}
    return {"model": change.model, "event": event, "data": data}


def progress_event(name: str, progress: Progress) -> Described:
    """How far a model is, as an event of ``GET /models/sse`` that the router does not have."""
    return {"model": name, "event": "progress", "data": progress}


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


def _status(told: ModelReport | Change) -> Described:
    """The router has no state `failed`: it says `unloaded`, and adds the reason."""
    failed = told.status == "failed"
    entry: Described = {"value": "unloaded" if failed else told.status}
    if failed:
        entry["failed"] = True
    if told.exit_code is not None:
        entry["exit_code"] = told.exit_code
    if failed:
        entry |= {"error": told.error, "failed_at": told.failed_at}
    return entry


def _aliases(model: ModelConfig) -> list[str]:
    return [alias for alias in model.aliases if not is_pattern(alias)]


def _created(model: ModelConfig) -> int:
    try:
        return int(os.stat(model.model_path).st_mtime)
    except OSError:
        return 0


def _rfc_3339(seconds: int) -> str:
    """
    A time as in RFC 3339, such as ``2025-02-19T00:00:00Z``.

    :param seconds: since the epoch; of a file, so it may be a year that the format does not have
    """
    if not 0 <= seconds <= _LAST_SECOND:
        seconds = 0
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
