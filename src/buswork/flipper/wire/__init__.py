"""FMR in bytes: packets and results of both generations, what boards have, and what callers say.

Section numbers in this room are those of the protocol's description.
"""
