"""Hypothesis strategies for D-Bus signatures and values of them."""

from hypothesis import strategies as st

from buswork.bus.library import variant
from support.reference import split

BASIC = st.sampled_from("ybnqiuxtdsog")
NAMES = st.from_regex(r"[A-Za-z0-9_]{1,6}", fullmatch=True)
PATHS = st.lists(NAMES, max_size=3).map(lambda names: "/" + "/".join(names))


def strings():
    return st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def types(depth=3):
    """One complete type."""
    if not depth:
        return BASIC
    inner = types(depth - 1)
    return st.one_of(
        BASIC,
        st.just("v"),
        inner.map(lambda type_: "a" + type_),
        st.lists(inner, min_size=1, max_size=3).map(lambda members: f"({''.join(members)})"),
        st.tuples(BASIC, inner).map(lambda pair: f"a{{{pair[0]}{pair[1]}}}"),
    )


TYPES = types()


def signatures():
    return st.lists(TYPES, max_size=3).map("".join)


def _integers(bits, signed):
    low = -(1 << bits - 1) if signed else 0
    return st.integers(low, low + (1 << bits) - 1)


_VALUES = {
    "y": _integers(8, False),
    "b": st.booleans(),
    "n": _integers(16, True),
    "q": _integers(16, False),
    "i": _integers(32, True),
    "u": _integers(32, False),
    "x": _integers(64, True),
    "t": _integers(64, False),
    "d": st.floats(allow_nan=False),
    "s": strings(),
    "o": PATHS,
    "g": signatures(),
}


def values_of(type_, depth=3):
    """Values of one complete type, structs as tuples."""
    token = type_[0]
    if token in _VALUES:
        return _VALUES[token]
    if token == "v":
        signature = types(depth - 1) if depth else BASIC
        return signature.flatmap(
            lambda inner: values_of(inner, max(depth - 1, 0)).map(
                lambda value: variant(inner, value)
            )
        )
    if type_ == "ay":
        return st.binary(max_size=12)
    if token == "(":
        return st.tuples(*(values_of(member, depth) for member in split(type_[1:-1])))
    if type_[1] == "{":
        key, value = split(type_[2:-1])
        return st.dictionaries(values_of(key), values_of(value, depth), max_size=3)
    return st.lists(values_of(type_[1:], depth), max_size=3)


def values(signature):
    return st.tuples(*(values_of(type_) for type_ in split(signature)))


BODIES = signatures().flatmap(lambda signature: st.tuples(st.just(signature), values(signature)))
