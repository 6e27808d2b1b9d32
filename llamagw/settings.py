"""
What a configuration is: every key, its type, limits and default; what its names and URLs mean.

Every default stands in the Structs below and nowhere else. How a file becomes one, and what is said
of a file that is wrong, is config.py's affair.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import os
import re
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

#: YAML can write characters that no file name, command line or JSON can carry.
TEXT = r"\A[^\0\ud800-\udfff]*\Z"

#: What stands in ``cors_origins`` for any origin, and for any port of this machine.
ANY_ORIGIN, LOCALHOST = "*", "localhost"

#: Headers of one hop (RFC 9110, 7.6.1), and those that say how long a body is: each connection
#: has its own. In lower case, as all names of headers here.
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
NEVER_PASSED = HOP_BY_HOP | {b"content-length"}

#: The headers by which the gateway itself tells browsers what pages may do.
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

#: The longest time that a timer is given; infinity would break it.
_YEAR = 365 * 24 * 3600.0

#: Characters that a model's name may have, in a configuration and in a request.
NAME_LENGTH = 256

_Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=NAME_LENGTH,
        pattern=TEXT,
        description='a name of 1 to 256 characters, such as "qwen2.5-7b"',
    ),
]
_Path = Annotated[str, Meta(min_length=1, pattern=TEXT, description="the path of a file")]
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
_Text = Annotated[str, Meta(min_length=1, pattern=TEXT, description="a text")]
_Variable = Annotated[
    str, Meta(min_length=1, pattern=TEXT, description="the name of an environment variable")
]


class Replica(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A server elsewhere that answers for a model.

    :ivar api_key: sent as ``Authorization: Bearer …``, in place of the client's own
    :ivar api_key_env: where the key was taken from
    :ivar ca_file: the certificates that its own is checked with; None for the system's
    :ivar upstream_model: what the model is called there; None for its name here
    """

    url: _Url
    api_key: _Text | None = None
    api_key_env: _Variable | None = None
    ca_file: _Path | None = None
    upstream_model: _Name | None = None


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    One entry of ``models:``, as the gateway uses it: paths absolute.

    A model that lives elsewhere has ``replicas``, whether the file says so or ``url``, and no
    ``model_path``.
    """

    name: _Name
    model_path: _Path = ""
    url: _Urls = []
    replicas: Annotated[
        list[Replica], Meta(description='a list such as [{url: "http://10.0.0.5:8000"}]')
    ] = []
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
    pass_headers: _Headers = []
    paths: _Paths = []
    env: _Environment = {}
    pinned: _Switch = False
    preload: _Switch = False
    idle_unload_sec: _Patience = 0
    api_key: _Text | None = None
    api_key_env: _Variable | None = None
    ca_file: _Path | None = None
    upstream_model: _Name | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether it is no process of ours."""
        return bool(self.replicas)

    def size(self) -> int | None:
        """Bytes of its file, or of all its parts; None without one."""
        path, parts = self.model_path, [self.model_path]
        found = re.fullmatch(r"(.*-)00001(-of-(\d{5})\.gguf)", path)
        if found:
            parts = [f"{found[1]}{n:05}{found[2]}" for n in range(1, int(found[3]) + 1)]
        try:
            return sum(os.stat(part).st_size for part in parts)
        except OSError:
            return None


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file, as the gateway uses it: paths absolute, ``models`` never empty."""

    models: list[ModelConfig]
    #: Empty only when all models live elsewhere.
    llama_server_path: _Path = ""
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
    poison_sec: _Patience = 60
    max_body_mb: _Megabytes = 64
    #: None for an eighth of the machine's memory.
    max_bodies_mb: _Megabytes | None = None
    cors_origins: _Origins = msgspec.field(default_factory=lambda: [ANY_ORIGIN])
    request_timeout_sec: _Seconds = 60
    client_stall_sec: _Seconds = 600
    access_log: _Switch = False

    def bodies_mb(self, memory: int) -> float:
        """
        How many megabytes of bodies are held at a time.

        :param memory: bytes that the gateway's machine has
        """
        if self.max_bodies_mb is not None:
            return self.max_bodies_mb
        return max(memory / 8 / 2**20, self.max_body_mb)

    def missing_files(self) -> list[ModelConfig]:
        """The models whose file is not there now (a warning at start, a 503 when asked for)."""
        ours = [model for model in self.models if not model.elsewhere]
        return [model for model in ours if not os.path.isfile(model.model_path)]

    @property
    def uses_tls(self) -> bool:
        """Whether TLS is spoken, to clients or to a server elsewhere."""
        urls = [replica.url for model in self.models for replica in model.replicas]
        return self.listen_addr.strip().startswith("ssl:") or any(origin(u).tls for u in urls)


class Names:
    """
    By which names the models are known: their own, their aliases, and patterns.

    A pattern is an alias with ``*``, ``?`` or ``[…]`` in it, as in a shell (fnmatch, upper and
    lower case told apart). Exact names come before patterns, and patterns in the order of the file.
    """

    def __init__(self, named: Iterable[tuple[str, Iterable[str]]]) -> None:
        """:param named: each model's own name and its aliases"""
        #: The model's own name for each name and each alias that is no pattern.
        self.exact: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for name, aliases in named:
            self.exact[name] = name
            for alias in aliases:
                if is_pattern(alias):
                    self._patterns.append((re.compile(fnmatch.translate(alias)), name))
                else:
                    self.exact[alias] = name
        #: So many slashes a name has at most.
        self.most_slashes = max((name.count("/") for name in self.exact), default=0)

    def find(self, name: str) -> str | None:
        """The own name of the model that this name means; None if it means none."""
        exact = self.exact.get(name)
        if exact is not None:
            return exact
        return next((own for pattern, own in self._patterns if pattern.match(name)), None)


def is_pattern(alias: str) -> bool:
    """Whether an alias stands for many names."""
    return any(c in alias for c in "*?[")


class Origin(NamedTuple):
    """
    Where a URL leads.

    :ivar prefix: what stands before each path, without a slash at its end
    """

    tls: bool
    host: str
    port: int
    prefix: str


def origin(url: str) -> Origin:
    """
    Take the URL of a server apart; ``/v1`` at its end, as clients write it, is left out.

    :raises ValueError: saying what is wrong and what would be right
    """
    example = 'write one such as "http://10.0.0.5:8000" or "https://models.example/api"'
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL: {error}; {example}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} begins with neither http:// nor https://; {example}")
    if not parts.hostname or not re.fullmatch(r"[A-Za-z0-9._:%-]+", parts.hostname):
        raise ValueError(f"{url!r} names no host; {example}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{url!r} has more than a host and a path; {example} (api_key: has a key)")
    if re.search(r"[^!-~]", parts.path):
        raise ValueError(f"the path of {url!r} has characters that need %-encoding")
    if port == 0:
        raise ValueError(f"{url!r} has the port 0; {example}")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Origin(tls, parts.hostname, port or (443 if tls else 80), prefix)


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
