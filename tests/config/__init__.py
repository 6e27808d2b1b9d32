"""Promises of llamagw.config."""
