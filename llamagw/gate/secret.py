"""
The secret of a key: what its holder sends.

``lgw_``, 43 characters of base64url for 256 random bits, and 6 for their CRC-32: the prefix lets
programs find a secret that was published by mistake, and the sum tells them, and the gateway, a
mistyped one from a stranger's. Only its SHA-256 is kept: against that many random bits nothing
slower would be of use.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import zlib

PREFIX = "lgw_"

#: What a secret looks like.
_SHAPE = re.compile(rb"lgw_([A-Za-z0-9_-]{43})([A-Za-z0-9_-]{6})")


def new_secret() -> str:
    """A new secret, of 256 random bits."""
    random = secrets.token_urlsafe(32)
    return f"{PREFIX}{random}{_sum(random.encode()).decode()}"


def digest_of(secret: bytes) -> str:
    """
    What is kept of a secret.

    :param secret: as its holder sends it
    :return: as the configuration has it: ``sha256:`` and 64 digits
    """
    return f"sha256:{hashlib.sha256(secret).hexdigest()}"


def looks_whole(secret: bytes) -> bool:
    """
    Whether a text is a secret of a gateway, unless somebody has made the sum of it.

    :param secret: as it was sent
    """
    found = _SHAPE.fullmatch(secret)
    return found is not None and _sum(found[1]) == found[2]


def _sum(random: bytes) -> bytes:
    return base64.urlsafe_b64encode(zlib.crc32(random).to_bytes(4, "big")).rstrip(b"=")
