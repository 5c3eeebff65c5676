"""Simulated hardware, for demonstrations and tests; only `--simulate` brings it into the daemon."""
