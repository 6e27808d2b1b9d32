"""
The configuration file: every key that a user may write, its type, limits, description and default.

All defaults are in the Structs below and nowhere else. walk.py checks a file against them, rules.py
checks combinations of keys, and resolved.py has what the gateway runs on.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from llamagw.config.names import NAME_LENGTH

#: A text without the characters that YAML allows but file names, command lines or JSON do not.
TEXT = r"\A[^\0\ud800-\udfff]*\Z"

#: What a key takes whose value is a path; such values are made absolute.
A_FILE = "the path of a file"

#: The value of ``forwarded.trusted`` for whoever connects to a unix socket.
UNIX = "unix"

#: The values of ``cors_origins`` for any origin, and for any port of this machine.
ANY_ORIGIN, LOCALHOST = "*", "localhost"

#: Where the collector of OpenTelemetry is by default.
COLLECTOR = "http://127.0.0.1:4318"

#: How many models are in memory at most, where memory is not counted.
MOST_LOADED = 2

#: Megabytes for each engine's cache of earlier prompts, where memory is counted.
CACHE_MB = 256

#: Seconds of a timer at most; infinity would break it.
_YEAR = 365 * 24 * 3600.0

_Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=NAME_LENGTH,
        pattern=TEXT,
        description='a name of 1 to 256 characters, such as "qwen2.5-7b"',
    ),
]
_Path = Annotated[str, Meta(min_length=1, pattern=TEXT, description=A_FILE)]
_Port = Annotated[int, Meta(ge=1, le=65535, description="a port, 1 to 65535")]
_Count = Annotated[int, Meta(ge=1, description="a whole number, 1 or more")]
_Threads = Annotated[int, Meta(ge=0, description="a whole number, 1 or more, or 0 (automatic)")]
_Layers = Annotated[
    Annotated[int, Meta(ge=-1)] | Literal["auto"],
    Meta(description='a whole number: -1 (all), 0 (CPU only) or more; or "auto"'),
]
_Seconds = Annotated[
    float, Meta(gt=0, le=_YEAR, description="a number of seconds, more than 0, a year at most")
]
_Patience = Annotated[
    float, Meta(ge=0, le=_YEAR, description="a number of seconds, 0 or more, a year at most")
]
_SwapAfter = Annotated[
    Annotated[float, Meta(ge=0, le=_YEAR)] | Literal["auto"],
    Meta(description='"auto", or a number of seconds, 0 or more, a year at most'),
]
_Kept = Annotated[int, Meta(ge=0, le=100_000, description="a whole number, 0 to 100000")]
_Captured = Annotated[int, Meta(ge=0, le=10_000, description="a whole number, 0 to 10000")]
_Kilobytes = Annotated[
    # To look for keys in what is kept takes up to 0.2 ms for each.
    int,
    Meta(ge=1, le=256, description="a whole number of kilobytes, 1 to 256"),
]
_Megabytes = Annotated[
    float, Meta(gt=0, le=2**20, description="a number of megabytes, more than 0, 1048576 at most")
]
_Switch = Annotated[bool, Meta(description="true or false")]
# Of the sizes only what they are for: sizes.py checks them.
_Size = Annotated[str, Meta(description="a size such as 8GB or 7.5GiB")]
_Budgets = Annotated[
    Literal["auto", "off"] | dict[str, str],
    Meta(description="auto, off, or sizes by device, such as {host: 48GB, CUDA0: 22GB}"),
]
_Sizes = Annotated[
    str | dict[str, str],
    Meta(description="a size such as 8GB, or sizes by device, such as {CUDA0: 7GB}"),
]
_CacheMegabytes = Annotated[
    int, Meta(ge=0, le=2**20, description="a whole number of megabytes, 0 (none) to 1048576")
]
_EngineLog = Annotated[Literal["warn", "all", "none"], Meta(description="warn, all or none")]
_Socket = Annotated[Literal["tcp", "unix"], Meta(description="tcp or unix")]
_LogFormat = Annotated[Literal["text", "json"], Meta(description="text or json")]
_Arguments = Annotated[
    list[Annotated[str, Meta(pattern=TEXT)]],
    Meta(description='a list of texts, such as ["--embeddings", "--pooling", "mean"]'),
]
_Aliases = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH, pattern=TEXT)]],
    Meta(
        description="a list of names or patterns of 1 to 256 characters, "
        'such as ["gpt-4o", "gpt-4*"]'
    ),
]
_Patterns = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH, pattern=TEXT)]],
    Meta(
        max_length=100,
        description='a list of up to 100 names or patterns of models, such as ["qwen*"] or ["*"]',
    ),
]
_Keys = Annotated[
    list[Annotated[str, Meta(min_length=1, pattern=TEXT)]],
    Meta(description='a list of keys of the request, such as ["temperature"]'),
]
_Headers = Annotated[
    list[Annotated[str, Meta(pattern=r"\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")]],
    Meta(description='a list of names of headers, such as ["Set-Cookie"]'),
]
_Paths = Annotated[
    list[Annotated[str, Meta(pattern=r"\A[/*][!-~]*\Z")]],
    Meta(description='a list of paths or patterns, such as ["/v1/files*"] or ["*"]'),
]
_Origins = Annotated[
    list[Annotated[str, Meta(min_length=1, pattern=TEXT)]],
    Meta(description='a list of origins, such as ["https://chat.example", "localhost"]'),
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
        pattern=TEXT,
        description='an address such as ":8000", "127.0.0.1:8000", "[::1]:8000" '
        "or a Twisted server endpoint string",
    ),
]
_Url = Annotated[
    str, Meta(min_length=1, pattern=TEXT, description='a URL such as "http://10.0.0.5:8000"')
]
_Urls = Annotated[
    str | list[_Url], Meta(description='a URL such as "http://10.0.0.5:8000", or a list of them')
]
_Collector = Annotated[
    str,
    Meta(
        pattern=r"\Ahttps?://[^\s/?#\\@]+(/[^\s?#]*)?\Z",
        description='a URL such as "http://127.0.0.1:4318"',
    ),
]
_SentHeaders = Annotated[
    dict[
        Annotated[str, Meta(pattern=r"\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")],
        Annotated[str, Meta(pattern=r"\A[ -~]*\Z")],
    ],
    Meta(description='names and texts of headers, such as {"X-Key": "secret"}'),
]
_TlsVersion = Annotated[Literal["1.2", "1.3"], Meta(description='"1.2" or "1.3"')]
_Networks = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=64, pattern=TEXT)]],
    Meta(
        min_length=1,
        max_length=1000,
        description="a list of networks or addresses, "
        'such as ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]',
    ),
]
_ForwardedBy = Annotated[
    Literal["x-forwarded-for", "forwarded"], Meta(description="x-forwarded-for or forwarded")
]
_Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1")]
_Strictness = Annotated[Literal["loose", "strict"], Meta(description='"loose" or "strict"')]
_Text = Annotated[str, Meta(min_length=1, pattern=TEXT, description="a text")]
_Rights = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=NAME_LENGTH, pattern=TEXT)]],
    Meta(max_length=1000, description='a list of names or patterns of models, such as ["qwen*"]'),
]
_Scopes = Annotated[
    list[Literal["infer", "observe", "manage"]],
    Meta(min_length=1, description="a list of infer, observe and manage, at least one of them"),
]
_KeyName = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@-]*\Z",
        description="a name of 1 to 64 letters, digits, dots, dashes, underscores and @",
    ),
]
_Hash = Annotated[
    str,
    Meta(
        pattern=r"\Asha256:[0-9a-f]{64}\Z",
        description="sha256: and 64 digits, as `llamagw keys new` writes it",
    ),
]
_Priority = Annotated[int, Meta(ge=-100, le=100, description="a whole number from -100 to 100")]
_Amount = Annotated[int, Meta(ge=1, le=10**12, description="a whole number, 1 or more")]
_Weight = Annotated[float, Meta(ge=0.01, le=100, description="a number from 0.01 to 100")]
_Time = Annotated[
    str,
    Meta(
        # Python's own reading of ISO 8601 takes any character between day and time.
        pattern=r"\A\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?\Z",
        description="a day such as 2027-01-31, or 2027-01-31T12:00:00Z",
    ),
]
_Variable = Annotated[
    str, Meta(min_length=1, pattern=TEXT, description="the name of an environment variable")
]


class ReplicaEntry(Struct, frozen=True, kw_only=True):
    """
    One entry of ``replicas:``: a remote server that serves a model.

    :ivar api_key: sent as ``Authorization: Bearer …``, in place of the client's own
    :ivar api_key_env: the environment variable that has the key
    :ivar ca_file: the CA certificates that verify its own; None for the system's
    :ivar upstream_model: the model's name there; None if it is the same
    """

    url: _Url
    api_key: _Text | None = None
    api_key_env: _Variable | None = None
    ca_file: _Path | None = None
    upstream_model: _Name | None = None


class ModelEntry(Struct, frozen=True, kw_only=True):
    """
    One entry of ``models:``: local with ``model_path``, remote with ``url`` or ``replicas``.

    ``api_key`` and the keys after it apply to each URL of ``url``.
    """

    name: _Name
    model_path: _Path = ""
    url: _Urls = []
    replicas: Annotated[
        list[ReplicaEntry], Meta(description='a list such as [{url: "http://10.0.0.5:8000"}]')
    ] = []
    gpu_layers: _Layers = 0
    context_size: _Count = 4096
    #: Where it is not given, at most the machine's physical cores.
    threads: _Threads = 4
    batch_size: _Count = 512
    parallel: _Count = 8
    #: None for an estimate, or what was learned.
    memory: _Sizes | None = None
    #: None for `CACHE_MB` where memory is counted, else as the engine has it.
    prompt_cache_mb: _CacheMegabytes | None = None
    #: None for as many as a local model's engine has slots, for all of a remote one.
    max_in_flight: _Kept | None = None
    extra_args: _Arguments = []
    aliases: _Aliases = []
    set_params: _Params = {}
    default_params: _Params = {}
    strip_params: _Keys = []
    json_object: _Strictness = "loose"
    pass_headers: _Headers = []
    paths: _Paths = []
    env: _Environment = {}
    pinned: _Switch = False
    preload: _Switch = False
    idle_unload_sec: _Patience = 0
    idle_shrink_sec: _Patience = 0
    api_key: _Text | None = None
    api_key_env: _Variable | None = None
    ca_file: _Path | None = None
    upstream_model: _Name | None = None


class OtelEntry(Struct, frozen=True, kw_only=True):
    """
    The value of ``otel:``: what is exported by OpenTelemetry, and where to.

    A key that is missing is as the OTEL_ variables say, else by default.

    :ivar endpoint: the collector's address for OTLP/HTTP, without ``/v1/traces``; `COLLECTOR` by
        default
    :ivar headers: sent to it
    :ivar content: whether prompts and answers are exported
    :ivar sample: the share of requests that get spans, of those whose client has not decided it in
        its ``traceparent``; 1 by default
    """

    endpoint: _Collector | None = None
    headers: _SentHeaders = {}
    content: _Switch = False
    sample: _Share | None = None


class TlsEntry(Struct, frozen=True, kw_only=True):
    """
    The value of ``tls:``: with what ``listen_addr`` speaks TLS.

    :ivar cert: a PEM file: the gateway's certificate, then those between it and its authority
    :ivar key: a PEM file with its private key; may be the same file
    :ivar client_ca: a PEM file of authorities, one of which must have signed the certificate that
        each client has to show; None to ask for none
    :ivar min_version: the oldest version that is spoken
    """

    cert: _Path
    key: _Path
    client_ca: _Path | None = None
    min_version: _TlsVersion = "1.2"


class ForwardedEntry(Struct, frozen=True, kw_only=True):
    """
    The value of ``forwarded:``: which reverse proxies are believed in who their clients are.

    :ivar trusted: their addresses, as networks; `UNIX` for who connects to a unix socket
    :ivar header: the one that they write; None for ``X-Forwarded-For`` where a request has it, else
        ``Forwarded``
    """

    trusted: _Networks
    header: _ForwardedBy | None = None


class CaptureEntry(Struct, frozen=True, kw_only=True):
    """
    The value of ``capture:``: for which requests the content is kept in memory.

    :ivar models: names that requests ask for, names of models, or patterns of either
    :ivar requests: how many requests, the last ones; 0 for none
    :ivar max_kb: how much of either body, in units of 1024 bytes
    """

    models: _Patterns = []
    requests: _Captured = 0
    max_kb: _Kilobytes = 64


class LimitsEntry(
    Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False
):
    """
    The value of ``limits:`` of a key; what is None is not limited.

    :ivar requests_per_min: requests for models
    :ivar tokens_per_min: of prompts and answers together, as is the next
    :ivar tokens_per_day: a day of UTC
    :ivar parallel: requests for models at once
    :ivar max_body_mb: of a request, in units of 2**20 bytes
    :ivar max_tokens: of an answer
    """

    requests_per_min: _Amount | None = None
    tokens_per_min: _Amount | None = None
    tokens_per_day: _Amount | None = None
    parallel: _Amount | None = None
    max_body_mb: _Megabytes | None = None
    max_tokens: _Amount | None = None


# Not seen by the garbage collector: there may be 100,000, and none can be part of a circle.
class KeyEntry(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """
    One entry of ``keys:``, or of the file of ``keys_file``: who may use the gateway, and for what.

    :ivar name: for people; each is given once
    :ivar hash: of the secret that its holder sends; the secret itself is nowhere
    :ivar models: own names, aliases or patterns of them
    :ivar scopes: what may be done with those models, see `llamagw.dialects.Scope`
    :ivar priority: the class of its requests while they wait: a higher one is served first
    :ivar share: how much of the slots it gets where others of its class wait too
    :ivar limits: how much it may use; None for as much as it likes
    :ivar certificate: a name in a client's certificate (``tls.client_ca``) that stands for the
        secret
    :ivar expires: from when on it is not valid; None for never
    :ivar old_hash: of the secret before it, which is valid until `old_expires`
    """

    name: _KeyName
    hash: _Hash
    models: _Rights = msgspec.field(default_factory=lambda: ["*"])
    scopes: _Scopes = msgspec.field(default_factory=lambda: ["infer"])
    priority: _Priority = 0
    share: _Weight = 1
    limits: Annotated[
        LimitsEntry | None,
        Meta(description="limits such as {requests_per_min: 60, tokens_per_day: 100000}"),
    ] = None
    certificate: _Text | None = None
    expires: _Time | None = None
    enabled: _Switch = True
    old_hash: _Hash | None = None
    old_expires: _Time | None = None


class ConfigFile(Struct, frozen=True, kw_only=True):
    """The whole file."""

    models: Annotated[list[ModelEntry], Meta(description="a list with at least one model")]
    llama_server_path: _Path = ""
    listen_addr: _Address = ":8000"
    #: None for no TLS, unless ``listen_addr`` is an ``ssl:`` endpoint.
    tls: Annotated[
        TlsEntry | None, Meta(description="keys such as {cert: cert.pem, key: key.pem}")
    ] = None
    forwarded: Annotated[
        ForwardedEntry | None, Meta(description='keys such as {trusted: ["127.0.0.1"]}')
    ] = None
    #: Where it is not given, the only model, if there is one only.
    default_model: _Name | None = None
    port_range_start: _Port = 8081
    backend_socket: _Socket = "tcp"
    #: None for `MOST_LOADED`; where memory is counted, for no limit.
    max_loaded_models: _Count | None = None
    memory: _Budgets = "off"
    memory_reserve: _Size = "1GB"
    health_check_sec: _Seconds = 30
    swap_after_sec: _SwapAfter = "auto"
    max_queue: _Count = 512
    queue_timeout_sec: _Seconds = 600
    stream_keepalive_sec: _Patience = 0
    load_timeout_sec: _Seconds = 600
    stop_timeout_sec: _Seconds = 10
    drain_sec: _Patience = 30
    poison_sec: _Patience = 60
    max_body_mb: _Megabytes = 64
    #: None for an eighth of the machine's memory.
    max_bodies_mb: _Megabytes | None = None
    #: None for none: everybody may do everything.
    keys: Annotated[
        list[KeyEntry] | None,
        Meta(description="a list of keys, such as {name: alice, hash: sha256:…}"),
    ] = None
    keys_file: _Path | None = None
    #: None for the log, where keys are wanted; else for none.
    audit_log: _Path | None = None
    limit_wait_sec: _Patience = 5
    cors_origins: _Origins = msgspec.field(default_factory=lambda: [ANY_ORIGIN])
    request_timeout_sec: _Seconds = 60
    client_stall_sec: _Seconds = 600
    #: None for true in the foreground, false for a daemon and with a log file.
    access_log: _Switch | None = None
    engine_log: _EngineLog = "warn"
    log_format: _LogFormat = "text"
    activity_size: _Kept = 1000
    ui: _Switch = True
    capture: Annotated[
        CaptureEntry,
        Meta(description='keys such as {models: ["*"], requests: 50, max_kb: 64}'),
    ] = msgspec.field(default_factory=CaptureEntry)
    #: None for none, unless the OTEL_ variables ask for it.
    otel: Annotated[
        OtelEntry | None, Meta(description='keys such as {endpoint: "http://127.0.0.1:4318"}')
    ] = None


#: The values of keys that a file does not have.
DEFAULTS = ConfigFile(models=[])
