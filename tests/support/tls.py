"""A client that speaks TLS in memory: Python's own ssl, to a protocol of the gateway's."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from tests.support.wire import Wire


class TlsClient:
    """
    Speaks TLS to a protocol that has a `Wire` for its transport.

    :param wire: that of the protocol
    :param trusted: a PEM file of who is trusted
    :param own: the client's own key and certificate
    :param newest: the newest version that it speaks
    :param strict: how else the server's certificate is verified
    """

    def __init__(
        self,
        wire: Wire,
        trusted: Path,
        own: tuple[Path, Path] | None = None,
        newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        strict: ssl.VerifyFlags = ssl.VerifyFlags.VERIFY_DEFAULT,
    ) -> None:
        context = ssl.create_default_context(cafile=str(trusted))
        context.verify_flags |= strict
        context.maximum_version = newest
        if own is not None:
            key, cert = own
            context.load_cert_chain(cert, key)
        self._wire = wire
        self._read = 0
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = context.wrap_bio(self._in, self._out, server_hostname="localhost")

    def _exchange(self) -> None:
        data = self._out.read()
        if data:
            self._wire.says(data)
        self._in.write(bytes(self._wire.heard[self._read :]))
        self._read = len(self._wire.heard)

    def shake_hands(self) -> None:
        """:raises ssl.SSLError: when either side does not want the other"""
        for _ in range(5):
            try:
                self.ssl.do_handshake()
            except ssl.SSLWantReadError:
                self._exchange()
            else:
                self._exchange()
                return
        raise AssertionError("the handshake does not end")

    def says(self, data: bytes) -> None:
        self.ssl.write(data)
        self._exchange()

    def hears(self) -> bytes:
        """What has come; b"" for nothing."""
        self._wire.clock.advance(0)  # Twisted writes small pieces together, in a later turn
        self._exchange()
        try:
            return self.ssl.read(65536)
        except ssl.SSLWantReadError:
            return b""

    def certificate(self) -> Any:
        """What the server has shown, in DER."""
        return self.ssl.getpeercert(binary_form=True)
