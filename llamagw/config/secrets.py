"""
Secrets of a configuration: ``***`` in their place where it is shown, and back again.

Secret are each ``api_key``, the values of ``env`` and of ``otel.headers``, and what follows a flag
such as ``--api-key`` in ``extra_args``. Where a file says that a value comes from an environment
variable, its name is none. A file may be shown that has faults: what resembles these is masked
there too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

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
from llamagw.config.schema import TlsEntry

#: What stands for a secret.
MASK = "***"

_PLACE = re.compile(r"(^|\.)(api_key$|(env|headers)($|\.))")

#: Names of keys that are secret although the configuration has none such: a slip, which is a fault.
_NAME = re.compile(
    r"env|(?:.*[-_ ])?(?:api[-_ ]?key|key|token|secret|password)", re.IGNORECASE | re.DOTALL
)

#: What a slip may leave around a key.
_AROUND = re.compile(r"\A\W+|\W+\Z")

#: What the name of a variable may be; another text in its place may be the secret itself.
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_HEADER = re.compile(r"[\w-]+")

#: Anchor and tag before a value, which others may refer to.
_PROPERTIES = re.compile(r"(?:(?:&[\w-]+|!\S*)\s+)*")

#: In a comment, what once was a value or may be one.
_COMMENTED = re.compile(
    r"(#.*?(?:\b\w*(?:key|token|secret|password)[\"']?\s*[:=]\s*"
    r"|(?:-hft|--[\w-]*[-_](?:key|token))[\"']?[\s,=]+[\"']?))[^\s#].*",
    re.IGNORECASE,
)

#: In a text, a flag with its value, and the value's end.
_FLAG = re.compile(r"(?:^|(?<=\s))(?:-hft|-\S*?[-_](?:key|token))[=\s]+(?=\S)", re.IGNORECASE)

#: In a URL, a password, and a query.
_IN_URL = re.compile(r"(?<=://)[^\s/@]+(?=@)|(?<=\?)[^\s'\"]+")


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
        # A word may be a whole command line, by mistake.
        found = _FLAG.search(word)
        yield word, word if secret else word[found.end() :] if found else ""
        last = word.split()[-1:]
        secret = not secret and not found and bool(last) and is_secret_flag(last[0])


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
        # One that an alias repeats may be masked in part in one place, and be secret in another.
        if begin < end and (masked == MASK or begin not in found):
            found[begin] = end, json.dumps(masked) + "\n" * text.count("\n", begin, end)
    parts, at = [], 0
    for begin, (end, masked) in sorted(found.items()):
        parts += [text[at:begin], masked]
        at = max(at, end)
    return _COMMENTED.sub(rf'\g<1>"{MASK}"', "".join([*parts, text[at:]]))


class _Kind(Enum):
    """What a node of a file is."""

    PLAIN = 0
    SECRET = 1
    ARGUMENTS = 2
    #: Of which the names of the values are none, and have dashes.
    HEADERS = 3


_SECRETS = (_Kind.SECRET, _Kind.HEADERS)


def _kind(name: str, outer: _Kind) -> _Kind:
    """What the value of a key is; also of one that is misspelt or misplaced."""
    name = _AROUND.sub("", name)
    if name == "headers":
        return _Kind.HEADERS
    if outer in _SECRETS or is_secret(name) or _NAME.fullmatch(name):
        return _Kind.SECRET
    return _Kind.ARGUMENTS if name == "extra_args" else _Kind.PLAIN


def _secrets(root: yaml.Node) -> Iterator[tuple[yaml.ScalarNode, str]]:
    """The values that are secret, and what is to be shown instead; whatever shape they have."""
    # A node that an alias repeats may be secret only there; it is visited three times at most.
    seen: set[tuple[int, _Kind]] = set()
    waiting: list[tuple[yaml.Node, _Kind]] = [(root, _Kind.PLAIN)]
    while waiting:
        node, kind = waiting.pop()
        if (id(node), kind) in seen:
            continue
        seen.add((id(node), kind))
        if isinstance(node, yaml.ScalarNode):
            masked = MASK if kind in _SECRETS else _without_secrets(node.value)
            if masked != node.value:
                yield node, masked
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = str(key.value)
                like = {_Kind.SECRET: _VARIABLE, _Kind.HEADERS: _HEADER}.get(kind)
                is_name = like is None or like.fullmatch(name)
                waiting.append((key, _Kind.PLAIN if is_name else _Kind.SECRET))
                names_one = name == "api_key_env" and isinstance(value, yaml.ScalarNode)
                if names_one and not _VARIABLE.fullmatch(value.value):
                    waiting.append((value, _Kind.SECRET))
                else:
                    waiting.append((value, _kind(name, kind)))
        elif isinstance(node, yaml.SequenceNode) and kind is _Kind.ARGUMENTS:
            yield from _arguments(node, waiting)
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(value, kind) for value in node.value]


def _arguments(
    node: yaml.SequenceNode, waiting: list[tuple[yaml.Node, _Kind]]
) -> Iterator[tuple[yaml.ScalarNode, str]]:
    """As `_secrets`, for arguments; those that are no texts are to be looked at in their turn."""
    words = [one.value if isinstance(one, yaml.ScalarNode) else "-" for one in node.value]
    for one, word, masked in zip(node.value, words, masked_arguments(words), strict=True):
        if not isinstance(one, yaml.ScalarNode):
            waiting.append((one, _Kind.ARGUMENTS if word == masked else _Kind.SECRET))
        elif word != masked:
            yield one, masked


def _without_secrets(text: str) -> str:
    """A text that should have none: without what follows a flag, and what a URL may have."""
    [masked] = masked_arguments([text])
    return _without_passwords(masked)


def _without_passwords(text: str) -> str:
    return _IN_URL.sub(MASK, text) if "://" in text else text


def masked_fault(place: str, message: str) -> tuple[str, str]:
    """
    The place and the message of a fault without secrets.

    :param place: such as ``models[1].env.HF_TOKEN``
    """
    outer, variable, name = place.partition(".env.")
    if variable and not _VARIABLE.fullmatch(name):
        place = f"{outer}{variable}{MASK}"
    key = _AROUND.sub("", place).rpartition(".")[2]
    if is_secret(place) or _NAME.fullmatch(key) or key.startswith(("extra_args", "replicas")):
        message = message.partition(", got ")[0]
    if key == "api_key_env":
        message = re.sub(r"(?<=the environment has no )\S*-\S*(?=;)", MASK, message)
    return place, _without_passwords(message)


def unmasked(new: Config, old: Config) -> Config:
    """
    A configuration in which `MASK` stands for the secrets that it has in another one.

    :param new: from a text in which secrets may be masked
    :param old: has them, in models of the same names
    """
    before = {model.name: model for model in old.models}
    models = [_with_secrets(model, before.get(model.name)) for model in new.models]
    return replace(
        new, models=models, otel=_with_headers(new.otel, old.otel), tls=_with_path(new.tls, old.tls)
    )


def _with_path(new: TlsEntry | None, old: TlsEntry | None) -> TlsEntry | None:
    """The path of a private key is no secret, but stands where one might be written by mistake."""
    if new is None or old is None or os.path.basename(new.key) != MASK:
        return new
    return replace(new, key=old.key)


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
