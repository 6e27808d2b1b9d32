"""
What the gateway runs on: a complete, valid, immutable configuration.

Every key has a value, from the file or by default; paths are absolute, and the API keys of remote
servers are read from the environment. Configurations are compared by value, and pickled to cross
processes.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

from msgspec import Struct

from llamagw.config.addresses import origin, speaks_tls
from llamagw.config.schema import (
    MOST_LOADED,
    CaptureEntry,
    ConfigFile,
    ForwardedEntry,
    KeyEntry,
    ModelEntry,
    TlsEntry,
)
from llamagw.config.sizes import size

#: More models than any configuration has.
NO_LIMIT = 2**31


class Replica(Struct, frozen=True, kw_only=True):
    """
    A remote server that serves a model.

    :ivar url: as configured; `llamagw.config.origin` parses it
    :ivar api_key: sent as ``Authorization: Bearer …``, in place of the client's own
    :ivar ca_file: the CA certificates that verify its own; None for the system's
    :ivar upstream_model: the model's name there; None if it is the same
    """

    url: str
    api_key: str | None = None
    ca_file: str | None = None
    upstream_model: str | None = None


class _Model(Struct, frozen=True, kw_only=True):
    """
    What local and remote models have in common.

    :ivar aliases: more names, and patterns of names
    :ivar set_params: parameters set in each request, in place of the client's
    :ivar default_params: parameters set in a request that does not have them
    :ivar strip_params: parameters removed from each request
    :ivar json_object: "strict" if a ``response_format`` of that type is to be binding
    :ivar pass_headers: response headers that are passed on although their effect goes beyond the
        response, such as ``Set-Cookie``
    :ivar max_in_flight: how many requests a backend is sent at once, of those that take a slot; 0
        for all, None if that is not said
    """

    name: str
    aliases: list[str]
    set_params: dict[str, Any]
    default_params: dict[str, Any]
    strip_params: list[str]
    json_object: Literal["loose", "strict"]
    pass_headers: list[str]
    max_in_flight: int | None


class LocalModel(_Model, frozen=True, kw_only=True):
    """
    A model that llamagw runs itself.

    :ivar model_path: its file; the first part of one that is split
    :ivar gpu_layers: how many are on the GPU; -1 for all, "auto" for as many as fit
    :ivar context_size: tokens
    :ivar threads: of the CPU; 0 for as many as its engine sees fit
    :ivar env: variables for its engine, beside the gateway's own
    :ivar pinned: whether it is never evicted
    :ivar memory: what it takes in bytes by device, in place of an estimate; "" for the device that
        it is on. None for an estimate
    :ivar prompt_cache_mb: of the engine's cache of earlier prompts; None if that is not said
    :ivar preload: whether it is loaded at the start
    :ivar idle_unload_sec: the idle timeout in seconds after which it is unloaded; 0 for never
    :ivar idle_shrink_sec: seconds after which an idle engine gives up what it keeps of earlier
        prompts; 0 for never
    """

    remote: ClassVar[Literal[False]] = False

    model_path: str
    gpu_layers: int | Literal["auto"]
    context_size: int
    threads: int
    batch_size: int
    parallel: int
    memory: dict[str, int] | None
    prompt_cache_mb: int | None
    extra_args: list[str]
    env: dict[str, str]
    pinned: bool
    preload: bool
    idle_unload_sec: float
    idle_shrink_sec: float

    @classmethod
    def of(cls, entry: ModelEntry) -> LocalModel:
        """
        Make a model from its entry in the file.

        :param entry: one with ``model_path``, an absolute path
        """
        values = {key: getattr(entry, key) for key in cls.__struct_fields__}
        return cls(**{**values, "memory": _sizes(entry.memory)})


class RemoteModel(_Model, frozen=True, kw_only=True):
    """
    A model that remote servers run.

    :ivar replicas: the servers; at least one
    :ivar paths: further paths, or patterns of them, that may be requested of a server with an
        ``api_key``
    """

    remote: ClassVar[Literal[True]] = True
    # It takes no memory here, and is neither loaded nor unloaded.
    pinned: ClassVar[bool] = False
    preload: ClassVar[bool] = False
    idle_unload_sec: ClassVar[float] = 0
    idle_shrink_sec: ClassVar[float] = 0
    # Only its servers know its file and its context.
    model_path: ClassVar[str] = ""
    context_size: ClassVar[None] = None

    replicas: list[Replica]
    paths: list[str]

    @classmethod
    def of(cls, entry: ModelEntry, replicas: list[Replica]) -> RemoteModel:
        """
        Make a model from its entry in the file.

        :param entry: its own servers are ignored
        :param replicas: its servers, with their API keys
        """
        same = [key for key in cls.__struct_fields__ if key != "replicas"]
        return cls(replicas=replicas, **{key: getattr(entry, key) for key in same})


#: A model; the class variable ``remote`` distinguishes the two, for type checkers too.
ModelConfig: TypeAlias = LocalModel | RemoteModel


class Otel(Struct, frozen=True, kw_only=True):
    """
    What is exported by OpenTelemetry, and where to.

    :ivar asked_by: what switches it on: ``otel``, or the name of an environment variable
    :ivar endpoint: the collector's address for OTLP/HTTP, without ``/v1/traces``; None if the
        environment says it
    :ivar headers: sent to it; empty if the environment says them
    :ivar content: whether prompts and answers are exported
    :ivar sample: the share of requests that get spans, of those whose client has not decided it;
        None if the environment says it
    :ivar spans: whether spans are exported
    :ivar metrics: whether metrics are exported
    :ivar problem: why nothing can be exported; "" if it can
    """

    asked_by: str
    endpoint: str | None
    headers: dict[str, str]
    content: bool
    sample: float | None
    spans: bool
    metrics: bool
    problem: str


class Config(Struct, frozen=True, kw_only=True):
    """
    The whole configuration.

    :ivar path: of the file that it was read from
    :ivar models: in the order of the file; never empty
    :ivar llama_server_path: "" only when all models are remote
    :ivar tls: None if ``listen_addr`` speaks no TLS, or is an ``ssl:`` endpoint; see `serves_tls`
    :ivar forwarded: None if no proxy is believed in who its clients are
    :ivar max_loaded_models: None for no limit
    :ivar memory: how much may be used, in bytes by device; of a device that is not in it, all but
        the reserve. None if memory is not counted
    :ivar memory_reserve: what is left to others on each device of which `memory` does not say how
        much may be used, in bytes
    :ivar max_bodies_mb: None for an eighth of the machine's memory; see `bodies_mb`
    :ivar backend_socket: what local engines listen on
    :ivar access_log: None for true in the foreground; see `logs_access`
    :ivar engine_log: which lines of the engines are repeated in the gateway's log
    :ivar otel: None if nothing is exported by OpenTelemetry
    :ivar keys: of clients, as the configuration lists them; None if it has no such list
    :ivar audit_log: the file of the audit; None for the log, where keys are wanted
    :ivar keys_file: has further ones; None for none. Without both everybody may do everything
    """

    path: str
    models: list[ModelConfig]
    llama_server_path: str
    listen_addr: str
    tls: TlsEntry | None
    forwarded: ForwardedEntry | None
    default_model: str | None
    port_range_start: int
    backend_socket: Literal["tcp", "unix"]
    max_loaded_models: int | None
    memory: dict[str, int] | None
    memory_reserve: int
    health_check_sec: float
    swap_after_sec: float | Literal["auto"]
    max_queue: int
    queue_timeout_sec: float
    stream_keepalive_sec: float
    load_timeout_sec: float
    stop_timeout_sec: float
    drain_sec: float
    poison_sec: float
    max_body_mb: float
    max_bodies_mb: float | None
    cors_origins: list[str]
    request_timeout_sec: float
    client_stall_sec: float
    access_log: bool | None
    engine_log: Literal["warn", "all", "none"]
    log_format: Literal["text", "json"]
    activity_size: int
    ui: bool
    keys: list[KeyEntry] | None
    keys_file: str | None
    audit_log: str | None
    limit_wait_sec: float
    capture: CaptureEntry
    otel: Otel | None

    @classmethod
    def of(
        cls, path: str, file: ConfigFile, models: list[ModelConfig], otel: Otel | None = None
    ) -> Config:
        """
        Make a configuration from the file.

        :param path: of the file
        :param file: its own models are ignored
        :param models: its models, resolved
        :param otel: its ``otel``, resolved
        """
        same = [key for key in cls.__struct_fields__ if key in ConfigFile.__struct_fields__]
        values = {key: getattr(file, key) for key in same if key not in ("models", "otel")}
        if file.memory != "off":
            values["memory"] = {} if file.memory == "auto" else _sizes(file.memory)
        else:
            values["memory"] = None
            values["max_loaded_models"] = file.max_loaded_models or MOST_LOADED
        values["memory_reserve"] = size(file.memory_reserve)
        return cls(path=path, models=models, otel=otel, **values)

    @property
    def wants_keys(self) -> bool:
        """Whether a request needs a key."""
        return self.keys is not None or self.keys_file is not None

    @property
    def swap_after(self) -> float | None:
        """
        Seconds that a request waits for room before a busy model closes.

        None if models stay in proportion to their load times instead.
        """
        return None if self.swap_after_sec == "auto" else self.swap_after_sec

    @property
    def limit(self) -> int:
        """How many models may be in memory at once: ``max_loaded_models``, or more than any has."""
        return NO_LIMIT if self.max_loaded_models is None else self.max_loaded_models

    def bodies_mb(self, memory: int) -> float:
        """
        The limit for all request bodies together.

        :param memory: of the gateway's machine, in bytes
        :return: megabytes (2**20 bytes)
        """
        if self.max_bodies_mb is not None:
            return self.max_bodies_mb
        return max(memory / 8 / 2**20, self.max_body_mb)

    def logs_access(self, foreground: bool) -> bool:
        """
        Whether each request is logged.

        :param foreground: whether the log goes to the terminal, or wherever stdout does
        """
        return foreground if self.access_log is None else self.access_log

    @property
    def serves_tls(self) -> bool:
        """Whether clients connect with TLS."""
        return self.tls is not None or speaks_tls(self.listen_addr)

    @property
    def uses_tls(self) -> bool:
        """Whether TLS is used, by clients or towards a remote server."""
        if self.serves_tls:
            return True
        remote = [model for model in self.models if model.remote]
        return any(origin(replica.url).tls for model in remote for replica in model.replicas)


def _sizes(given: str | dict[str, str] | None) -> dict[str, int] | None:
    """Sizes by device, in bytes; one without a device is that of ""."""
    if given is None:
        return None
    by_device = {"": given} if isinstance(given, str) else given
    return {device: size(text) for device, text in by_device.items()}
