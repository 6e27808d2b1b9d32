"""llamagw: one OpenAI-compatible endpoint in front of many local llama-server models."""

__version__ = "0.1.0"
