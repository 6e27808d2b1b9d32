"""
What a person reads of a configuration: at the start, at a reload, and for ``--check``.

Text and log lines only; when they are due is for service.py (in the log) and tap.py (on stdout).
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from llamagw import __version__
from llamagw.config import Config, LocalModel, base_url, physical_cores, shown_address
from llamagw.dialects import ANY, OWN, ROUTES
from llamagw.launch import Note

_log = Logger(namespace="llamagw")

#: How many models a reload names at most, of each kind.
_NAMED = 10


def log_start(config: Config, notes: Sequence[Note], address: IAddress, transports: str) -> None:
    """
    Log the start-up lines: version, models, what is wrong with them, where the gateway listens.

    :param config: what is served
    :param notes: what is to be said of its models
    :param address: what the port is bound to
    :param transports: the kind of transports, such as "uvloop"
    """
    _log.info("llamagw {version} ({transports})", version=__version__, transports=transports)
    _log.info("{scope}", scope=scope(config))
    for model in config.models:
        if model.remote:
            where = ", ".join(replica.url for replica in model.replicas)
        else:
            where = model.model_path
        _log.info("model {name}: {where}", name=model.name, where=where)
    log_notes(notes)
    log_address(address, config.listen_addr)


def log_notes(notes: Sequence[Note]) -> None:
    """
    Warn of what is wrong with models; at most `_NAMED` are named.

    :param notes: what is to be said of them; hints are left out
    """
    grave = [note for note in notes if note.grade != "hint"]
    for note in grave[:_NAMED]:
        unusable = note.grade == "fault" and note.key == "model_path"
        _log.warn(
            "model {name}{what}{why}",
            name=note.model,
            what=" cannot be served: " if unusable else f": {note.key} ",
            why=note.message,
        )
    if len(grave) > _NAMED:
        _log.warn("{count} more; llamagw check tells all", count=len(grave) - _NAMED)


def log_address(address: IAddress, listen_addr: str) -> None:
    """
    Log where the gateway listens, and the URL of each route.

    :param address: what the port is bound to
    :param listen_addr: what that was made from; says whether clients use TLS
    """
    _log.info("listening on {address}", address=shown_address(address))
    base = base_url(address, listen_addr)
    for route in ROUTES:
        first, *others = route.paths
        methods = "ANY" if route.methods is ANY else "/".join(route.methods)
        also = f" (also {', '.join(others)})" if others else ""
        _log.info("{m:4} {base}{path}{also}", m=methods, base=base, path=first, also=also)
    for own in OWN:
        _log.info("{m:4} {base}{path}", m=own.method, base=base, path=own.path)


def scope(config: Config) -> str:
    """
    How many models there are, in words.

    :param config: that has them
    """
    count = "1 model" if len(config.models) == 1 else f"{len(config.models)} models"
    return f"{count} configured, at most {config.max_loaded_models} in memory at once"


def changes(old: Config, new: Config) -> str:
    """
    What a reload changes, in words; at most `_NAMED` models of each kind are named.

    :param old: the configuration before
    :param new: the configuration after
    """
    before = {model.name: model for model in old.models}
    after = {model.name: model for model in new.models}
    kept = [name for name in after if name in before]
    parts = [scope(new)]
    for what, names in (
        ("new", [name for name in after if name not in before]),
        ("changed", [name for name in kept if after[name] != before[name]]),
        ("removed", [name for name in before if name not in after]),
    ):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{what}: {', '.join(names[:_NAMED])}{more}")
    if old.llama_server_path != new.llama_server_path:
        parts.append(f"run by {new.llama_server_path}")
    return "; ".join(parts)


def summary(path: str, config: Config, notes: Sequence[Note]) -> str:
    """
    What would be served, for ``--check``.

    :param path: the file that the configuration was read from
    :param config: the configuration
    :param notes: what is to be said of its models; none is a fault
    :return: several lines
    """
    local = [model for model in config.models if not model.remote]
    remote = [model for model in config.models if model.remote]
    lines = [f"{path} is fine.", f"llamagw {__version__} would listen on {config.listen_addr}"]
    if local:
        lines += [
            f"and run {config.llama_server_path},",
            f"with at most {config.max_loaded_models} of these in memory:",
        ]
    for model in local:
        lines += [f"  {model.name}: {model.model_path}", f"      {_settings(model)}"]
        lines += [f"      {n.grade}: {n.key} {n.message}" for n in notes if n.model == model.name]
    if remote:
        lines.append("and pass on what is for these, which live elsewhere:")
    for other in remote:
        urls = ", ".join(replica.url for replica in other.replicas)
        lines.append(f"  {other.name}: {urls}")
    if config.default_model is not None:
        lines.append(f"A request that names no model gets {config.default_model}.")
    return "\n".join(lines)


def _settings(model: LocalModel) -> str:
    """What its settings have come to, by default or as written."""
    if not model.threads:
        threads = "automatic threads"
    else:
        cores = physical_cores()
        here = f"{cores} core{'s'[: cores != 1]}"
        threads = f"{model.threads} thread{'s'[: model.threads != 1]} (of {here})"
    layers = {0: "CPU only", -1: "all layers on the GPU"}.get(
        model.gpu_layers, f"{model.gpu_layers} layers on the GPU"
    )
    return f"{threads}, {layers}, a context of {model.context_size} tokens"
