"""
The address of a backend, with what every request to it must carry.

A plain value; connections to it are made by connect.py.
"""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """
    The address of a backend's HTTP server, and what every request to it must carry.

    :ivar tls: whether the server speaks TLS
    :ivar ca_file: file of the certificates that verify the server's; None for the system's
    :ivar prefix: prepended to each path
    :ivar api_key: sent as ``Authorization: Bearer …``; None for none
    :ivar model: the model's name on that server; None if the server accepts any name
    :ivar paths: patterns of the paths that may be requested beside those of inference; None for any
    :ivar socket: the path of the UNIX socket to connect to, in place of host and port, which are
        for the ``Host`` header only; None for TCP
    """

    host: str
    port: int
    tls: bool = False
    ca_file: str | None = None
    prefix: str = ""
    api_key: str | None = None
    model: str | None = None
    paths: tuple[str, ...] | None = None
    socket: str | None = None

    @classmethod
    def of_socket(cls, path: str, api_key: str | None = None) -> Address:
        """
        The address of a server that listens on a UNIX socket.

        :param path: of the socket
        :param api_key: as of `Address`
        """
        return cls("localhost", 80, api_key=api_key, socket=path)

    def __repr__(self) -> str:
        # Without the API key: this appears in logs.
        name = "" if self.model is None else f", {self.model!r} there"
        return f"<Address {self.shown}{name}>"

    @property
    def shown(self) -> str:
        """For the log: the URL, or ``unix:`` and the path of the socket."""
        return self.url if self.socket is None else f"unix:{self.socket}"

    @property
    def authority(self) -> str:
        """Host and port as in the ``Host`` header and in a URL; without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Scheme, authority and prefix: a path is appended to it. Of a socket, with `localhost`."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"
