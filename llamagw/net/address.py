"""
Where a backend answers, and how it wants to be addressed there.

A plain value: what is reached under it, and how, is connect.py's affair.
"""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """
    Where a backend answers HTTP, and what every request to it carries.

    :ivar tls: whether it speaks TLS
    :ivar ca_file: the certificates that its own is checked with; None for the system's
    :ivar prefix: what stands before each path
    :ivar api_key: sent as ``Authorization: Bearer …``
    :ivar model: what the model is called there; None where any name will do
    :ivar paths: patterns of what may be asked there beyond what a model is for; None for anything
    """

    host: str
    port: int
    tls: bool = False
    ca_file: str | None = None
    prefix: str = ""
    api_key: str | None = None
    model: str | None = None
    paths: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        # Without its key: this gets into logs.
        name = "" if self.model is None else f", {self.model!r} there"
        return f"<Address {self.url}{name}>"

    @property
    def authority(self) -> str:
        """For the ``Host`` header, and in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """What stands before each path's slash."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"
