"""Fuzzing that coverage guides: python guided.py TARGET FOLDER ... [LIBFUZZER'S OPTIONS]

Needs atheris (requirements-fuzz.txt). What is in the first folder is altered, and what reaches
something new is kept there. Ends with a status other than 0, and the bytes, where a contract of
fsct_contracts.py does not hold.
"""

import sys
from random import Random

import atheris

with atheris.instrument_imports(include=["buswork.fsct.wire"]):
    from fuzz import fsct_contracts as contracts


def descriptors(data: bytes) -> None:
    contracts.read_bos(data)
    contracts.read_set(data)
    contracts.read_answers(data)


def msgpackrpc(data: bytes) -> None:
    contracts.serve_messagepack(data, Random(data))


def jsonrpc(data: bytes) -> None:
    contracts.serve_json(data, Random(data))


TARGETS = {target.__name__: target for target in (descriptors, msgpackrpc, jsonrpc)}


if __name__ == "__main__":
    program, name, *rest = sys.argv
    atheris.Setup([program, *rest], TARGETS[name])
    atheris.Fuzz()
