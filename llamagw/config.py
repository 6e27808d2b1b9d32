"""
The configuration: every key, its default, its limits, and what is said when one is wrong.

``load`` turns a YAML file into a frozen `Config`, or raises one `ConfigError` that holds all
faults at once. Every default stands in the two Structs below and nowhere else. Nothing here
starts, opens or serves anything; files are looked at only to say that they are missing.
"""

from __future__ import annotations

import difflib
import fnmatch
import ipaddress
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import yaml
from msgspec import Meta, Struct

#: YAML can write characters that no file name, command line or JSON can carry.
_TEXT = r"\A[^\0\ud800-\udfff]*\Z"

#: The longest time that a timer is given; infinity would break it.
_YEAR = 365 * 24 * 3600.0

_Name = Annotated[
    str, Meta(min_length=1, pattern=_TEXT, description='a name, such as "qwen2.5-7b"')
]
_Path = Annotated[str, Meta(min_length=1, pattern=_TEXT, description="the path of a file")]
_Port = Annotated[int, Meta(ge=1, le=65535, description="a port, 1 to 65535")]
_Count = Annotated[int, Meta(ge=1, description="a whole number, 1 or more")]
_Layers = Annotated[int, Meta(ge=-1, description="a whole number: -1 (all), 0 (CPU only) or more")]
_Seconds = Annotated[
    float, Meta(gt=0, le=_YEAR, description="a number of seconds, more than 0, a year at most")
]
_Patience = Annotated[
    float, Meta(ge=0, le=_YEAR, description="a number of seconds, 0 or more, a year at most")
]
_Megabytes = Annotated[
    float, Meta(gt=0, le=2**20, description="a number of megabytes, more than 0, 1048576 at most")
]
_Switch = Annotated[bool, Meta(description="true or false")]
_Arguments = Annotated[
    list[Annotated[str, Meta(pattern=_TEXT)]],
    Meta(description='a list of texts, such as ["--embeddings", "--pooling", "mean"]'),
]
_Aliases = Annotated[
    list[Annotated[str, Meta(min_length=1, pattern=_TEXT)]],
    Meta(description='a list of names or patterns, such as ["gpt-4o", "gpt-4*"]'),
]
_Keys = Annotated[
    list[Annotated[str, Meta(min_length=1, pattern=_TEXT)]],
    Meta(description='a list of keys of the request, such as ["temperature"]'),
]
_Params = Annotated[
    dict[str, Any], Meta(description='keys and values of the request, such as "temperature: 0.6"')
]
_Environment = Annotated[
    dict[str, str],
    Meta(description="names and texts, such as {CUDA_VISIBLE_DEVICES: 0}"),
]
_Address = Annotated[
    str,
    Meta(
        min_length=1,
        pattern=_TEXT,
        description='an address such as ":8000", "127.0.0.1:8000", "[::1]:8000" '
        "or a Twisted server endpoint string",
    ),
]

#: Flags that the gateway must own: with another value it would not find its own backend.
_OWN_FLAGS = {"--host", "--port", "-m", "--model"}


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of ``models:``, as the gateway uses it: paths absolute."""

    name: _Name
    model_path: _Path
    gpu_layers: _Layers = 0
    context_size: _Count = 4096
    threads: _Count = 4
    batch_size: _Count = 512
    parallel: _Count = 8
    extra_args: _Arguments = []
    aliases: _Aliases = []
    set_params: _Params = {}
    default_params: _Params = {}
    strip_params: _Keys = []
    env: _Environment = {}
    pinned: _Switch = False
    preload: _Switch = False
    idle_unload_sec: _Patience = 0


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file, as the gateway uses it: paths absolute, ``models`` never empty."""

    llama_server_path: _Path
    models: list[ModelConfig]
    listen_addr: _Address = ":8000"
    default_model: _Name | None = None
    port_range_start: _Port = 8081
    max_loaded_models: _Count = 2
    health_check_sec: _Seconds = 30
    swap_after_sec: _Patience = 10
    max_queue: _Count = 512
    queue_timeout_sec: _Seconds = 600
    stream_keepalive_sec: _Patience = 0
    load_timeout_sec: _Seconds = 600
    stop_timeout_sec: _Seconds = 10
    drain_sec: _Patience = 30
    max_body_mb: _Megabytes = 64
    request_timeout_sec: _Seconds = 60
    client_stall_sec: _Seconds = 600
    access_log: _Switch = False

    def missing_files(self) -> list[ModelConfig]:
        """The models whose file is not there now (a warning at start, a 503 when asked for)."""
        return [model for model in self.models if not os.path.isfile(model.model_path)]


