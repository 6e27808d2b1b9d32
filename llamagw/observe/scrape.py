"""
The door to prometheus.py, which is imported when somebody scrapes first: it takes 3 MB of memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llamagw.observe.families import Family


def exposition(
    families: Iterable[Family], engines: Mapping[str, bytes], accept: str
) -> tuple[bytes, str]:
    """
    All metrics as text.

    :param families: the gateway's own
    :param engines: what each engine told, by name of the model; not trusted
    :param accept: the scraper's Accept header; chooses between Prometheus' format and OpenMetrics
    :return: the text, and its Content-Type
    """
    from llamagw.observe import prometheus

    return prometheus.exposition(families, engines, accept)
