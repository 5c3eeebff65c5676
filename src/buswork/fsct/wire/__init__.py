"""FSCT in bytes: descriptors and requests of devices, and what clients say on the socket."""
