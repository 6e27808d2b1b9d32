"""
What a person reads of a configuration: at the start, at a reload, and for ``--check``.

Text and log lines only; when they are due is for service.py (in the log) and tap.py (on stdout).
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from llamagw import __version__
from llamagw.config import Config, LocalModel, base_url, is_loopback, physical_cores, shown_address
from llamagw.launch import Note, Together, part_of, where
from llamagw.models import HOST, Estimate
from llamagw.net import Tls
from llamagw.text import harmless

_log = Logger(namespace="llamagw")

#: How many models a reload names at most, of each kind; and the lines that warnings of them take.
_NAMED, _NOTES = 10, 2

#: How many sets of models are told.
_SETS = 8

#: Columns within which a line of figures stays.
_WIDTH = 80

#: Characters that are shown of a device's name, which may be a user's own.
_DEVICE = 40

#: Columns within which a line of figures stays.
_WIDTH = 80

#: How many of the other places are named where a model may be.
_PLACES = 4


def log_start(
    config: Config,
    notes: Sequence[Note],
    address: IAddress,
    transports: str,
    foreground: bool,
    tls: Tls | None = None,
) -> None:
    """
    Log the start-up lines: what runs, what is served, where, and how to stop it.

    :param config: what is served
    :param notes: what is to be said of its models
    :param address: what the port is bound to
    :param transports: the kind of transports, such as "uvloop"
    :param foreground: whether Ctrl-C stops it
    :param tls: what TLS is spoken with there
    """
    _log.info("llamagw {version} ({transports})", version=__version__, transports=transports)
    _log.info("{scope}", scope=scope(config))
    log_notes(notes)
    log_address(address, config)
    log_tls(tls)
    if foreground:
        _log.info("Ctrl-C stops; again ends at once")


def log_notes(notes: Sequence[Note]) -> None:
    """
    Warn of what is wrong with models or their engine, in `_NOTES` lines at most.

    :param notes: what is to be said of them; hints are left out
    """
    grave = [note for note in notes if note.grade != "hint"]
    shown = grave if len(grave) <= _NOTES else grave[: _NOTES - 1]
    for note in shown:
        if not note.model:
            _log.warn("{key} {why}", key=note.key, why=note.message)
            continue
        unusable = note.grade == "fault" and note.key == "model_path"
        _log.warn(
            "model {name}{what}{why}",
            name=note.model,
            what=" cannot be served: " if unusable else f": {note.key} ",
            why=note.message,
        )
    if len(grave) > len(shown):
        _log.warn(
            "{count} more warnings of this kind; llamagw check has them all",
            count=len(grave) - len(shown),
        )


def log_address(address: IAddress, config: Config) -> None:
    """
    Log where the gateway listens, the URL for clients, and that everybody may use it.

    :param address: what the port is bound to
    :param config: whose `listen_addr` that was made from
    """
    where, base = shown_address(address), base_url(address, config.serves_tls)
    if not base.startswith(("http:", "https:")):
        # No browser opens a socket, and its file has permissions.
        _log.info("listening on {where}", where=where)
        return
    _log.info("listening on {where}; base URL: {base}/v1", where=where, base=base)
    if config.ui:
        _log.info("dashboard: {base}/ui/ in a browser; endpoints: docs/endpoints.md", base=base)
    asks = config.tls is not None and config.tls.client_ca is not None
    if config.wants_keys:
        _log.info("requests need a key; `llamagw keys list` has those of keys_file")
    elif not (is_loopback(address) or asks):
        _log.warn(
            "no keys: other machines can use it too; `llamagw keys new` makes keys, "
            "listen_addr: 127.0.0.1:{port} keeps it to this one",
            port=getattr(address, "port", ""),
        )


def log_tls(tls: Tls | None) -> None:
    """
    Log what is spoken TLS with, and what is wrong with it.

    :param tls: None if none is spoken
    """
    if tls is None:
        return
    if tls.told:
        _log.info("TLS with the {told}", told=tls.told)
    for warning in tls.warnings:
        _log.warn("{warning}", warning=warning)


def scope(config: Config) -> str:
    """
    How many models there are, in words.

    :param config: that has them
    """
    count = "1 model" if len(config.models) == 1 else f"{len(config.models)} models"
    if config.max_loaded_models is None:
        return f"{count} configured, as many in memory as fit"
    return f"{count} configured, at most {config.max_loaded_models} in memory at once"


def changes(old: Config, new: Config) -> str:
    """
    What a reload changes, by name; at most `_NAMED` models of each kind are named.

    :param old: the configuration before
    :param new: the configuration after
    """
    before = {model.name: model for model in old.models}
    after = {model.name: model for model in new.models}
    kept = [name for name in after if name in before]
    keys = [key for key in Config.__struct_fields__ if key not in ("path", "models")]
    parts = []
    for what, names in (
        ("new", [name for name in after if name not in before]),
        ("changed", [name for name in kept if after[name] != before[name]]),
        ("removed", [name for name in before if name not in after]),
        ("other keys", [key for key in keys if getattr(old, key) != getattr(new, key)]),
    ):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{what}: {', '.join(names[:_NAMED])}{more}")
    return "; ".join(parts) or "nothing has changed"


def new_notes(notes: Sequence[Note], old: Config, new: Config) -> list[Note]:
    """
    What is to be said of the models that a reload adds or changes, and of another engine.

    :param notes: what is to be said of all of them
    :param old: the configuration before
    :param new: the configuration after
    """
    before = {model.name: model for model in old.models}
    same = {model.name for model in new.models if before.get(model.name) == model}
    if new.llama_server_path == old.llama_server_path:
        same.add("")
    return [note for note in notes if note.model not in same]


def summary(
    path: str,
    config: Config,
    notes: Sequence[Note],
    needs: Mapping[str, Estimate | None],
    together: Together | None = None,
) -> str:
    """
    What would be served, for ``--check``.

    :param path: the file that the configuration was read from
    :param config: the configuration
    :param notes: what is to be said of its models; none is a fault
    :param needs: how much memory they take, by name; None if that is not known
    :param together: which of them fit into memory together; None if that is not counted
    :return: several lines
    """
    local = [model for model in config.models if not model.remote]
    remote = [model for model in config.models if model.remote]
    lines = [f"{path} is fine.", f"llamagw {__version__} would listen on {config.listen_addr}"]
    if config.tls is not None:
        lines[-1] += " with TLS"
    if local:
        lines += [
            f"and run {config.llama_server_path},",
            *(f"    {n.grade}: {n.key} {n.message}" for n in notes if not n.model),
            "with as many of these in memory as fit:"
            if config.max_loaded_models is None
            else f"with at most {config.max_loaded_models} of these in memory:",
        ]
    for model in local:
        lines += [f"  {model.name}: {model.model_path}", f"      {_settings(model)}"]
        lines += _memory(needs.get(model.name))
        lines += [f"      {n.grade}: {n.key} {n.message}" for n in notes if n.model == model.name]
    lines += _together(together)
    if remote:
        lines.append("and pass on what is for these, which live elsewhere:")
    for other in remote:
        urls = ", ".join(replica.url for replica in other.replicas)
        lines.append(f"  {other.name}: {urls}")
    if config.default_model is not None:
        lines.append(f"A request that names no model gets {config.default_model}.")
    return "\n".join(lines)


def _together(found: Together | None) -> Iterator[str]:
    """Which models fit into memory together."""
    if found is None or found.of == 1:
        return
    if not found.sets:
        counts = f"{found.least} to {found.most}" if found.least < found.most else f"{found.most}"
        those = ", the fewer the larger they are" if found.least < found.most else ""
        yield f"{counts} of {found.of} fit into memory together{those}."
        return
    yield "These fit into memory together:"
    for one in found.sets[:_SETS]:
        sizes = [
            f"{part_of(size, found.budget[device])} {where(device)}"
            for device, size in one.taken.items()
            if size and device in found.budget
        ]
        told = f"({', '.join(sizes)})" if sizes else ""
        yield textwrap.fill(
            f"{' + '.join(one.names)} {told}",
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    if len(found.sets) > _SETS:
        yield f"  and {len(found.sets) - _SETS} more sets"


def _memory(need: Estimate | None) -> Iterator[str]:
    """A line for each device, and one for where else it may be."""
    if need is None:
        return
    rough = "rough " if need.rough else ""
    source = {
        "estimate": f"{rough}estimate",
        "learned": f"learned {_ago(time.time() - (need.when or 0))}",
        "config": "memory:",
    }[need.source]
    for name, parts in need.devices.items():
        if not parts.total:
            continue
        unit, size = ("GiB", 2**30) if parts.total >= 2**30 else ("MiB", 2**20)
        digits = 1 if unit == "GiB" else 0
        told = [
            f"{what} {part / size:.{digits}f}"
            for what, part in (
                ("weights", parts.weights),
                ("KV", parts.kv),
                ("compute", parts.compute),
                ("process", parts.process),
                ("cache", parts.cache),
                ("margin", parts.margin),
                ("the rest", parts.given),
            )
            if round(part / size, digits)
        ]
        # What there is in one part only is its own sum.
        sum_of = f"{' + '.join(told)} =" if len(told) > 1 or not parts.given else ""
        where = "in RAM" if name == HOST else f"on {harmless(name, _DEVICE)}"
        total = f"{parts.total / size:.{digits}f} {unit} {where} ({source})"
        if len(sum_of) + len(total) < _WIDTH - 6:
            yield f"      {f'{sum_of} {total}'.strip()}"
        else:
            yield f"      {sum_of}"
            yield f"          {total}"
    if need.elsewhere:
        others = [harmless(other, 2 * _DEVICE) for other in need.elsewhere[:_PLACES]]
        more = len(need.elsewhere) - len(others)
        yield f"      or {', or '.join(others)}{f', and {more} more' if more else ''}"


def _ago(seconds: float) -> str:
    """A time that is past, in words."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count > 0:
            return f"{count} {unit}{'s'[: count != 1]} ago"
    return "just now"


def _settings(model: LocalModel) -> str:
    """What its settings have come to, by default or as written."""
    if not model.threads:
        threads = "automatic threads"
    else:
        cores = physical_cores()
        here = f"{cores} core{'s'[: cores != 1]}"
        threads = f"{model.threads} thread{'s'[: model.threads != 1]} (of {here})"
    layers = {
        0: "CPU only",
        -1: "all layers on the GPU",
        "auto": "as many layers on the GPU as fit",
    }.get(model.gpu_layers, f"{model.gpu_layers} layers on the GPU")
    return f"{threads}, {layers}, a context of {model.context_size} tokens"
