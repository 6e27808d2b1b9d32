"""
Secrets of a configuration: ``***`` in their place where it is shown, and back again.

Secret are each ``api_key``, the values of ``env`` and of ``otel.headers``, and what follows a flag
such as ``--api-key`` in ``extra_args``. Where a file says that a value comes from an environment
variable, its name is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence

import yaml
from msgspec.structs import replace

from llamagw.config.resolved import (
    Config,
    LocalModel,
    ModelConfig,
    Otel,
    RemoteModel,
    Replica,
)

#: What stands for a secret.
MASK = "***"

_PLACE = re.compile(r"(^|\.)(api_key$|(env|headers)($|\.))")

#: Anchor and tag before a value, which others may refer to.
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)*")

#: In a comment, what once was a value or may be one.
_COMMENTED = re.compile(
    r"(#.*?\b\w*(?:key|token|secret|password)[\"']?\s*[:=]\s*)[^\s#].*", re.IGNORECASE
)


def is_secret(place: str) -> bool:
    """
    Whether the value at a place is secret.

    :param place: such as ``models[1].env.HF_TOKEN``
    """
    return bool(_PLACE.search(place))


def is_secret_flag(word: str) -> bool:
    """
    Whether the value of a flag of an engine is secret.

    :param word: such as ``--api-key``
    """
    return bool(re.fullmatch(r"-hft|-.*[-_](key|token)", word, re.IGNORECASE))


def masked_arguments(words: Iterable[str]) -> list[str]:
    """
    A command line, or a part of it, without secrets.

    :param words: a text for each flag and each value
    """
    return [word.removesuffix(value) + MASK if value else word for word, value in _values(words)]


def _values(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each word, with the secret at its end; "" if there is none."""
    secret = False
    for word in words:
        flag, *joined = re.split(r"[=\s]+", word, maxsplit=1)
        names_one = is_secret_flag(flag)
        yield word, word if secret else joined[0] if names_one and joined else ""
        secret = names_one and not joined and not secret


def masked_text(text: str, root: yaml.Node) -> str:
    """
    The text of a file without its secrets; what is on which line stays.

    Of comments, what looks like a key, a token or a password is left out.

    :param root: its values with their positions
    """
    found: dict[int, tuple[int, str]] = {}
    for node, masked in _secrets(root):
        begin, end = node.start_mark.index, node.end_mark.index
        properties = _PROPERTIES.match(text, begin, end)
        begin = properties.end() if properties else begin
        if begin < end:
            found[begin] = end, json.dumps(masked) + "\n" * text.count("\n", begin, end)
    parts, at = [], 0
    for begin, (end, masked) in sorted(found.items()):
        parts += [text[at:begin], masked]
        at = max(at, end)
    return _COMMENTED.sub(rf'\g<1>"{MASK}"', "".join([*parts, text[at:]]))


def _secrets(root: yaml.Node) -> Iterator[tuple[yaml.ScalarNode, str]]:
    """The values that are secret, and what is to be shown instead."""
    # A node that an alias repeats may be secret only there; it is visited twice at most.
    seen: set[tuple[int, bool]] = set()
    waiting: list[tuple[yaml.Node, bool]] = [(root, False)]
    while waiting:
        node, secret = waiting.pop()
        if (id(node), secret) in seen:
            continue
        seen.add((id(node), secret))
        if isinstance(node, yaml.ScalarNode):
            if secret:
                yield node, MASK
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = str(key.value)
                waiting.append((value, secret or is_secret(name)))
                if name == "extra_args" and isinstance(value, yaml.SequenceNode):
                    yield from _arguments(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(value, secret) for value in node.value]


def _arguments(node: yaml.SequenceNode) -> Iterator[tuple[yaml.ScalarNode, str]]:
    words = [one.value if isinstance(one, yaml.ScalarNode) else "" for one in node.value]
    for one, word, masked in zip(node.value, words, masked_arguments(words), strict=True):
        if word != masked:
            yield one, masked


def unmasked(new: Config, old: Config) -> Config:
    """
    A configuration in which `MASK` stands for the secrets that it has in another one.

    :param new: from a text in which secrets may be masked
    :param old: has them, in models of the same names
    """
    before = {model.name: model for model in old.models}
    models = [_with_secrets(model, before.get(model.name)) for model in new.models]
    return replace(new, models=models, otel=_with_headers(new.otel, old.otel))


def _with_headers(new: Otel | None, old: Otel | None) -> Otel | None:
    return new and replace(new, headers=_with_values(new.headers, old.headers if old else {}))


def _with_values(new: dict[str, str], old: dict[str, str]) -> dict[str, str]:
    return {name: old.get(name, one) if one == MASK else one for name, one in new.items()}


def _with_secrets(new: ModelConfig, old: ModelConfig | None) -> ModelConfig:
    if isinstance(new, LocalModel) and isinstance(old, LocalModel):
        env = _with_values(new.env, old.env)
        return replace(new, env=env, extra_args=_arguments_with(new.extra_args, old.extra_args))
    if isinstance(new, RemoteModel) and isinstance(old, RemoteModel):
        keys = {replica.url: replica.api_key for replica in old.replicas}
        return replace(new, replicas=[_with_key(replica, keys) for replica in new.replicas])
    return new


def _with_key(replica: Replica, keys: dict[str, str | None]) -> Replica:
    if replica.api_key != MASK:
        return replica
    return replace(replica, api_key=keys.get(replica.url) or MASK)


def _arguments_with(new: Sequence[str], old: Sequence[str]) -> list[str]:
    """Arguments in which a masked secret is that of the same flag in others."""
    secrets = iter([value for _, value in _values(old) if value])
    return [
        word.removesuffix(MASK) + next(secrets, MASK) if value == MASK else word
        for word, value in _values(new)
    ]
