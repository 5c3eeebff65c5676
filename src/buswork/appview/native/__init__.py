"""Queues, namespaces and /proc: what the wing of viewed processes touches of the machine."""
