"""libipc in bytes: messages of both forms, names and look-ups of services, typed payloads.

Section numbers in this room are those of the protocol's description.
"""
