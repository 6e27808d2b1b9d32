"""Promises of llamagw.cli."""
