"""
What a configuration says, for people: each value in force, and where it comes from.

A value is from the file, a default, or follows from the machine. Secrets are masked (secrets.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from llamagw.config.document import ConfigError, Document, Fault
from llamagw.config.load import resolve
from llamagw.config.resolved import Config, ModelConfig, Otel, RemoteModel, Replica
from llamagw.config.schema import CACHE_MB, DEFAULTS, ModelEntry
from llamagw.config.secrets import MASK, is_secret, masked_arguments, masked_fault, masked_text
from llamagw.config.sizes import spelt

#: How many models are told of at most.
MOST_MODELS = 200

#: Has the default of each key of a model.
_MODEL = ModelEntry(name="")


def described(config: Config, derived: Mapping[str, Any], only: str | None) -> dict[str, Any]:
    """
    Tell of a configuration that is in force, and of its file as that is now.

    :param config: in force
    :param derived: values of keys that the configuration leaves to the machine, and to how the
        gateway was started
    :param only: tell of this model only; None for the first `MOST_MODELS`
    :return: ``path``; ``text`` of the file, None if it cannot be told without secrets; ``same``,
        whether the file says what is in force; its ``faults``; ``values``; ``models``; and how many
        are ``left_out``
    """
    document = Document(config.path)
    now, raw = None, None
    with contextlib.suppress(ConfigError):
        raw = document.parse()
        now = resolve(document, raw)
    text = None
    if document.text is not None and document.root is not None:
        text = masked_text(document.text, document.root)
    same = now == config
    written = _Written(document, raw if now is not None else None, now)
    chosen = [
        (number, model) for number, model in enumerate(config.models) if only in (None, model.name)
    ]
    return {
        "path": config.path,
        "text": text,
        "same": same,
        "faults": told_faults(document.sorted_faults()),
        "values": list(_of_gateway(config, derived, written)),
        "models": [
            {**value, "name": model.name}
            for number, model in chosen[:MOST_MODELS]
            for value in _of_model(model, number, written, config.memory is not None)
        ],
        "left_out": max(len(chosen) - MOST_MODELS, 0),
    }


def told_faults(faults: list[Fault]) -> list[dict[str, Any]]:
    """
    Faults for a client: without the file's own text, which may have secrets.

    :param faults: of a configuration
    """
    told = []
    for fault in faults:
        place, message = masked_fault(fault.place, fault.message)
        told.append({"place": place, "line": fault.line, "message": message})
    return told


class _Written:
    """
    The file as it is now.

    :param raw: its values; None if it has faults
    :param config: what it comes to; None if it has faults
    """

    def __init__(
        self, document: Document, raw: dict[Any, Any] | None, config: Config | None
    ) -> None:
        self._document = document
        self.raw: dict[Any, Any] = raw or {}
        self.config = config
        names = [model.name for model in config.models] if config else []
        self.numbers = {name: number for number, name in enumerate(names)}

    def line(self, place: str) -> int | None:
        """The line of a place; None if it is not in the file."""
        return self._document.lines.get(place)

    def model(self, name: str) -> tuple[dict[Any, Any], ModelConfig | None, str]:
        """A model's keys in the file, what they come to, and its place."""
        number = self.numbers.get(name)
        if number is None or self.config is None:
            return {}, None, ""
        return self.raw["models"][number], self.config.models[number], f"models[{number}]"


def _of_gateway(
    config: Config, derived: Mapping[str, Any], written: _Written
) -> Iterator[dict[str, Any]]:
    usual = _defaults(config)
    for key in Config.__struct_fields__:
        if key in ("path", "models"):
            continue
        value, default = getattr(config, key), getattr(usual, key)
        line, origin = None, "default" if value == default else "file"
        if written.config is not None and getattr(written.config, key) == value:
            origin = "file" if key in written.raw else "default"
            line = written.line(key)
        if value is None and key in derived:
            value = derived[key]
            origin = "machine" if key == "max_bodies_mb" else origin
        if key == "keys" and value is not None:
            value = [one.name for one in value]
        if isinstance(value, Otel):
            origin = origin if value.asked_by == key else "machine"
            value = replace(value, headers=dict.fromkeys(value.headers, MASK))
        yield _value(key, _written_size(key, value), origin, line)


def _defaults(config: Config) -> Config:
    """What would be in force by default; the limit of models depends on whether bytes are."""
    counted = config.memory is not None
    usual = Config.of("", replace(DEFAULTS, memory="auto" if counted else "off"), [])
    return replace(usual, memory=None)


def _written_size(key: str, value: Any) -> Any:
    """A value of the gateway's as a file says it, where that is about memory."""
    if key == "memory_reserve":
        return spelt(value)
    if key != "memory":
        return value
    if value is None:
        return "off"
    return {device: spelt(number) for device, number in value.items()} or "auto"


def _of_model(
    model: ModelConfig, number: int, written: _Written, counted: bool
) -> Iterator[dict[str, Any]]:
    raw, now, place = written.model(model.name)
    here = f"models[{number}]"
    for key in type(model).__struct_fields__:
        if key == "replicas":
            continue
        value, default = getattr(model, key), getattr(_MODEL, key, None)
        line, origin = None, "default" if value == default else "file"
        if now is not None and getattr(now, key, None) == value:
            line = written.line(f"{place}.{key}")
            origin = "file" if key in raw else "default" if value == default else "machine"
        if key == "memory" and value:
            value = {device: spelt(size) for device, size in value.items()}
            value = value.get("", value)
        elif key == "prompt_cache_mb" and value is None and counted:
            value = CACHE_MB
        yield _value(f"{here}.{key}", _masked(key, value), origin, line)
    if isinstance(model, RemoteModel):
        for index, replica in enumerate(model.replicas):
            yield from _of_replica(replica, model, here, index, written, place)


def _of_replica(
    replica: Replica, model: RemoteModel, here: str, index: int, written: _Written, place: str
) -> Iterator[dict[str, Any]]:
    """A server of a model: its keys stand in ``replicas``, or with ``url`` in the model itself."""
    inner = f".replicas[{index}]"
    if place and written.line(f"{place}.replicas") is None:
        inner = ""
    for key in Replica.__struct_fields__:
        value = getattr(replica, key)
        at = f"{inner}.{key}"
        if key == "url" and not inner and len(model.replicas) > 1:
            at += f"[{index}]"
        line = written.line(place + at) if place else None
        if line is None and key == "api_key" and place:
            line = written.line(f"{place}{inner}.api_key_env")
        origin = "file" if value is not None else "default"
        yield _value(here + at, _masked(key, value), origin, line)


def _masked(key: str, value: Any) -> Any:
    if key == "env" and isinstance(value, dict):
        return dict.fromkeys(value, MASK)
    if key == "extra_args":
        return masked_arguments(value)
    return MASK if is_secret(key) and value else value


def _value(place: str, value: Any, origin: str, line: int | None) -> dict[str, Any]:
    return {"place": place, "value": value, "from": origin, "line": line}
