"""Fuzzing that coverage guides: python guided.py TARGET FOLDER ... [LIBFUZZER'S OPTIONS]

Needs atheris (requirements-fuzz.txt). What is in the first folder is altered, and what reaches
something new is kept there. Ends with a status other than 0, and the bytes, where a contract of
fsct_contracts.py or libipc_contracts.py does not hold.
"""

import sys
from random import Random

import atheris

with atheris.instrument_imports(include=["buswork.fsct.wire", "buswork.libipc.wire"]):
    from fuzz import fsct_contracts as contracts
    from fuzz import libipc_contracts as libipc


def descriptors(data: bytes) -> None:
    contracts.read_bos(data)
    contracts.read_set(data)
    contracts.read_answers(data)


def msgpackrpc(data: bytes) -> None:
    contracts.serve_messagepack(data, Random(data))


def jsonrpc(data: bytes) -> None:
    contracts.serve_json(data, Random(data))


def streams(data: bytes) -> None:
    """Of both forms, whole and cut somewhere."""
    at = Random(data).randrange(len(data) + 1)
    for form in libipc.Form:
        libipc.read_stream(form, [data])
        libipc.read_stream(form, [data[:at], data[at:]], 600)


def lookups(data: bytes) -> None:
    libipc.read_request(data)
    libipc.read_name(data)


def typed(data: bytes) -> None:
    for codec in libipc.REGISTRIES:
        libipc.read_typed(codec, data)


TARGETS = {
    target.__name__: target
    for target in (descriptors, msgpackrpc, jsonrpc, streams, lookups, typed)
}


if __name__ == "__main__":
    program, name, *rest = sys.argv
    atheris.Setup([program, *rest], TARGETS[name])
    atheris.Fuzz()
