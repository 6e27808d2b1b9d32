"""Promises of llamagw.web."""
