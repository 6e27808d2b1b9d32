"""The fuzz targets: each takes bytes, and raises when a promise is not kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from tests.fuzz import files, secret, texts, wire

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")


class Target(NamedTuple):
    """
    :ivar run: raises if the input breaks a promise
    :ivar words: of what interesting inputs are made
    :ivar most: bytes of an input
    """

    run: Callable[[bytes], None]
    words: list[bytes]
    most: int = 4096


TARGETS = {
    "client": Target(wire.client, wire.CLIENT_WORDS, 8192),
    "backend": Target(wire.backend, wire.BACKEND_WORDS),
    "upstream": Target(wire.upstream, wire.BACKEND_WORDS),
    "form": Target(texts.form, texts.FORM_WORDS),
    "query": Target(texts.query, texts.QUERY_WORDS, 512),
    "body": Target(texts.body, texts.BODY_WORDS),
    "gguf": Target(files.gguf_head, files.GGUF_WORDS),
    "config": Target(files.config, files.CONFIG_WORDS),
    "masked": Target(secret.masked, secret.MASKED_WORDS),
    "captured": Target(secret.captured, secret.CAPTURED_WORDS),
}


def corpus(name: str) -> list[str]:
    """The files of inputs that are kept for a target."""
    folder = os.path.join(CORPUS, name)
    return sorted(os.path.join(folder, one) for one in os.listdir(folder))
