"""
The bytes of clients: what they ask, who is to answer it, and the answer on its way back.

It knows leases, and schedules nothing; it carries requests to backends over `llamagw.net`. Import
its names from here; its files are its own.
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
from llamagw.proxy.origins import Origins
from llamagw.proxy.relay import Relay
from llamagw.proxy.request import Request
from llamagw.proxy.site import Site

__all__ = [
    "Call",
    "Connections",
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
    "checked_name",
]
