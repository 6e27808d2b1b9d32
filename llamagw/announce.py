"""
What a person reads of a configuration: at the start, at a reload, and for ``--check``.

Text and log lines only; when they are due is for service.py (in the log) and tap.py (on stdout).
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from llamagw import __version__
from llamagw.config import Config, LocalModel, base_url, shown_address
from llamagw.dialects import ANY, OWN, ROUTES

_log = Logger(namespace="llamagw")

#: How many models a reload names at most, of each kind.
_NAMED = 10


def log_start(config: Config, address: IAddress, transports: str) -> None:
    """
    Log the start-up lines: version, models, missing files, and where the gateway listens.

    :param config: what is served
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
    log_missing(config.missing_files())
    log_address(address, config.listen_addr)


def log_missing(models: Sequence[LocalModel]) -> None:
    """
    Warn that models have no file; at most `_NAMED` are named.

    :param models: those whose file does not exist
    """
    for model in models[:_NAMED]:
        _log.warn(
            "model {name} cannot be served: there is no file {path}",
            name=model.name,
            path=model.model_path,
        )
    if len(models) > _NAMED:
        _log.warn("{count} more have no file either", count=len(models) - _NAMED)


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


def summary(path: str, config: Config) -> str:
    """
    What would be served, for ``--check``.

    :param path: the file that the configuration was read from
    :param config: the configuration
    :return: several lines
    """
    missing = config.missing_files()
    local = [model for model in config.models if not model.remote]
    remote = [model for model in config.models if model.remote]
    lines = [f"{path} is fine.", f"llamagw {__version__} would listen on {config.listen_addr}"]
    if local:
        lines += [
            f"and run {config.llama_server_path},",
            f"with at most {config.max_loaded_models} of these in memory:",
        ]
    for model in local:
        note = "   (warning: there is no such file)" if model in missing else ""
        lines.append(f"  {model.name}: {model.model_path}{note}")
    if remote:
        lines.append("and pass on what is for these, which live elsewhere:")
    for other in remote:
        urls = ", ".join(replica.url for replica in other.replicas)
        lines.append(f"  {other.name}: {urls}")
    return "\n".join(lines)
