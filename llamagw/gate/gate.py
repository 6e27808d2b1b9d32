"""What a request may do, by its head; and by the model that it turns out to be for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from llamagw.dialects import Scope, scope_of
from llamagw.errors import NotAllowed, NotPermitted, Unauthorized
from llamagw.gate.attempts import Attempts
from llamagw.gate.caller import ANYBODY, Caller
from llamagw.gate.keyring import Keyring, no_secret, secret_of
from llamagw.gate.limits import Meters
from llamagw.gate.secret import digest_of
from llamagw.gate.sessions import Session, Sessions, token_of

#: Where everybody is let in, by the paths: they have no secrets, and lead to where a key is given.
#: Of `/health` one without a key is told that the gateway is up, and nothing else.
_OPEN = frozenset({"/", "/health", "/v1/health", "/health/", "/v1/health/", "/ui", "/ui/"})
_OPEN_BELOW = ("/ui/", "/web/")

#: What every key may see: which models it may use. (What changes or tells more below these paths
#: has a scope of its own.)
_LISTS = ("/v1/models", "/models")

#: What every key may do, whatever its scopes: be told of itself. These are not open below ``/ui/``.
_OF_A_KEY = frozenset({"/ui/session", "/ui/logout", "/usage"})

#: What is said to a browser whose cookie is of no session, and to one that wants an engine's page.
_ENDED = "This session has ended: log in again."
_NO_ENGINE = (
    "A session of the dashboard does not open an engine's own pages, whose scripts could do here "
    "what its key may do. Send the key itself."
)

#: One who is let in without a key.
NOBODY = Caller("", (), ())


class Gate:
    """
    Lets requests in.

    :param epoch: tells the time, in seconds since the epoch
    :param clock: tells seconds, and is never set
    :ivar keyring: the keys; None if everybody may do everything
    :ivar sessions: of browsers, bound to keys
    :ivar meters: what keys use of their limits
    """

    def __init__(
        self,
        epoch: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keyring: Keyring | None = None
        self.attempts = Attempts()
        self.sessions = Sessions()
        self.meters = Meters(epoch)
        self._epoch = epoch
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Gate: {'open' if self.keyring is None else self.keyring}>"

    def admit(
        self,
        method: bytes,
        path: str,
        headers: Mapping[bytes, Sequence[bytes]],
        accept: Callable[[Session], object] | None = None,
        certified: Callable[[], Iterable[str]] = tuple,
    ) -> Caller:
        """
        Who sends a request, of which the head has arrived.

        :param path: decoded, without the query
        :param accept: called with the session of its cookie, if it has no key; raises `NotAllowed`
            if a cookie does not count there. None: no cookie counts
        :param certified: gives the names in the client's certificate, if it has no key; raises
            `NotAllowed` if that does not count there
        :param headers: the values of each, by names such as ``X-Api-Key``
        :raises Unauthorized: if it needs a valid key
        :raises NotPermitted: if its key may not do that
        :raises NotAllowed: from ``accept`` and ``certified``
        """
        if self.keyring is None:
            return ANYBODY
        if method == b"OPTIONS":
            # A browser asks with it before it sends the key.
            return NOBODY
        secret = secret_of(headers)
        if secret is not None:
            caller = self.keyring.find(secret, self._epoch())
        else:
            caller = self.keyring.certified(certified, self._epoch()) or NOBODY
            if caller is NOBODY and accept is not None and b"Cookie" in headers:
                caller = self._by_cookie(path, headers, accept)
            if caller is NOBODY:
                if _is_open(path):
                    return NOBODY
                raise no_secret()
        scope = scope_of(method.decode("latin-1"), path)
        if scope in caller.scopes:
            return caller
        listed = scope is Scope.INFER and path.startswith(_LISTS)
        if listed or path in _OF_A_KEY or _is_open(path):
            return caller
        lacking = scope.name.lower()
        raise NotPermitted(
            f"The API key `{caller.name}` lacks the scope `{lacking}`, for what {scope.value}.",
            key=caller.name,
        )

    def knows(self, caller: Caller) -> bool:
        """Whether a caller's key is still valid; one without a key is known."""
        if self.keyring is None or not caller.name:
            return True
        return self.keyring.knows(caller.name, self._epoch())

    def log_in(self, secret: bytes) -> bytes:
        """
        Begin a session.

        :param secret: the key, as it was sent
        :return: the session's token
        :raises Unauthorized: if the key is not valid
        """
        assert self.keyring is not None, "nobody logs in where there are no keys"
        self.keyring.find(secret, self._epoch())
        token, _ = self.sessions.begin(digest_of(secret), self._clock())
        return token

    def _by_cookie(
        self,
        path: str,
        headers: Mapping[bytes, Sequence[bytes]],
        accept: Callable[[Session], object],
    ) -> Caller:
        """
        Who has the session of a request's cookie; `NOBODY` where that has to do for one in vain.

        :raises Unauthorized: if the session, or its key, is not valid any more
        :raises NotAllowed: from ``accept``
        :raises NotPermitted: where no session counts
        """
        token = token_of(headers)
        if token is None:
            return NOBODY
        try:
            caller = self._holder(token, accept)
        except (Unauthorized, NotAllowed):
            if _is_open(path):
                return NOBODY
            raise
        if path.startswith("/upstream/"):
            raise NotPermitted(_NO_ENGINE)
        return caller

    def _holder(self, token: bytes, accept: Callable[[Session], object]) -> Caller:
        assert self.keyring is not None, "else nobody is asked"
        session = self.sessions.find(token, self._clock())
        if session is None:
            raise Unauthorized(_ENDED)
        caller = None
        try:
            caller = self.keyring.holder(session.digest, self._epoch())
        finally:
            if caller is None:
                self.sessions.end(token)
        if caller is None:
            raise Unauthorized(f"The API key of this session is not valid any more. {_ENDED}")
        accept(session)
        return caller


def _is_open(path: str) -> bool:
    return path in _OPEN or (path.startswith(_OPEN_BELOW) and path not in _OF_A_KEY)
