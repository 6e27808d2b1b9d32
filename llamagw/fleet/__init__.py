"""The models and their processes. One door: `Manager` hands out `Lease`\\ s; no HTTP in here."""
