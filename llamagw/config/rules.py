"""
Rules of a configuration beyond the types of its values: combinations of keys, reserved names.

Each rule takes a part of the file, as the Structs of schema.py, and reports what violates it with
`fault`; `place` is that of the model's entry, such as ``models[1]``. A value of the wrong type has
been reported already (walk.py), and is its default here.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from llamagw.config.addresses import endpoint_string
from llamagw.config.document import Report, shortened, show
from llamagw.config.names import NAME_LENGTH, Names
from llamagw.config.resolved import LocalModel, ModelConfig, RemoteModel, Replica
from llamagw.config.schema import (
    ANY_ORIGIN,
    DEFAULTS,
    LOCALHOST,
    TEXT,
    ConfigFile,
    ModelEntry,
    ReplicaEntry,
)

#: Hop-by-hop headers (RFC 9110, 7.6.1), in lower case, as all names of headers here.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
#: Headers that the gateway writes anew for each connection.
NEVER_PASSED = HOP_BY_HOP | {b"content-length"}

#: The CORS response headers, which the gateway sets itself.
CORS_NAMES = frozenset(
    b"access-control-" + name
    for name in (
        b"allow-credentials",
        b"allow-headers",
        b"allow-methods",
        b"allow-origin",
        b"expose-headers",
        b"max-age",
    )
)

#: The most that may be kept of the content of requests, in MB (2^20 bytes).
MOST_CAPTURED_MB = 256

#: Flags that the gateway sets itself: with another value it would not reach its own backend.
_OWN_FLAGS = {"--host", "--port", "-m", "--model"}

#: The keys that only a local model has, beside ``model_path``.
_LOCAL_KEYS = tuple(
    key
    for key in LocalModel.__struct_fields__
    if key not in RemoteModel.__struct_fields__ and key != "model_path"
)

#: The keys beside ``url`` that apply to each URL.
_SERVER_KEYS = tuple(key for key in ReplicaEntry.__struct_fields__ if key != "url")


_NO_KEYS = (
    "this gateway has no keys of its own yet: docs/security.md says how to protect it; the key of "
    "a remote server stands in its model, beside url"
)


def meant_at_top(raw: Mapping[object, object]) -> dict[object, str]:
    """
    What is meant by keys that are none of the gateway's, as others have them.

    :param raw: the whole file
    :return: what would be right, by key
    """
    default_host, _, default_port = DEFAULTS.listen_addr.rpartition(":")
    host = str(raw.get("host", default_host))
    host = f"[{host}]" if ":" in host and "[" not in host else host
    address = shortened(f"{host}:{raw.get('port', default_port)}", NAME_LENGTH)
    moved = "write it in the entry of its model, below models:"
    return {
        **dict.fromkeys(ModelEntry.__struct_fields__, moved),
        **dict.fromkeys(("host", "port"), f'write listen_addr: "{address}"'),
        **dict.fromkeys(("api_key", "api_keys", "api_key_env"), _NO_KEYS),
    }


def meant_in_model(raw: Mapping[object, object]) -> dict[object, str]:
    """
    What is meant by keys of a model's entry that are none of a model's.

    :param raw: the entry
    :return: what would be right, by key
    """
    top = dict.fromkeys(ConfigFile.__struct_fields__, "write it at the top, beside models:")
    return {key: right for key, right in top.items() if key in raw}


class NameRules:
    """
    Each name and alias refers to one model only.

    Collects the names of all models of a file, to check them together.

    :param fault: reports a fault
    """

    def __init__(self, fault: Report) -> None:
        self._fault = fault
        self._index: dict[str, int] = {}
        self._aliases: dict[int, Sequence[str]] = {}

    def add(self, index: int, name: str, aliases: Sequence[str]) -> None:
        """
        Add a model; a name that another model has is a fault.

        :param index: in ``models:``
        :param name: "" if it has no valid one
        :param aliases: names and patterns
        """
        if name in self._index:
            self._fault(
                f"models[{index}].name",
                f'"{name}" is the name of models[{self._index[name]}] already; names must differ',
            )
        elif name:
            self._index[name] = index
            self._aliases[index] = aliases

    def check_aliases(self) -> dict[str, str]:
        """
        Check the aliases of all models that were added.

        :return: for each name and alias, what it is, in words
        """
        known = {name: f"the name of models[{index}]" for name, index in self._index.items()}
        for index, aliases in self._aliases.items():
            for number, alias in enumerate(aliases):
                if alias in known:
                    self._fault(
                        f"models[{index}].aliases[{number}]",
                        f'"{alias}" is {known[alias]} already; each name means one model',
                    )
                else:
                    known[alias] = f"an alias of models[{index}]"
        return known

    def default_model(self, name: str | None, known: Collection[str]) -> None:
        """
        ``default_model`` refers to a model.

        :param name: its value; None if it is not set
        :param known: all names and aliases
        """
        if name is None or not known or self._names().find(name):
            return
        self._fault("default_model", f'no model is called "{name}"; {_hint(name, known)}')

    def captured(self, patterns: Iterable[str], known: Collection[str]) -> None:
        """
        Each of the models in ``capture`` is one.

        :param patterns: names, or patterns of them
        :param known: all names and aliases
        """
        names = self._names()
        for number, pattern in enumerate(patterns):
            if known and not (names.find(pattern) or fnmatch.filter(known, pattern)):
                self._fault(
                    f"capture.models[{number}]",
                    f'no model is called "{pattern}"; {_hint(pattern, known)}',
                )

    def _names(self) -> Names:
        return Names(zip(self._index, self._aliases.values(), strict=True))


def _hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known are {', '.join(known)}"


def own_flags(fault: Report, arguments: Iterable[str], place: str) -> None:
    """The flags that the gateway sets itself are not among the ``extra_args``."""
    for number, argument in enumerate(arguments):
        if argument.split("=")[0] in _OWN_FLAGS:
            fault(
                f"{place}.extra_args[{number}]",
                f"{argument} is set by llamagw itself; leave it out",
            )


def params(fault: Report, entry: ModelEntry, place: str) -> None:
    """The parameters for requests are JSON, and do not include ``model``, the key for routing."""
    for key in ("set_params", "default_params", "strip_params"):
        given = getattr(entry, key)
        if "model" in given:
            fault(
                f"{place}.{key}",
                "`model` is what a request is routed by; leave it out (aliases: gives a model "
                "more names)",
            )
        for name in given if isinstance(given, dict) else ():
            if not _is_json(given[name]):
                fault(
                    f"{place}.{key}.{name}",
                    f"JSON has no such value: {show(given[name])}; quote it if it is a text",
                )


def headers(fault: Report, names: Iterable[str], place: str) -> None:
    """``pass_headers`` has no hop-by-hop header, and none that the gateway sets itself."""
    for number, name in enumerate(names):
        if name.lower().encode() in NEVER_PASSED:
            fault(
                f"{place}.pass_headers[{number}]",
                f"{name} is the gateway's own to write, on each connection; leave it out",
            )
        elif name.lower().encode() in CORS_NAMES:
            fault(
                f"{place}.pass_headers[{number}]",
                f"{name} is written by the gateway: cors_origins says which origins it allows",
            )


def local_or_remote(fault: Report, keys: Collection[object], place: str) -> bool:
    """
    A model has either a file or remote servers, and only the keys of that kind.

    :param fault: reports a fault
    :param keys: the keys of its entry in the file
    :param place: of its entry
    :return: whether it is remote
    """
    given = [key for key in ("model_path", "url", "replicas") if key in keys]
    if not given:
        fault(
            f"{place}.model_path",
            "is missing; the path of a file is needed (or url:, for a model that lives elsewhere)",
        )
    elif len(given) > 1:
        fault(f"{place}.{given[1]}", f"does not go together with {given[0]}; give one")
    for key in _LOCAL_KEYS:
        if key in keys and given and "model_path" not in given:
            fault(f"{place}.{key}", "is for a model that llamagw starts itself, with model_path")
    for key in _SERVER_KEYS:
        if key in keys and "url" not in given:
            fault(f"{place}.{key}", "goes with url (or inside of each of the replicas)")
    return "model_path" not in given


def paths(fault: Report, replicas: Iterable[Replica], place: str) -> None:
    """
    ``paths`` is given only for a model that has a server with an ``api_key``.

    :param fault: reports a fault
    :param replicas: the servers of a model with ``paths``
    :param place: of its entry
    """
    if not any(replica.api_key for replica in replicas):
        fault(
            f"{place}.paths",
            "is for a server that gets an api_key from here: without one, no path is refused",
        )


def api_key(fault: Report, key: str | None, place: str) -> None:
    """An API key has only characters that a header can carry."""
    if key is not None and not re.fullmatch(r"[!-~]*", key):
        fault(f"{place}.api_key", "has characters that no header can carry")


def listen_addr(fault: Report, address: str) -> None:
    """``listen_addr`` is a valid address, as far as can be checked without Twisted."""
    try:
        endpoint_string(address)
    except ValueError as error:
        fault("listen_addr", str(error))


def origins(fault: Report, given: Iterable[str]) -> None:
    """``cors_origins`` has origins, ``*`` or ``localhost`` only."""
    for number, one in enumerate(given):
        if one in (ANY_ORIGIN, LOCALHOST):
            continue
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@*\\]+", one):
            fault(
                f"cors_origins[{number}]",
                f"expected an origin such as https://chat.example:8443, without a path, or "
                f'"*" (any), or localhost (any port of this machine), got {show(one)}',
            )


def bodies(fault: Report, file: ConfigFile) -> None:
    """``max_bodies_mb``, for all bodies together, is not less than ``max_body_mb``, for one."""
    one, together = file.max_body_mb, file.max_bodies_mb
    if together is not None and together < one:
        fault(
            "max_bodies_mb",
            f"is {together:g}, less than the {one:g} MB of one body (max_body_mb); "
            f"raise it, or lower max_body_mb",
        )


def capture(fault: Report, file: ConfigFile, given: object) -> None:
    """
    ``capture`` says both of which models and of how many requests, and these are not too much.

    :param fault: reports a fault
    :param file: the file
    :param given: the value of ``capture`` in it
    """
    kept = file.capture
    if not isinstance(given, dict):
        return
    if kept.models and "requests" not in given:
        fault("capture.requests", "is missing; a whole number, 0 to 10000, is needed")
    if kept.requests and "models" not in given:
        fault("capture.models", 'is missing; a list of models is needed, ["*"] for all')
    total = kept.requests * 2 * kept.max_kb / 1024
    if total > MOST_CAPTURED_MB:
        fault(
            "capture.requests",
            f"{kept.requests} requests with {kept.max_kb} KB of either body are {total:g} MB; "
            f"lower requests or max_kb, to {MOST_CAPTURED_MB} MB at most",
        )
    if kept.requests > file.activity_size:
        fault(
            "capture.requests",
            f"is {kept.requests}, more than the {file.activity_size} requests that are kept at "
            "all (activity_size); raise that, or lower this",
        )


def room(fault: Report, limit: int, models: Sequence[ModelConfig]) -> None:
    """
    The pinned and preloaded models fit into ``max_loaded_models``, and leave room for the others.

    :param fault: reports a fault
    :param limit: ``max_loaded_models``
    :param models: all models, in the order of the file; remote ones take no room
    """
    local = [(index, model) for index, model in enumerate(models) if not model.remote]
    preload = [index for index, model in local if model.preload]
    if len(preload) > limit:
        fault(
            f"models[{preload[limit]}].preload",
            f"{len(preload)} models are to be preloaded and max_loaded_models is {limit}; "
            f"raise max_loaded_models to {len(preload)}, or preload fewer",
        )
    pinned = [index for index, model in local if model.pinned]
    others = [model.name for _, model in local if not model.pinned]
    needed = len(pinned) + (1 if others else 0)
    if pinned and needed > limit:
        one_too_many = pinned[min(limit, len(pinned) - 1)]
        lost = others[0] if others else models[one_too_many].name
        fault(
            f"models[{one_too_many}].pinned",
            f"{len(pinned)} models are pinned and max_loaded_models is {limit}, so that "
            f'"{lost}" could never be loaded; raise max_loaded_models to {needed}',
        )


def _is_json(value: object) -> bool:
    """Whether JSON has a value of the file: YAML has dates, sets and infinity too."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(value[key]) for key in value)
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return re.match(TEXT, value) is not None
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None
