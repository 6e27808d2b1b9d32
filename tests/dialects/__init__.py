"""Promises of llamagw.dialects."""
