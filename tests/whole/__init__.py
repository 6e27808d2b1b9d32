"""Whole runs: twistd as a user starts it, the real engine, a real small model."""
