"""All requests that there can be."""

from hypothesis import strategies as st

from buswork.flipper.wire.packets import (
    Allocate,
    Argument,
    Call,
    Event,
    Free,
    Load,
    Lookup,
    Pull,
    Push,
    Read,
    Receive,
    Send,
    Unknown,
    Write,
)
from buswork.flipper.wire.terms import Generation, Type

U8, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 32, 64))
ARGUMENTS = st.sampled_from(Type).flatmap(
    lambda code: st.builds(Argument, st.just(code), st.integers(code.lowest, code.highest))
)


def fitting(arguments):
    return sum(argument.type.width for argument in arguments) <= 50


CALLS = st.lists(ARGUMENTS, max_size=8).map(tuple).filter(fitting)
TRANSFERS = (U8, U8, U32, U64)


def requests(generation):
    if generation is Generation.G1:
        return st.one_of(
            st.builds(Call, U8, U8, U8, CALLS, st.booleans()),
            st.builds(Push, *TRANSFERS),
            st.builds(Pull, *TRANSFERS),
            st.builds(Send, U32),
            st.builds(Receive, U32, U64),
            st.builds(Load, U32),
            st.just(Event()),
            st.builds(Unknown, st.integers(8, 255), st.binary(max_size=58)),
        )
    return st.one_of(
        st.builds(Call, U8, U8, U8, CALLS, st.just(False)),
        st.builds(Lookup, st.from_regex(r"[A-Za-z0-9_]{1,15}", fullmatch=True)),
        st.builds(Allocate, U32),
        st.builds(Write, U32, U64),
        st.builds(Read, U32, U64),
        st.builds(Free, U64),
        st.builds(Unknown, st.integers(6, 255), st.binary(max_size=58)),
    )
