"""Promises of llamagw.proxy."""
