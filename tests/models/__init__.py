"""Promises of llamagw.models."""
