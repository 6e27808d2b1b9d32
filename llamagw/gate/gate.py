"""What a request may do, by its head; and by the model that it turns out to be for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from llamagw.dialects import Scope, scope_of
from llamagw.errors import NotPermitted
from llamagw.gate.attempts import Attempts
from llamagw.gate.caller import ANYBODY, Caller
from llamagw.gate.keyring import Keyring, no_secret, secret_of
from llamagw.gate.limits import Meters

#: Where everybody is let in, by the paths: they have no secrets, and lead to where a key is given.
#: Of `/health` one without a key is told that the gateway is up, and nothing else.
_OPEN = frozenset({"/", "/health", "/v1/health", "/health/", "/v1/health/", "/ui", "/ui/"})
_OPEN_BELOW = ("/ui/", "/web/")

#: What every key may see: which models it may use. (What changes or tells more below these paths
#: has a scope of its own.)
_LISTS = ("/v1/models", "/models")

#: What every key may do, whatever its scopes: be told of itself.
_OF_A_KEY = frozenset({"/usage"})

#: One who is let in without a key.
NOBODY = Caller("", (), ())


class Gate:
    """
    Lets requests in.

    :param epoch: tells the time, in seconds since the epoch
    :ivar keyring: the keys; None if everybody may do everything
    :ivar meters: what keys use of their limits
    """

    def __init__(self, epoch: Callable[[], float] = time.time) -> None:
        self.keyring: Keyring | None = None
        self.attempts = Attempts()
        self.meters = Meters(epoch)
        self._epoch = epoch

    def __repr__(self) -> str:
        return f"<Gate: {'open' if self.keyring is None else self.keyring}>"

    def admit(self, method: bytes, path: str, headers: Mapping[bytes, Sequence[bytes]]) -> Caller:
        """
        Who sends a request, of which the head has arrived.

        :param path: decoded, without the query
        :param headers: the values of each, by names such as ``X-Api-Key``
        :raises Unauthorized: if it needs a valid key
        :raises NotPermitted: if its key may not do that
        """
        if self.keyring is None:
            return ANYBODY
        if method == b"OPTIONS":
            # A browser asks with it before it sends the key.
            return NOBODY
        secret = secret_of(headers)
        if secret is None:
            if _is_open(path):
                return NOBODY
            raise no_secret()
        caller = self.keyring.find(secret, self._epoch())
        scope = scope_of(method.decode("latin-1"), path)
        listed = scope is Scope.INFER and path.startswith(_LISTS)
        free = listed or path in _OF_A_KEY or _is_open(path)
        if scope not in caller.scopes and not free:
            lacking = scope.name.lower()
            raise NotPermitted(
                f"The API key `{caller.name}` lacks the scope `{lacking}`, for what {scope.value}."
            )
        return caller


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith(_OPEN_BELOW)
