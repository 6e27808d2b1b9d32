"""Promises of llamagw.api."""
