"""
The ports that local instances listen on, each checked by binding it briefly.

Another process may take a port between that and the engine's own bind; local.py handles that.
"""

from __future__ import annotations

import socket

#: The address that local instances listen on: only the gateway connects to them.
LOOPBACK = "127.0.0.1"


class Ports:
    """
    Hands out ports, skipping those in use by any process.

    :param first: the lowest port to use
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self._ours: set[int] = set()

    def __repr__(self) -> str:
        return f"<Ports from {self.first}: {sorted(self._ours)}>"

    def take(self) -> int:
        """
        Reserve the lowest port that is free now.

        :raises OSError: when there is none up to 65535
        """
        for port in range(self.first, 65536):
            if port not in self._ours and _can_bind(port):
                self._ours.add(port)
                return port
        raise OSError(f"no free port from {self.first} to 65535")

    def give_back(self, port: int) -> None:
        """
        Release a port.

        :param port: one from `take`
        """
        self._ours.discard(port)


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Else connections of an earlier engine in TIME_WAIT would make the port count as in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
