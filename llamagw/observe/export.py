"""
What is to be exported by OpenTelemetry, in the terms of this room: plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct


class Export(Struct, frozen=True, kw_only=True):
    """
    What is exported, and where to.

    :ivar endpoint: the collector's address, without ``/v1/traces``; None if the environment says it
    :ivar headers: sent to it; empty if the environment says them
    :ivar content: whether prompts and answers are exported
    :ivar sample: the share of requests that get spans, of those whose client has not decided it;
        None if the environment says it
    :ivar spans: whether spans are exported
    :ivar metrics: whether metrics are exported
    """

    endpoint: str | None = None
    headers: Mapping[str, str] = {}
    content: bool = False
    sample: float | None = None
    spans: bool = True
    metrics: bool = True


class Names(Struct, frozen=True, kw_only=True):
    """
    What a path and a name are called.

    :ivar routes: the first path of each path's row, with ``{…}`` for a variable part; None for
        paths that no model answers
    :ivar operations: ``gen_ai.operation.name`` of each path that has one
    :ivar known: whether a name is that of a configured model
    """

    routes: Mapping[bytes, str | None]
    operations: Mapping[bytes, str]
    known: Callable[[str], bool]
