"""Configurations without a file: each key that is not given has its default."""

from __future__ import annotations

from typing import Any

from llamagw.config import (
    Config,
    ConfigFile,
    LocalModel,
    ModelConfig,
    ModelEntry,
    RemoteModel,
    Replica,
)


def local_model(name: str, model_path: str | None = None, **keys: Any) -> LocalModel:
    """A model with a file, which need not be there."""
    path = f"/models/{name}.gguf" if model_path is None else model_path
    return LocalModel.of(ModelEntry(name=name, model_path=path, **keys))


def remote_model(name: str, *replicas: Replica, **keys: Any) -> RemoteModel:
    """A model that these servers answer for."""
    return RemoteModel.of(ModelEntry(name=name, **keys), list(replicas))


def configuration(
    *models: ModelConfig, llama_server_path: str = "/opt/llama-server", path: str = "", **keys: Any
) -> Config:
    """A configuration of these models, as from the file at `path`."""
    file = ConfigFile(models=[], llama_server_path=llama_server_path, **keys)
    return Config.of(path, file, list(models))
