"""
Sessions of the dashboard: a browser's cookie in the place of a key.

A session is bound to the digest of its key, which is looked up again for each request: what the key
may not do any more, its session may not either. Of a session's token only the hash is held, in
memory: a restart ends all sessions. From which pages a cookie counts is decided by who asks
(`llamagw.proxy`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence

#: The cookie's name.
COOKIE = b"llamagw_session"

#: Seconds after its last use, and after it was begun, that a session ends.
IDLE_SEC, LONGEST_SEC = 12 * 3600.0, 7 * 24 * 3600.0

#: How many sessions there may be, and how many of one key; the one unused for longest goes.
MOST, MOST_OF_A_KEY = 1000, 50

#: What a token looks like: 256 random bits in base64url.
_TOKEN = re.compile(rb"[A-Za-z0-9_-]{43}")


class Session:
    """
    One session.

    :param digest: of the key that it was begun with
    :param now: when that was, in seconds
    :ivar csrf: what a request that changes something has to send along: a page of another origin
        can send the cookie, at most, but not read this
    """

    __slots__ = ("begun", "csrf", "digest", "used")

    def __init__(self, digest: str, now: float) -> None:
        self.digest = digest
        self.begun = self.used = now
        self.csrf = secrets.token_urlsafe(32)

    def __repr__(self) -> str:
        return f"<Session begun at {self.begun:.0f}, used at {self.used:.0f}>"

    def is_proved_by(self, sent: Sequence[bytes]) -> bool:
        """Whether the values of a request's header ``X-CSRF-Token`` are this session's one."""
        return len(sent) == 1 and hmac.compare_digest(sent[0], self.csrf.encode())


class Sessions:
    """All sessions, by the hashes of their tokens, the one unused for longest first."""

    def __init__(self) -> None:
        self._open: dict[bytes, Session] = {}

    def __repr__(self) -> str:
        return f"<Sessions: {len(self)}>"

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, digest: str, now: float) -> tuple[bytes, Session]:
        """
        Begin a session; one too many ends another one.

        :param digest: of its key
        :param now: seconds, of a clock that is never set
        :return: its token, and the session
        """
        same = [name for name, one in self._open.items() if one.digest == digest]
        if len(same) >= MOST_OF_A_KEY:
            del self._open[same[0]]
        elif len(self._open) >= MOST:
            del self._open[next(iter(self._open))]
        token = secrets.token_urlsafe(32).encode()
        session = self._open[_name(token)] = Session(digest, now)
        return token, session

    def find(self, token: bytes, now: float) -> Session | None:
        """
        The session of a token, which is used by that.

        :param now: as for `begin`
        :return: None if there is none, or none any more
        """
        name = _name(token)
        session = self._open.pop(name, None)
        if session is None:
            return None
        if now - session.used >= IDLE_SEC or now - session.begun >= LONGEST_SEC:
            return None
        session.used = now
        self._open[name] = session
        return session

    def end(self, token: bytes) -> None:
        """End a session, if there is one of this token."""
        self._open.pop(_name(token), None)


def token_of(headers: Mapping[bytes, Sequence[bytes]]) -> bytes | None:
    """
    The token in a request's cookies.

    :param headers: the values of each, by names such as ``X-Api-Key``
    :return: None without one; with several too, since another server of the host may have set one
        of them
    """
    found = set()
    for value in headers.get(b"Cookie", ()):
        for pair in value.split(b";"):
            name, _, token = pair.partition(b"=")
            if name.strip() == COOKIE:
                found.add(token.strip())
    if len(found) != 1:
        return None
    [token] = found
    return token if _TOKEN.fullmatch(token) else None


def _name(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
