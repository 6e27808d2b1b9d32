"""The bytes: HTTP in, HTTP out. Knows leases, decides nothing about models."""
