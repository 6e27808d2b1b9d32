"""
Network I/O: addresses, endpoints, transports, TLS, and HTTP to a backend.

The proxy relays over it, and the probes send their requests over it; nothing here depends on
models, clients' requests or processes. Other packages import the names below, never from the
modules.
"""

from llamagw.net.address import Address
from llamagw.net.causes import WORDS, in_words
from llamagw.net.certificates import Tls, TlsFault, read_tls
from llamagw.net.client import Headers, Received, Receiver, Upstream, UpstreamLost
from llamagw.net.connect import Connect, Connector, has_tls
from llamagw.net.connecting import UvloopClientEndpoint
from llamagw.net.endpoints import (
    client_endpoint,
    server_endpoint,
    unix_client_endpoint,
    uses_uvloop,
)
from llamagw.net.headers import end_to_end, of_answer
from llamagw.net.listening import UvloopServerEndpoint
from llamagw.net.pool import Pool
from llamagw.net.renewal import Renewal
from llamagw.net.tls import PeerNames, TlsEndpoint, peer_names
from llamagw.net.transport import IConnection

__all__ = [
    "WORDS",
    "Address",
    "Connect",
    "Connector",
    "Headers",
    "IConnection",
    "PeerNames",
    "Pool",
    "Received",
    "Receiver",
    "Renewal",
    "Tls",
    "TlsEndpoint",
    "TlsFault",
    "Upstream",
    "UpstreamLost",
    "UvloopClientEndpoint",
    "UvloopServerEndpoint",
    "client_endpoint",
    "end_to_end",
    "has_tls",
    "in_words",
    "of_answer",
    "peer_names",
    "read_tls",
    "server_endpoint",
    "unix_client_endpoint",
    "uses_uvloop",
]
