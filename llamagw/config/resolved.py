"""
What the gateway runs on: a configuration that is complete and right, and never changes.

Every key has its value, whether the file gave it or not; paths are absolute, and the keys of remote
servers are found. Two configurations are compared by value, and cross processes by pickle.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, Literal, TypeAlias

from msgspec import Struct

from llamagw.config.addresses import origin, speaks_tls
from llamagw.config.schema import ConfigFile, ModelEntry


class Replica(Struct, frozen=True, kw_only=True):
    """
    A remote server that answers for a model.

    :ivar url: as it is written; `llamagw.config.origin` takes it apart
    :ivar api_key: sent as ``Authorization: Bearer …``, in place of the client's own
    :ivar ca_file: the certificates that its own is checked with; None for the system's
    :ivar upstream_model: what the model is called there; None for its name here
    """

    url: str
    api_key: str | None = None
    ca_file: str | None = None
    upstream_model: str | None = None


class _Model(Struct, frozen=True, kw_only=True):
    """
    What every model has.

    :ivar aliases: more names, and patterns of names
    :ivar set_params: what each request gets, whatever it says
    :ivar default_params: what a request gets that does not say it
    :ivar strip_params: what is taken out of each request
    :ivar pass_headers: headers of an answer that are passed on though they act on more than it
    """

    name: str
    aliases: list[str]
    set_params: dict[str, Any]
    default_params: dict[str, Any]
    strip_params: list[str]
    pass_headers: list[str]


class LocalModel(_Model, frozen=True, kw_only=True):
    """
    A model that llamagw runs itself.

    :ivar model_path: its file; the first part of one that was split
    :ivar gpu_layers: so many on the GPU; -1 for all
    :ivar context_size: tokens
    :ivar env: variables that its engine gets beside the gateway's own
    :ivar pinned: whether it is never unloaded for room
    :ivar preload: whether it is loaded at the start
    :ivar idle_unload_sec: seconds without use after which it is unloaded; 0 for never
    """

    remote: ClassVar[Literal[False]] = False

    model_path: str
    gpu_layers: int
    context_size: int
    threads: int
    batch_size: int
    parallel: int
    extra_args: list[str]
    env: dict[str, str]
    pinned: bool
    preload: bool
    idle_unload_sec: float

    @classmethod
    def of(cls, entry: ModelEntry) -> LocalModel:
        """
        A model as the file has it.

        :param entry: with ``model_path``, an absolute path
        """
        return cls(**{key: getattr(entry, key) for key in cls.__struct_fields__})


class RemoteModel(_Model, frozen=True, kw_only=True):
    """
    A model that other servers run.

    :ivar replicas: those servers; at least one
    :ivar paths: what else may be asked of a server that gets an ``api_key``: paths or patterns
    """

    remote: ClassVar[Literal[True]] = True
    # It takes no room here, and is neither loaded nor unloaded.
    pinned: ClassVar[bool] = False
    preload: ClassVar[bool] = False
    idle_unload_sec: ClassVar[float] = 0
    # Its file and its context are for its servers to know.
    model_path: ClassVar[str] = ""
    context_size: ClassVar[None] = None

    replicas: list[Replica]
    paths: list[str]

    @classmethod
    def of(cls, entry: ModelEntry, replicas: list[Replica]) -> RemoteModel:
        """
        A model as the file has it.

        :param entry: its own servers are not looked at
        :param replicas: those servers, with their keys found
        """
        same = [key for key in cls.__struct_fields__ if key != "replicas"]
        return cls(replicas=replicas, **{key: getattr(entry, key) for key in same})


#: One entry of ``models:``; ``remote`` says which of the two it is, to type checkers too.
ModelConfig: TypeAlias = LocalModel | RemoteModel


class Config(Struct, frozen=True, kw_only=True):
    """
    The whole configuration.

    :ivar models: in the order of the file; never empty
    :ivar llama_server_path: "" only when all models are remote
    :ivar max_bodies_mb: None for an eighth of the machine's memory; see `bodies_mb`
    """

    models: list[ModelConfig]
    llama_server_path: str
    listen_addr: str
    default_model: str | None
    port_range_start: int
    max_loaded_models: int
    health_check_sec: float
    swap_after_sec: float
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
    access_log: bool

    @classmethod
    def of(cls, file: ConfigFile, models: list[ModelConfig]) -> Config:
        """
        A configuration as the file has it.

        :param file: its own models are not looked at
        :param models: those models, resolved
        """
        same = [key for key in cls.__struct_fields__ if key != "models"]
        return cls(models=models, **{key: getattr(file, key) for key in same})

    def bodies_mb(self, memory: int) -> float:
        """
        How many megabytes of requests' bodies are held at a time.

        :param memory: bytes that the gateway's machine has
        """
        if self.max_bodies_mb is not None:
            return self.max_bodies_mb
        return max(memory / 8 / 2**20, self.max_body_mb)

    def missing_files(self) -> list[LocalModel]:
        """The models whose file is not there now (a warning at start, a 503 when asked for)."""
        local = [model for model in self.models if not model.remote]
        return [model for model in local if not os.path.isfile(model.model_path)]

    @property
    def uses_tls(self) -> bool:
        """Whether TLS is spoken, to clients or to a remote server."""
        if speaks_tls(self.listen_addr):
            return True
        remote = [model for model in self.models if model.remote]
        return any(origin(replica.url).tls for model in remote for replica in model.replicas)
