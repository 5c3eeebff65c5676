import re
from itertools import pairwise

import pytest

from buswork.flipper.wire.errors import ERRORS, BoardError, Error, error_of, number_of


def words(text):
    return text.split()


# As the two headers have them, but for "E_RESOULTION".
G1 = words("""
    E_OK E_MALLOC E_NULL E_OVERFLOW E_NO_DEVICE E_NOT_ATTACHED E_ALREADY_ATTACHED E_FS_EXISTS
    E_FS_NO_FILE E_FMR_OVERFLOW E_FMR E_ENDPOINT E_LIBUSB E_COMMUNICATION E_SOCKET E_MODULE
    E_RESOLUTION E_STRING E_CHECKSUM E_NAME E_CONFIGURATION E_ACK E_TYPE E_BOUNDARY E_TIMER
    E_TIMEOUT E_NO_PID E_INVALID_TASK E_SUBCLASS E_UNIMPLEMENTED E_UART0_PUSH_TIMEOUT
    E_UART0_PULL_TIMEOUT
""")
G2 = words("""
    E_OK E_MALLOC E_NULL E_OVERFLOW E_UNDERFLOW E_NO_DEVICE E_NOT_ATTACHED E_ALREADY_ATTACHED
    E_FS_EXISTS E_FS_NO_FILE E_FMR_OVERFLOW E_FMR E_ENDPOINT E_LIBUSB E_COMMUNICATION E_SOCKET
    E_MODULE E_RESOLUTION E_STRING E_CHECKSUM E_NAME E_CONFIGURATION E_ACK E_TYPE E_BOUNDARY
    E_TIMER E_TIMEOUT E_NO_PID E_INVALID_TASK E_SUBCLASS E_UNIMPLEMENTED E_TEST E_USB
    E_UART0_WRITE_TIMEOUT E_UART0_READ_TIMEOUT
""")


def test_each_generation_has_its_numbers():
    assert [error.name for error in ERRORS[1]] == G1
    assert [error.name for error in ERRORS[2]] == G2
    for generation in (1, 2):
        for number, error in enumerate(ERRORS[generation]):
            assert error_of(number, generation) is error
            assert number_of(error, generation) == number


@pytest.mark.parametrize("number", [-1, 32, 200, 255])
def test_numbers_that_nobody_knows_have_no_name(number):
    assert error_of(number, 1) is None
    error = BoardError(number, 1)
    assert (error.name, error.camel, error.error) == (f"E_{number}", "Unknown", None)
    assert str(number) in str(error)


def test_a_name_of_the_other_generation_becomes_the_general_one():
    assert number_of(Error.E_UNDERFLOW, 1) == number_of(Error.E_FMR, 1) == 10
    assert number_of(Error.E_UART0_PULL_TIMEOUT, 2) == number_of(Error.E_FMR, 2) == 11


def test_names_make_names_for_d_bus():
    assert Error.E_NO_PID.camel == "NoPid"
    assert Error.E_UART0_PULL_TIMEOUT.camel == "Uart0PullTimeout"
    names = sorted(error.camel for error in Error)
    assert all(re.fullmatch("[A-Z][A-Za-z0-9]*", name) for name in names)
    assert all(one != other for one, other in pairwise(names))


def test_an_error_says_what_happened():
    error = BoardError(26, 1, 0xFFFFFFFF)
    assert str(error) == "the board says E_NO_PID (error 26): no task has this pid"
    assert (error.number, error.name, error.camel) == (26, "E_NO_PID", "NoPid")
    assert (error.error, error.value) == (Error.E_NO_PID, 0xFFFFFFFF)
    assert BoardError(26, 2).error is Error.E_TIMEOUT