class Names:
    """
    By which names the models are known: their own, their aliases, and patterns.

    A pattern is an alias with ``*``, ``?`` or ``[…]`` in it, as in a shell (fnmatch, upper and
    lower case told apart). Exact names come before patterns, and patterns in the order of the file.
    """

    def __init__(self, named: Iterable[tuple[str, Iterable[str]]]) -> None:
        """:param named: each model's own name and its aliases"""
        self._exact: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for name, aliases in named:
            self._exact[name] = name
            for alias in aliases:
                if is_pattern(alias):
                    self._patterns.append((re.compile(fnmatch.translate(alias)), name))
                else:
                    self._exact[alias] = name
        #: So many slashes a name has at most.
        self.most_slashes = max((name.count("/") for name in self._exact), default=0)

    @property
    def exact(self) -> dict[str, str]:
        """The model's own name for each name and each alias that is no pattern."""
        return self._exact

    def find(self, name: str) -> str | None:
        """The own name of the model that this name means; None if it means none."""
        exact = self._exact.get(name)
        if exact is not None:
            return exact
        return next((own for pattern, own in self._patterns if pattern.match(name)), None)


def is_pattern(alias: str) -> bool:
    """Whether an alias stands for many names."""
    return any(c in alias for c in "*?[")


#: How many may be in memory when the file does not say.
_ROOM = Config(llama_server_path="", models=[]).max_loaded_models


