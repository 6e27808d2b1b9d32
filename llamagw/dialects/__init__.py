"""
The routes of the gateway, and the dialects (APIs of OpenAI and Anthropic) that they belong to.

Plain data and formats. Other packages import the names below, never from the modules.
"""

from llamagw.dialects.anthropic import ANTHROPIC
from llamagw.dialects.base import Dialect, Left
from llamagw.dialects.openai import OPENAI
from llamagw.dialects.routes import (
    ANY,
    BODIES,
    INFERENCE,
    LONGEST,
    OPERATIONS,
    OWN,
    ROUTE_OF,
    ROUTES,
    SLOTTED,
    TEXTS,
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
    "LONGEST",
    "OPENAI",
    "OPERATIONS",
    "OWN",
    "ROUTES",
    "ROUTE_OF",
    "SLOTTED",
    "TEXTS",
    "Dialect",
    "Left",
    "Own",
    "Route",
    "Scope",
    "Where",
    "dialect_of",
    "only_looks",
    "scope_of",
]
