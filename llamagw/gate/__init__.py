"""
The door: who may send a request, and for which models.

Asked when a request's head is complete, before its body is read, and once more when its model is
known. Keys come from `llamagw.config`; requests are answered by `llamagw.proxy` and `llamagw.api`.
"""

from llamagw.gate.attempts import Attempts
from llamagw.gate.audit import Audit
from llamagw.gate.caller import ANYBODY, Caller
from llamagw.gate.gate import Gate
from llamagw.gate.keyring import CREDENTIALS, Keyring, no_secret, read_keyring
from llamagw.gate.limits import DAY, Meter, Ticket
from llamagw.gate.secret import digest_of, looks_whole, new_secret
from llamagw.gate.sessions import COOKIE, LONGEST_SEC, Session, token_of
from llamagw.gate.spent import BYTES_A_TOKEN, spent
from llamagw.gate.tally import Tally
from llamagw.gate.usagefile import KEPT_DAYS, UsageFile
from llamagw.gate.watch import Watch

__all__ = [
    "ANYBODY",
    "BYTES_A_TOKEN",
    "COOKIE",
    "CREDENTIALS",
    "DAY",
    "KEPT_DAYS",
    "LONGEST_SEC",
    "Attempts",
    "Audit",
    "Caller",
    "Gate",
    "Keyring",
    "Meter",
    "Session",
    "Tally",
    "Ticket",
    "UsageFile",
    "Watch",
    "digest_of",
    "looks_whole",
    "new_secret",
    "no_secret",
    "read_keyring",
    "spent",
    "token_of",
]
