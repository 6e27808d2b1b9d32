"""Who sends wrong keys is answered more slowly, by the address that they come from."""

from __future__ import annotations

import ipaddress

#: How many addresses are remembered; the one that has not failed for longest is forgotten.
REMEMBERED = 4096

#: Failures of an address that cost it nothing, and how many of them are forgiven each second.
FREE, FORGIVEN = 10, 0.5

#: Seconds that an answer is late by at most, and for each failure too many.
LATEST, EACH = 2.0, 0.1


class Attempts:
    """The failed attempts of each address, in a bounded memory."""

    def __init__(self) -> None:
        self._failed: dict[str, tuple[float, float]] = {}

    def __repr__(self) -> str:
        return f"<Attempts of {len(self._failed)} addresses>"

    def failed(self, address: str, now: float) -> float:
        """
        Count a failure.

        :param address: that it came from
        :param now: seconds, of a clock that is never set
        :return: seconds by which the answer is to be late
        """
        who = _network(address)
        count, since = self._failed.pop(who, (0.0, now))
        count = max(count - (now - since) * FORGIVEN, 0.0) + 1
        if len(self._failed) >= REMEMBERED:
            del self._failed[next(iter(self._failed))]
        self._failed[who] = count, now
        return min(max(count - FREE, 0.0) * EACH, LATEST)


def _network(address: str) -> str:
    """The address itself; of IPv6 the network of 64 bits that one customer has."""
    if ":" not in address:
        return address
    try:
        known = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    # One of IPv4, as a socket for both kinds has it.
    mapped = known.ipv4_mapped
    return str(ipaddress.ip_network((known, 64), strict=False) if mapped is None else mapped)
