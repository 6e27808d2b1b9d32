"""
The routes of the gateway, and the dialects (APIs of OpenAI and Anthropic) that they belong to.

Plain data and formats. Other packages import the names below, never from the modules.
"""

from llamagw.dialects.anthropic import ANTHROPIC
from llamagw.dialects.base import Dialect
from llamagw.dialects.openai import OPENAI
from llamagw.dialects.routes import (
    ANY,
    BODIES,
    INFERENCE,
    OPERATIONS,
    OWN,
    ROUTE_OF,
    ROUTES,
    SLOTTED,
    Own,
    Route,
    Scope,
    Where,
    dialect_of,
    only_looks,
    scope_of,
)

__all__ = [
    "ANTHROPIC",
    "ANY",
    "BODIES",
    "INFERENCE",
    "OPENAI",
    "OPERATIONS",
    "OWN",
    "ROUTES",
    "ROUTE_OF",
    "SLOTTED",
    "Dialect",
    "Own",
    "Route",
    "Scope",
    "Where",
    "dialect_of",
    "only_looks",
    "scope_of",
]
