"""
The ports that local instances listen on, each taken by binding it for a moment.

Between that and the engine's own bind another process may take it: local.py sees to that.
"""

from __future__ import annotations

import socket

#: Where backends listen: nobody but the gateway talks to them.
LOOPBACK = "127.0.0.1"


class Ports:
    """The ports of backends: from ``first`` upward, skipping those in use by anybody."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._ours: set[int] = set()

    def take(self) -> int:
        """
        A port that is free now.

        :raises OSError: when there is none up to 65535
        """
        for port in range(self.first, 65536):
            if port not in self._ours and _can_bind(port):
                self._ours.add(port)
                return port
        raise OSError(f"no free port from {self.first} to 65535")

    def give_back(self, port: int) -> None:
        """The port is no longer needed."""
        self._ours.discard(port)


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without this, connections of an earlier backend in TIME_WAIT would count as "in use".
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
