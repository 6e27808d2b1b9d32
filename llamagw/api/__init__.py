"""
The gateway's HTTP interface: what is at which path, and the gateway's own answers.

Requests for a model are handed to the proxy. Import its names from here.
"""

from llamagw.api.tree import Api

__all__ = ["Api"]
