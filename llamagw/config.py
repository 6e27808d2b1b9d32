"""
What a configuration file may say, and what is said when it is wrong.

``load`` turns a file into a frozen `Config` (settings.py), or raises one `ConfigError` that holds
all faults at once. How the file is parsed is document.py's affair. Nothing here starts, opens or
serves anything; files are looked at only to say that they are missing.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from llamagw.document import ConfigError, Document, Fault, show
from llamagw.settings import (
    ANY_ORIGIN,
    CORS_NAMES,
    LOCALHOST,
    NEVER_PASSED,
    TEXT,
    Config,
    ModelConfig,
    Names,
    Replica,
    cannot_listen,
    endpoint_string,
    is_pattern,
    origin,
)

__all__ = [
    "Config",
    "ConfigError",
    "Fault",
    "ModelConfig",
    "Names",
    "Replica",
    "cannot_listen",
    "endpoint_string",
    "is_pattern",
    "load",
]

#: Flags that the gateway must own: with another value it would not find its own backend.
_OWN_FLAGS = {"--host", "--port", "-m", "--model"}

#: The keys of a model that llamagw starts itself.
_OF_A_FILE = (
    "gpu_layers",
    "context_size",
    "threads",
    "batch_size",
    "parallel",
    "extra_args",
    "env",
    "pinned",
    "preload",
    "idle_unload_sec",
)

#: What stands beside `url`, for each of them.
_BESIDE_URL = ("api_key", "api_key_env", "ca_file", "upstream_model")

#: What holds when the file does not say.
_DEFAULTS = Config(llama_server_path="", models=[])
_ROOM, _ONE_BODY = _DEFAULTS.max_loaded_models, _DEFAULTS.max_body_mb


def load(path: str) -> Config:
    """
    Read and check a configuration file.

    :param path: the YAML file; relative paths inside it count from its own folder
    :raises ConfigError: with every fault of the file, each with its place and remedy
    """
    return _Reader(path).read()


class _Reader(Document):
    """One reading of one file: collects faults on its way instead of stopping at the first."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.folder = os.path.dirname(os.path.abspath(path))
        self._known: dict[str, str] = {}

    def read(self) -> Config:
        raw = self.parse()
        if raw is not None:
            values = self._fields(Config, raw, "")
            models = self._models(raw["models"]) if "models" in raw else []
            self._default_model(values.get("default_model"))
            self._executable(values, raw, models)
            self._listen_addr(values)
            self._origins(values.get("cors_origins", ()))
            self._bodies(values)
            if not self.faults:
                self._room(values.get("max_loaded_models", _ROOM), models)
        if self.faults:
            raise ConfigError(sorted(self.faults, key=lambda f: f.line or 0))
        return Config(**{**values, "models": models})

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
            elif name == "replicas" and isinstance(raw.get(name), list):
                continue  # each is looked at by itself
            elif name not in raw:
                if field.required:
                    self.fault(
                        f"{prefix}{name}", f"is missing; {_description(hints[name])} is needed"
                    )
            else:
                try:
                    value = msgspec.convert(raw[name], hints[name])
                    # Nothing behind a key that may be left out is as if it was.
                    if value is not None:
                        values[name] = value
                except (msgspec.ValidationError, UnicodeEncodeError):
                    wanted = _description(hints[name])
                    self.fault(f"{prefix}{name}", f"expected {wanted}, got {show(raw[name])}")
        for name in ("llama_server_path", "model_path", "ca_file"):
            if name in values:
                values[name] = self._absolute(values[name])
        return values

    def _models(self, raw: Any) -> list[ModelConfig]:
        if not isinstance(raw, list) or not raw:
            self.fault("models", f"expected a list with at least one model, got {show(raw)}")
            return []
        models: list[ModelConfig] = []
        seen: dict[str, int] = {}
        named: dict[int, tuple[str, list[str]]] = {}
        for index, entry in enumerate(raw):
            place = f"models[{index}]"
            if not isinstance(entry, dict):
                self.fault(place, f'expected keys such as "name: …", got {show(entry)}')
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
            self._headers(values.get("pass_headers", ()), place)
            self._elsewhere(values, entry, place)
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

    def _elsewhere(self, values: dict[str, Any], entry: dict[Any, Any], place: str) -> None:
        """Whether the model is a file or servers elsewhere; these become ``replicas``."""
        given = [key for key in ("model_path", "url", "replicas") if key in entry]
        if not given:
            self.fault(
                f"{place}.model_path",
                "is missing; the path of a file is needed (or url:, for a model that lives "
                "elsewhere)",
            )
        elif len(given) > 1:
            self.fault(f"{place}.{given[1]}", f"does not go together with {given[0]}; give one")
        for key in _OF_A_FILE:
            if key in entry and given and "model_path" not in given:
                self.fault(
                    f"{place}.{key}", "is for a model that llamagw starts itself, with model_path"
                )
        for key in _BESIDE_URL:
            if key in entry and "url" not in given:
                self.fault(f"{place}.{key}", "goes with url (or inside of each of the replicas)")
        common = {key: values.pop(key) for key in _BESIDE_URL if key in values}
        replicas: list[Replica | None] = []
        if "url" in values:
            given_urls = values.pop("url")
            urls = given_urls if isinstance(given_urls, list) else [given_urls]
            for number, url in enumerate(urls):
                at = f"{place}.url" + (f"[{number}]" if len(urls) > 1 else "")
                replicas.append(self._replica({"url": url, **common}, place, at))
            if not urls:
                self.fault(f"{place}.url", "is an empty list; at least one URL is needed")
        for number, one in enumerate(_list(entry.get("replicas"))):
            at = f"{place}.replicas[{number}]"
            if isinstance(one, dict):
                replicas.append(self._replica(self._fields(Replica, one, at), at, f"{at}.url"))
            else:
                self.fault(at, f'expected keys such as "url: …", got {show(one)}')
        if entry.get("replicas") == []:
            self.fault(f"{place}.replicas", "is an empty list; at least one is needed")
        if "model_path" not in given:
            values["replicas"] = [r for r in replicas if r is not None]
        if "paths" in entry and not any(r is not None and r.api_key for r in replicas):
            self.fault(
                f"{place}.paths",
                "is for a server that gets an api_key from here: without one, no path is refused",
            )

    def _replica(self, server: dict[str, Any], place: str, at: str) -> Replica | None:
        """
        One server, with its key found and all of it looked at.

        :param place: where its keys stand
        :param at: where its URL stands
        """
        if "url" not in server:
            return None
        try:
            tls = origin(server["url"]).tls
        except ValueError as error:
            self.fault(at, str(error))
            return None
        if "api_key_env" in server:
            key = os.environ.get(server["api_key_env"], "")
            if "api_key" in server:
                self.fault(f"{place}.api_key_env", "does not go together with api_key; give one")
            elif not key:
                self.fault(
                    f"{place}.api_key_env",
                    f"the environment has no {server['api_key_env']}; set it, or give api_key",
                )
            server["api_key"] = key
        if "ca_file" in server:
            if not tls:
                self.fault(f"{place}.ca_file", "is for https, and the URL is http")
            else:
                self._certificates(server["ca_file"], f"{place}.ca_file")
        if not re.fullmatch(r"[!-~]*", server.get("api_key", "")):
            self.fault(f"{place}.api_key", "has characters that no header can carry")
        return Replica(**server)

    def _headers(self, names: Iterable[str], place: str) -> None:
        """Headers that mean something to one connection, or that the gateway writes itself."""
        for number, name in enumerate(names):
            if name.lower().encode() in NEVER_PASSED:
                self.fault(
                    f"{place}.pass_headers[{number}]",
                    f"{name} is the gateway's own to write, on each connection; leave it out",
                )
            elif name.lower().encode() in CORS_NAMES:
                self.fault(
                    f"{place}.pass_headers[{number}]",
                    f"{name} is written by the gateway: cors_origins says which origins it allows",
                )

    def _origins(self, origins: Iterable[str]) -> None:
        for number, given in enumerate(origins):
            if given in (ANY_ORIGIN, LOCALHOST):
                continue
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@*\\]+", given):
                self.fault(
                    f"cors_origins[{number}]",
                    f"expected an origin such as https://chat.example:8443, without a path, or "
                    f'"*" (any), or localhost (any port of this machine), got {show(given)}',
                )

    def _bodies(self, values: dict[str, Any]) -> None:
        one = values.get("max_body_mb", _ONE_BODY)
        together = values.get("max_bodies_mb")
        if together is not None and together < one:
            self.fault(
                "max_bodies_mb",
                f"is {together:g}, less than the {one:g} MB of one body (max_body_mb); "
                f"raise it, or lower max_body_mb",
            )

    def _certificates(self, path: str, place: str) -> None:
        try:
            with open(path, "rb") as file:
                if b"-----BEGIN CERTIFICATE-----" not in file.read():
                    self.fault(place, f"{path} has no certificate in it (PEM is expected)")
        except OSError as error:
            self.fault(place, f"{path} cannot be read: {error.strerror}")

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
                        f"JSON has no such value: {show(given[name])}; quote it if it is a text",
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
                self.fault(at, f'expected a name without "=", such as OMP_WAIT, got {show(name)}')
            elif not isinstance(value, str) or not re.search(TEXT, value):
                self.fault(at, f"expected a text, got {show(value)}; put it in quotes")
            else:
                variables[name] = value
        return variables

    def _room(self, limit: int, models: list[ModelConfig]) -> None:
        """Whether as many models fit into memory as are to be kept there."""
        models = [model for model in models if not model.elsewhere]
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

    def _executable(
        self, values: dict[str, Any], raw: dict[Any, Any], models: list[ModelConfig]
    ) -> None:
        path = values.get("llama_server_path")
        if path is None:
            if "llama_server_path" not in raw and not (models and all(m.elsewhere for m in models)):
                self.fault("llama_server_path", "is missing; the path of a file is needed")
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
        return re.match(TEXT, value) is not None
    if isinstance(value, int):
        return abs(value) < 2**63
    return value is None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _metas(annotation: Any) -> Iterator[Meta]:
    for argument in get_args(annotation):
        if isinstance(argument, Meta):
            yield argument


def _description(annotation: Any) -> str:
    """What a key wants, in words, from its ``Meta``."""
    return next((meta.description for meta in _metas(annotation) if meta.description), "a value")