class Fault(Struct, frozen=True):
    """One thing that is wrong: where it stands, what it is and what would be right."""

    file: str
    line: int | None
    place: str
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        text = ": ".join(filter(None, (where, self.place, self.message)))
        # One line, whatever the file has in it, and one that any terminal can take.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ConfigError(Exception):
    """A configuration that cannot be used; ``faults`` holds all that is wrong with it."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


def load(path: str) -> Config:
    """
    Read and check a configuration file.

    :param path: the YAML file; relative paths inside it count from its own folder
    :raises ConfigError: with every fault of the file, each with its place and remedy
    """
    return _Reader(path).read()


def endpoint_string(address: str) -> str:
    """
    A ``listen_addr`` as a Twisted server endpoint string.

    ``:8000``, ``127.0.0.1:8000``, ``[::1]:8000`` and ``localhost:8000`` are translated; an endpoint
    string (``tcp:…``, ``unix:/path``, ``ssl:…``, or a plugin's) comes back as it is.

    :raises ValueError: saying what is wrong and what would be right
    """
    text = address.strip()
    kind, colon, rest = text.partition(":")
    if "://" in text:
        raise cannot_listen(address, "that is a URL")
    if kind in ("tcp", "tcp6", "ssl"):
        first = rest.partition(":")[0].removeprefix("port=")
        if "=" not in first:
            _port(address, first)
    elif kind == "unix":
        if not rest.partition(":")[0].removeprefix("address="):
            raise cannot_listen(address, "the path of the socket is missing")
    elif text.startswith("[") or not kind or kind == "localhost" or "." in kind or rest.isdigit():
        short = re.fullmatch(
            r"\[(?P<six>.*)\]:(?P<sixport>.*)|(?P<host>[^:\[\]]*):(?P<port>.*)", text
        )
        if short is None:
            raise cannot_listen(address, "there is no port" if colon else "no host and no port")
        if short["six"] is not None:
            if not _is_ip(short["six"].partition("%")[0], 6):
                raise cannot_listen(address, f"{short['six']!r} is not an IPv6 address")
            interface = short["six"].replace(":", "\\:")
            return f"tcp6:{_port(address, short['sixport'])}:interface={interface}"
        host = short["host"] or "0.0.0.0"
        if not (_is_ip(host, 4) or re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9.-]+", host)):
            raise cannot_listen(address, f"{host!r} is neither an IPv4 address nor a host name")
        return f"tcp:{_port(address, short['port'])}:interface={host}"
    elif not rest:
        raise cannot_listen(address, "there is no port")
    return text


def cannot_listen(address: str, why: str) -> ValueError:
    """What is said of a ``listen_addr`` that cannot be used."""
    return ValueError(
        f"cannot listen on {address!r}: {why}; write ':8000', '127.0.0.1:8000', '[::1]:8000', "
        "'unix:/path/to/socket' or another Twisted server endpoint string"
    )


def _port(address: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise cannot_listen(address, f"the port is {text!r}, not a number")
    if len(text) > 5 or int(text) > 65535:
        raise cannot_listen(address, f"port {text} is above 65535")
    return int(text)


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


class _Reader:
    """One reading of one file: collects faults on its way instead of stopping at the first."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.folder = os.path.dirname(os.path.abspath(path))
        self.faults: list[Fault] = []
        self.lines: dict[str, int] = {}
        self._known: dict[str, str] = {}
        #: What stands at each place, letter by letter: YAML reads 0755 as 493.
        self.texts: dict[str, str] = {}

    def fault(self, place: str, message: str) -> None:
        # A key that is missing has no line; its parent's is the next best.
        at = place
        while at and at not in self.lines:
            at = at[: max(at.rfind("."), at.rfind("["), 0)]
        self.faults.append(Fault(self.path, self.lines.get(at), place, message))

    def read(self) -> Config:
        raw = self._parse()
        if raw is not None:
            values = self._fields(Config, raw, "")
            models = self._models(raw["models"]) if "models" in raw else []
            self._default_model(values.get("default_model"))
            self._executable(values, raw)
            self._listen_addr(values)
            if not self.faults:
                self._room(values.get("max_loaded_models", _ROOM), models)
        if self.faults:
            raise ConfigError(sorted(self.faults, key=lambda f: f.line or 0))
        return Config(**{**values, "models": models})

    def _parse(self) -> dict[Any, Any] | None:
        """The file as plain values; None, with a fault noted, if it cannot be had."""
        try:
            with open(self.path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            self.fault("", f"cannot be read: {reason}; see config.example.yaml for a beginning")
            return None
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            if node is not None:
                self._walk(node, "")
            raw = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else None
            what = " ".join(str(error.problem or error.context).split())
            if "alias" in str(error.context):
                what += '; a text that begins with * or & needs quotes, such as "*"'
            self.faults.append(Fault(self.path, line, "", f"is not YAML: {what}"))
            return None
        except RecursionError:
            self.faults.append(Fault(self.path, None, "", "is not YAML: it is nested too deeply"))
            return None
        except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
            # PyYAML lets the last three out for a value that does not fit its tag (!!int "").
            what = " ".join(str(error).split())
            self.faults.append(Fault(self.path, None, "", f"is not YAML: {what}"))
            return None
        if not isinstance(raw, dict):
            self.fault(
                "", f'expected keys and values such as "listen_addr: :8000", got {_show(raw)}'
            )
            return None
        return raw

    def _walk(self, node: yaml.Node, place: str) -> None:
        """Note the line of each place, and keys given twice (YAML would keep the last)."""
        if place in self.lines:
            self.fault(place, f"is given twice; line {node.start_mark.line + 1} has it again")
            return
        self.lines[place] = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            self.texts[place] = node.value
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = f"{place}.{key.value}" if place else str(key.value)
                self._walk(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._walk(value, f"{place}[{index}]")

    def _fields(self, struct: type[Struct], raw: dict[Any, Any], place: str) -> dict[str, Any]:
        """The fields of one Struct that are right; those that are not become faults."""
        hints = get_type_hints(struct, include_extras=True)
        fields = {field.name: field for field in msgspec.structs.fields(struct)}
        prefix = f"{place}." if place else ""
        for key in raw:
            if key not in fields:
                near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(fields)}"
                self.fault(f"{prefix}{key}", f"unknown key; {hint}")
        values = {}
        for name, field in fields.items():
            if name == "models":
                if name not in raw:
                    self.fault(name, "is missing; a list with at least one model is needed")
            elif name not in raw:
                if field.required:
                    self.fault(
                        f"{prefix}{name}", f"is missing; {_description(hints[name])} is needed"
                    )
            else:
                try:
                    values[name] = msgspec.convert(raw[name], hints[name])
                except (msgspec.ValidationError, UnicodeEncodeError):
                    wanted = _description(hints[name])
                    self.fault(f"{prefix}{name}", f"expected {wanted}, got {_show(raw[name])}")
        for name in ("llama_server_path", "model_path"):
            if name in values:
                values[name] = self._absolute(values[name])
        return values

    def _models(self, raw: Any) -> list[ModelConfig]:
        if not isinstance(raw, list) or not raw:
            self.fault("models", f"expected a list with at least one model, got {_show(raw)}")
            return []
        models: list[ModelConfig] = []
        seen: dict[str, int] = {}
        named: dict[int, tuple[str, list[str]]] = {}
        for index, entry in enumerate(raw):
            place = f"models[{index}]"
            if not isinstance(entry, dict):
                self.fault(place, f'expected keys such as "name: …", got {_show(entry)}')
                continue
            before = len(self.faults)
            if isinstance(entry.get("env"), dict):
                entry = {**entry, "env": self._env(entry["env"], f"{place}.env")}
            values = self._fields(ModelConfig, entry, place)
            for number, argument in enumerate(values.get("extra_args", [])):
                if argument.split("=")[0] in _OWN_FLAGS:
                    self.fault(
                        f"{place}.extra_args[{number}]",
                        f"{argument} is set by llamagw itself; leave it out",
                    )
            self._params(values, place)
            name = values.get("name")
            if name is not None and name in seen:
                self.fault(
                    f"{place}.name",
                    f'"{name}" is the name of models[{seen[name]}] already; names must differ',
                )
            elif name is not None:
                seen[name] = index
                named[index] = name, values.get("aliases", [])
            if len(self.faults) == before:
                models.append(ModelConfig(**values))
        self._aliases(named)
        return models

    def _params(self, values: dict[str, Any], place: str) -> None:
        """What a request is shaped with must be JSON, and leave alone what it is routed by."""
        for key in ("set_params", "default_params", "strip_params"):
            given = values.get(key, ())
            if "model" in given:
                self.fault(
                    f"{place}.{key}",
                    "`model` is what a request is routed by; leave it out (aliases: gives a model "
                    "more names)",
                )
            for name in given if isinstance(given, dict) else ():
                if not _is_json(given[name]):
                    self.fault(
                        f"{place}.{key}.{name}",
                        f"JSON has no such value: {_show(given[name])}; quote it if it is a text",
                    )

    def _aliases(self, named: dict[int, tuple[str, list[str]]]) -> None:
        """
        No two models may be meant by one name.

        :param named: the name and aliases of each model, by its place in the list
        """
        names = {name: f"the name of models[{index}]" for index, (name, _) in named.items()}
        for index, (_, aliases) in named.items():
            for number, alias in enumerate(aliases):
                if alias in names:
                    self.fault(
                        f"models[{index}].aliases[{number}]",
                        f'"{alias}" is {names[alias]} already; each name means one model',
                    )
                else:
                    names[alias] = f"an alias of models[{index}]"
        self._known = names
        self._names = Names(named.values())

    def _default_model(self, name: str | None) -> None:
        if name is None or not self._known or self._names.find(name) is not None:
            return
        near = difflib.get_close_matches(name, self._known, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(self._known)}"
        self.fault("default_model", f'no model is called "{name}"; {hint}')

    def _env(self, raw: dict[Any, Any], place: str) -> dict[str, str]:
        """The variables that are right; a number is taken as it is written."""
        variables = {}
        for name, value in raw.items():
            at = f"{place}.{name}"
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = self.texts.get(at, str(value))
            if not isinstance(name, str) or not re.fullmatch(r"[^=\0\ud800-\udfff]+", name):
                self.fault(at, f'expected a name without "=", such as OMP_WAIT, got {_show(name)}')
            elif not isinstance(value, str) or not re.search(_TEXT, value):
                self.fault(at, f"expected a text, got {_show(value)}; put it in quotes")
            else:
                variables[name] = value
        return variables

    def _room(self, limit: int, models: list[ModelConfig]) -> None:
        """Whether as many models fit into memory as are to be kept there."""
        preload = [index for index, model in enumerate(models) if model.preload]
        if len(preload) > limit:
            self.fault(
                f"models[{preload[limit]}].preload",
                f"{len(preload)} models are to be preloaded and max_loaded_models is {limit}; "
                f"raise max_loaded_models to {len(preload)}, or preload fewer",
            )
        pinned = [index for index, model in enumerate(models) if model.pinned]
        others = [model.name for model in models if not model.pinned]
        needed = len(pinned) + (1 if others else 0)
        if pinned and needed > limit:
            one_too_many = pinned[min(limit, len(pinned) - 1)]
            lost = others[0] if others else models[one_too_many].name
            self.fault(
                f"models[{one_too_many}].pinned",
                f"{len(pinned)} models are pinned and max_loaded_models is {limit}, so that "
                f'"{lost}" could never be loaded; raise max_loaded_models to {needed}',
            )

    def _absolute(self, path: str) -> str:
        return os.path.normpath(os.path.join(self.folder, os.path.expanduser(path)))

    def _executable(self, values: dict[str, Any], raw: dict[Any, Any]) -> None:
        path = values.get("llama_server_path")
        if path is None:
            return
        # A bare command name that is no file here is looked for on PATH, as a shell would.
        given = raw["llama_server_path"]
        if os.path.basename(given) == given and not os.path.exists(path):
            found = shutil.which(given)
            if found is not None:
                values["llama_server_path"] = found
                return
        remedy = "give the path of the llama-server executable of llama.cpp"
        if not os.path.exists(path):
            self.fault("llama_server_path", f"there is no file {path}; {remedy}")
        elif not os.path.isfile(path):
            self.fault("llama_server_path", f"{path} is not a file; {remedy}")
        elif not os.access(path, os.X_OK):
            self.fault("llama_server_path", f"{path} is not executable; chmod +x it, or {remedy}")

    def _listen_addr(self, values: dict[str, Any]) -> None:
        try:
            endpoint_string(values.get("listen_addr", ":8000"))
        except ValueError as error:
            self.fault("listen_addr", str(error))


def _is_json(value: object) -> bool:
    """Whether a value of the file can be sent as it is: YAML has dates, sets and infinity too."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(value[key]) for key in value)
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return re.match(_TEXT, value) is not None
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None


def _metas(annotation: Any) -> Iterator[Meta]:
    for argument in get_args(annotation):
        if isinstance(argument, Meta):
            yield argument


def _description(annotation: Any) -> str:
    """What a key wants, in words, from its ``Meta``."""
    return next((meta.description for meta in _metas(annotation) if meta.description), "a value")


def _show(value: Any) -> str:
    """A value of the file as its writer would know it again, shortened."""
    if value is None:
        return "nothing"
    try:
        text = msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, OverflowError):
        text = str(value)
    if isinstance(value, float):
        # JSON has no infinity.
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
