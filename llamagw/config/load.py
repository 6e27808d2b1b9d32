"""
From a file to a `Config`, or to one `ConfigError` that holds all its faults at once.

Defines the order of the checks: types (walk.py), rules (rules.py), and what the configuration
refers to on this machine (machine.py). A wrong value is replaced by its default, so that the checks
can go on and report all faults. Nothing is started or served here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from llamagw.config import collector, door, keys, machine, rules, sizes
from llamagw.config.addresses import origin
from llamagw.config.document import ConfigError, Document, show
from llamagw.config.resolved import (
    Config,
    LocalModel,
    ModelConfig,
    Otel,
    RemoteModel,
    Replica,
)
from llamagw.config.schema import CaptureEntry, ConfigFile, ModelEntry, OtelEntry, ReplicaEntry
from llamagw.config.walk import environment, fields, takes, texts


def load(path: str, text: bytes | None = None) -> Config:
    """
    Read and check a configuration file.

    :param path: the YAML file; relative paths in it are relative to its folder
    :param text: checked as if the file said that; None to read it
    :return: the configuration, complete and valid
    :raises ConfigError: with every fault of the file, each with its place and remedy
    """
    document = Document(path)
    config = resolve(document, document.parse(text))
    if config is None:
        raise ConfigError(document.sorted_faults())
    return config


def resolve(document: Document, raw: dict[Any, Any] | None) -> Config | None:
    """
    Check what a document says.

    :param document: gets the faults
    :param raw: its plain values, from `Document.parse`
    :return: the configuration, complete and valid; None if the document has faults
    :raises ConfigError: if there are too many
    """
    config = None if raw is None else _config(document, raw)
    return None if document.faults else config


def _config(document: Document, raw: dict[Any, Any]) -> Config:
    fault = document.fault
    meant = rules.meant_at_top(raw)
    apart = {"models", "capture", "otel", "memory", "memory_reserve", "keys", "tls", "forwarded"}
    file = ConfigFile(**{"models": [], **fields(document, ConfigFile, raw, "", apart, meant)})
    if "memory" in raw:
        file = replace(file, memory=sizes.budgets(fault, raw["memory"]))
    if "memory_reserve" in raw:
        left = sizes.reserve(fault, raw["memory_reserve"], file.memory_reserve)
        file = replace(file, memory_reserve=left)
    sizes.needs_memory(fault, file, raw)
    names = rules.NameRules(fault)
    counted = file.memory != "off"
    models = list(_models(document, raw["models"], names, counted)) if "models" in raw else []
    known = names.check_aliases()
    names.default_model(file.default_model, known)
    if "capture" in raw:
        file = replace(file, capture=_capture(document, raw["capture"]))
        names.captured(file.capture.models, known)
        rules.capture(fault, file, raw["capture"])
    if "default_model" not in raw and len(models) == 1:
        file = replace(file, default_model=models[0].name)
    if file.llama_server_path:
        given = raw["llama_server_path"]
        found = machine.find_engine(fault, given, file.llama_server_path)
        file = replace(file, llama_server_path=found)
    elif "llama_server_path" not in raw and not (models and all(m.remote for m in models)):
        fault("llama_server_path", "is missing; the path of a file is needed")
    rules.listen_addr(fault, file.listen_addr)
    file = replace(
        file,
        tls=door.tls(document, raw, file.listen_addr),
        forwarded=door.forwarded(document, raw),
    )
    rules.origins(fault, file.cors_origins)
    rules.bodies(fault, file)
    if "keys" in raw:
        file = replace(file, keys=keys.listed(document, raw["keys"]))
    config = Config.of(document.path, file, models, _otel(document, raw))
    if not document.faults:
        rules.room(fault, config.limit, models)
    return config


def _otel(document: Document, raw: dict[Any, Any]) -> Otel | None:
    if "otel" not in raw:
        return collector.settings(document.fault, None)
    given = raw["otel"]
    if not isinstance(given, dict):
        empty = "; {} for the defaults" if given is None else ""
        wanted = takes(ConfigFile)["otel"]
        document.fault("otel", f"expected {wanted}, got {show(given)}{empty}")
        return None
    before = len(document.faults)
    entry = OtelEntry(**fields(document, OtelEntry, given, "otel"))
    return collector.settings(document.fault, entry) if len(document.faults) == before else None


def _capture(document: Document, raw: Any) -> CaptureEntry:
    """What is said about content to be kept; nothing is, where it is faulty."""
    if isinstance(raw, dict):
        return CaptureEntry(**fields(document, CaptureEntry, raw, "capture"))
    wanted = takes(ConfigFile)["capture"]
    document.fault("capture", f"expected {wanted}, got {show(raw)}")
    return CaptureEntry()


def _models(
    document: Document, raw: Any, names: rules.NameRules, counted: bool
) -> Iterator[ModelConfig]:
    """
    The valid models; the others become faults.

    :param raw: the value of ``models:``
    :param names: collects the names of all models
    :param counted: whether memory is counted
    """
    if not isinstance(raw, list) or not raw:
        hint = '; begin each model with "- "' if isinstance(raw, dict) else ""
        document.fault("models", f"expected a list with at least one model, got {show(raw)}{hint}")
        return
    for index, one in enumerate(raw):
        place = f"models[{index}]"
        if not isinstance(one, dict):
            document.fault(place, f'expected keys such as "name: …", got {show(one)}')
            continue
        before = len(document.faults)
        entry, model = _model(document, one, place, counted)
        names.add(index, entry.name, entry.aliases)
        if len(document.faults) == before:
            yield model


def _model(
    document: Document, raw: dict[Any, Any], place: str, counted: bool
) -> tuple[ModelEntry, ModelConfig]:
    fault = document.fault
    if isinstance(raw.get("env"), dict):
        raw = {**raw, "env": environment(document, raw["env"], f"{place}.env")}
    if isinstance(raw.get("extra_args"), list):
        raw = {**raw, "extra_args": texts(document, raw["extra_args"], f"{place}.extra_args")}
    listed = raw.get("replicas")
    apart = {"memory", "replicas"} if isinstance(listed, list) else {"memory"}
    meant = rules.meant_in_model(raw)
    entry = ModelEntry(**{"name": "", **fields(document, ModelEntry, raw, place, apart, meant)})
    if "threads" not in raw:
        entry = replace(entry, threads=min(entry.threads, machine.physical_cores()))
    if "memory" in raw:
        entry = replace(entry, memory=sizes.taken(fault, raw["memory"], f"{place}.memory"))
    rules.own_flags(fault, entry.extra_args, place)
    rules.params(fault, entry, place)
    rules.headers(fault, entry.pass_headers, place)
    remote = rules.local_or_remote(fault, raw.keys(), place)
    if not remote:
        sizes.of_model(fault, entry, counted, place)
    replicas = [*_at_urls(document, raw, entry, place)]
    if isinstance(listed, list):
        replicas += _at_replicas(document, listed, place)
    if "paths" in raw:
        rules.paths(fault, replicas, place)
    return entry, RemoteModel.of(entry, replicas) if remote else LocalModel.of(entry)


def _at_urls(
    document: Document, raw: dict[Any, Any], entry: ModelEntry, place: str
) -> Iterator[Replica]:
    """The servers of ``url:``; the keys beside it apply to each of them."""
    urls = [entry.url] if isinstance(entry.url, str) else entry.url
    for number, url in enumerate(urls):
        server = ReplicaEntry(
            url=url,
            api_key=entry.api_key,
            api_key_env=entry.api_key_env,
            ca_file=entry.ca_file,
            upstream_model=entry.upstream_model,
        )
        at = f"{place}.url" + (f"[{number}]" if len(urls) > 1 else "")
        yield from _replica(document, server, place, at)
    if raw.get("url") == []:
        document.fault(f"{place}.url", "is an empty list; at least one URL is needed")


def _at_replicas(document: Document, raw: list[Any], place: str) -> Iterator[Replica]:
    """The servers of ``replicas:``."""
    for number, one in enumerate(raw):
        at = f"{place}.replicas[{number}]"
        if isinstance(one, dict):
            server = ReplicaEntry(**{"url": "", **fields(document, ReplicaEntry, one, at)})
            yield from _replica(document, server, at, f"{at}.url")
        else:
            document.fault(at, f'expected keys such as "url: …", got {show(one)}')
    if not raw:
        document.fault(f"{place}.replicas", "is an empty list; at least one is needed")


def _replica(document: Document, server: ReplicaEntry, place: str, at: str) -> Iterator[Replica]:
    """
    One server, with its key read from the environment; nothing if its URL is invalid.

    :param place: of its keys
    :param at: the place of its URL
    """
    fault = document.fault
    if not server.url:
        return
    try:
        tls = origin(server.url).tls
    except ValueError as error:
        fault(at, str(error))
        return
    key = server.api_key
    if server.api_key_env is not None:
        key = machine.variable(server.api_key_env)
        if server.api_key is not None:
            fault(f"{place}.api_key_env", "does not go together with api_key; give one")
        elif not key:
            fault(
                f"{place}.api_key_env",
                f"the environment has no {server.api_key_env}; set it, or give api_key",
            )
    if server.ca_file is not None:
        if not tls:
            fault(f"{place}.ca_file", "is for https, and the URL is http")
        else:
            machine.certificates(fault, server.ca_file, f"{place}.ca_file")
    rules.api_key(fault, key, place)
    yield Replica(
        url=server.url,
        api_key=key,
        ca_file=server.ca_file,
        upstream_model=server.upstream_model,
    )
