"""
The configuration: what a user may write, and what the gateway runs on.

`load` makes the second from the first. Import its names from here; of the rest of llamagw, nothing
is imported here but its errors.
"""

from llamagw.config.addresses import (
    Origin,
    address_url,
    base_url,
    cannot_listen,
    endpoint_string,
    is_loopback,
    origin,
    shown_address,
    speaks_tls,
)
from llamagw.config.document import ConfigError, Fault, with_lines
from llamagw.config.keys import names_once, read_keys, when
from llamagw.config.load import load
from llamagw.config.machine import physical_cores
from llamagw.config.names import NAME_LENGTH, Names, is_pattern
from llamagw.config.resolved import Config, LocalModel, ModelConfig, Otel, RemoteModel, Replica
from llamagw.config.rules import CORS_NAMES, HOP_BY_HOP
from llamagw.config.schema import (
    ANY_ORIGIN,
    CACHE_MB,
    DEFAULTS,
    LOCALHOST,
    UNIX,
    CaptureEntry,
    ConfigFile,
    ForwardedEntry,
    KeyEntry,
    LimitsEntry,
    ModelEntry,
    OtelEntry,
    ReplicaEntry,
    TlsEntry,
)
from llamagw.config.secrets import masked_arguments, unmasked
from llamagw.config.sizes import size as size_of
from llamagw.config.sources import described, told_faults

__all__ = [
    "ANY_ORIGIN",
    "CACHE_MB",
    "CORS_NAMES",
    "DEFAULTS",
    "HOP_BY_HOP",
    "LOCALHOST",
    "NAME_LENGTH",
    "UNIX",
    "CaptureEntry",
    "Config",
    "ConfigError",
    "ConfigFile",
    "Fault",
    "ForwardedEntry",
    "KeyEntry",
    "LimitsEntry",
    "LocalModel",
    "ModelConfig",
    "ModelEntry",
    "Names",
    "Origin",
    "Otel",
    "OtelEntry",
    "RemoteModel",
    "Replica",
    "ReplicaEntry",
    "TlsEntry",
    "address_url",
    "base_url",
    "cannot_listen",
    "described",
    "endpoint_string",
    "is_loopback",
    "is_pattern",
    "load",
    "masked_arguments",
    "names_once",
    "origin",
    "physical_cores",
    "read_keys",
    "shown_address",
    "size_of",
    "speaks_tls",
    "told_faults",
    "unmasked",
    "when",
    "with_lines",
]
