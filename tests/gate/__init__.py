"""Promises of llamagw.gate."""
