"""
What is asked for in which words: the table of routes, and the APIs that they belong to.

Knows nothing of who asks and of what runs. Import its names from here.
"""

from llamagw.dialects.anthropic import ANTHROPIC
from llamagw.dialects.base import Dialect
from llamagw.dialects.openai import OPENAI
from llamagw.dialects.routes import (
    ANY,
    INFERENCE,
    OWN,
    ROUTES,
    Own,
    Route,
    Scope,
    Where,
    dialect_of,
    scope_of,
)

__all__ = [
    "ANTHROPIC",
    "ANY",
    "INFERENCE",
    "OPENAI",
    "OWN",
    "ROUTES",
    "Dialect",
    "Own",
    "Route",
    "Scope",
    "Where",
    "dialect_of",
    "scope_of",
]
