"""Frames, requests and the configuration of viewed processes: bytes and values, no I/O."""
