import pytest

from buswork.flipper.wire.terms import LIMITS, Processor, Type, shown


def test_types_have_the_codes_and_widths_of_the_wire():
    assert {code.name: (int(code), code.width) for code in Type} == {
        "UINT8": (0, 1), "INT8": (8, 1), "UINT16": (1, 2), "INT16": (9, 2), "VOID": (2, 8),
        "UINT32": (3, 4), "INT32": (11, 4), "INT": (4, 8), "PTR": (6, 8), "UINT64": (7, 8),
        "INT64": (15, 8),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "lowest", "highest"),
    [
        (Type.UINT8, 0, 255),
        (Type.INT8, -128, 127),
        (Type.UINT16, 0, 65535),
        (Type.INT32, -(2**31), 2**31 - 1),
        (Type.UINT32, 0, 2**32 - 1),
        (Type.INT, -(2**63), 2**63 - 1),
        (Type.PTR, 0, 2**64 - 1),
        (Type.INT64, -(2**63), 2**63 - 1),
    ],
)
def test_types_have_the_ranges_of_their_widths(code, lowest, highest):
    assert (code.lowest, code.highest) == (lowest, highest)
    assert code.signed == (lowest < 0)


def test_limits_are_those_that_were_measured():
    def codes(types):
        return sorted(map(int, types))

    u2, s4, fvm = (LIMITS[processor] for processor in Processor)
    assert codes(u2.arguments) == [0, 1, 3, 4, 6, 8, 9, 11]
    assert codes(s4.arguments) == [0, 1, 3, 4, 6]
    assert codes(fvm.arguments) == [0, 1, 3, 4, 6, 7, 8, 9, 11, 15]
    assert codes(u2.returns) == [0, 1, 2, 3, 4, 6, 8, 9, 11]
    assert codes(s4.returns) == [0, 1, 2, 3, 4, 6, 7]
    assert codes(fvm.returns) == sorted(map(int, Type))
    assert (u2.transfer_bytes, u2.int_bits, s4.int_bits) == (128, 16, 32)
    assert [limits.memory_classes for limits in (u2, s4, fvm)] == [False, True, False]
    assert [limits.user_modules for limits in (u2, s4, fvm)] == [0, 4, 256]
    # Calls of user modules return 0 on the 4S, whatever the function did.
    assert [limits.user_values for limits in (u2, s4, fvm)] == [False, False, True]


def test_words_of_callers_are_shortened_and_made_text():
    assert shown("x" * 100) == "x" * 64
    assert shown("a\udc80") == "a?"
