"""Promises of llamagw.fleet."""
