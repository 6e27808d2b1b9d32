"""Promises of llamagw.launch."""
