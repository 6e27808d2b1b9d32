"""
Clients' connections and requests: reading them, relaying them to backends, relaying the answers.

A lease from `llamagw.fleet` says which backend; connections to it come from `llamagw.net`. Other
packages import the names below, never from the modules.
"""

from llamagw.proxy.call import (
    Call,
    Reader,
    by_body,
    by_form,
    by_path,
    by_query,
    by_shaped_body,
    checked_name,
)
from llamagw.proxy.connections import Connections, Limits
from llamagw.proxy.forwarded import Forwarded
from llamagw.proxy.origins import Origins
from llamagw.proxy.relay import Relay
from llamagw.proxy.request import Request
from llamagw.proxy.rights import check_all, check_model, reason_for, sees
from llamagw.proxy.site import Site

__all__ = [
    "Call",
    "Connections",
    "Forwarded",
    "Limits",
    "Origins",
    "Reader",
    "Relay",
    "Request",
    "Site",
    "by_body",
    "by_form",
    "by_path",
    "by_query",
    "by_shaped_body",
    "check_all",
    "check_model",
    "checked_name",
    "reason_for",
    "sees",
]
