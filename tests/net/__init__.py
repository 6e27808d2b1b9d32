"""Promises of llamagw.net."""
