"""Tests of buswork.flipper.errors."""

import inspect

import pytest

from buswork.errors import (
    AccessDenied,
    BusworkError,
    Busy,
    InteractiveAuthorizationRequired,
    InvalidArgs,
    LimitsExceeded,
)
from buswork.flipper import errors
from buswork.flipper.wire.errors import ERRORS, BoardError, Error
from buswork.flipper.wire.exchanges import Refused
from buswork.flipper.wire.plans import BridgeError
from buswork.flipper.wire.results import Result
from buswork.flipper.wire.terms import BadAnswer, BadValue

OWN = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if each.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", OWN)
def test_each_has_its_class_as_its_name(error):
    assert issubclass(error, BusworkError)
    assert error.name == f"org.flipper.Error.{error.__name__}"


@pytest.mark.parametrize("generation", ERRORS)
def test_an_error_of_a_board_has_the_boards_name_and_number(generation):
    for number, error in enumerate(ERRORS[generation]):
        told = errors.named(BoardError(number, generation))
        assert told.name == f"org.flipper.Error.{error.camel}"
        assert f"{error.name} (error {number})" in str(told)
    told = errors.named(BoardError(200, generation))
    assert told.name == "org.flipper.Error.Unknown"
    assert "error 200" in str(told)


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (BadValue("red", "red must be 0 to 255"), InvalidArgs, InvalidArgs.name),
        (BadAnswer("3 bytes came"), BusworkError, "org.flipper.Error.BadAnswer"),
        (
            BridgeError(Result(0xFFFF, 31), "read from"),
            errors.NotResponding,
            "org.flipper.Error.NotResponding",
        ),
    ],
)
def test_other_failures_have_names(error, kind, name):
    told = errors.named(error)
    assert (type(told), told.name) == (kind, name)
    assert str(error) in str(told)


@pytest.mark.parametrize("error", [Busy("no"), errors.Claimed("flashing"), ZeroDivisionError()])
def test_what_has_a_name_or_is_our_defect_stays_what_it_is(error):
    assert errors.named(error) is error


def test_a_transfer_that_failed_says_how_far_it_came():
    error = errors.TransferFailed(BoardError(31, 1), 128, 500)
    assert error.name == "org.flipper.Error.Uart0PullTimeout"
    assert str(error).endswith("; 128 of 500 bytes had gone through")
    error = errors.TransferFailed("spi.push returned -1", 0, 5)
    assert (error.name, error.done) == ("org.flipper.Error.TransferFailed", 0)
    assert str(error) == "spi.push returned -1; 0 of 5 bytes had gone through"


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (BadValue("module", "there is no module 99"), Error.E_MODULE),
        (BadValue("red", "red must be 0 to 255"), Error.E_BOUNDARY),
        (BoardError(27, 1), Error.E_INVALID_TASK),
        (BoardError(200, 1), Error.E_FMR),
        (BridgeError(Result(0xFFFF, 31), "read from"), Error.E_TIMEOUT),
        (errors.NotResponding("silence"), Error.E_TIMEOUT),
        (errors.Disconnected("gone"), Error.E_NOT_ATTACHED),
        (errors.Claimed("flashing"), Error.E_ALREADY_ATTACHED),
        (errors.NotClaimed("claim it"), Error.E_UNIMPLEMENTED),
        (AccessDenied("you may not"), Error.E_UNIMPLEMENTED),
        (InteractiveAuthorizationRequired("nor here"), Error.E_UNIMPLEMENTED),
        (LimitsExceeded("too much"), Error.E_OVERFLOW),
        (BadAnswer("3 bytes came"), Error.E_COMMUNICATION),
        (ZeroDivisionError("what"), Error.E_COMMUNICATION),
    ],
)
def test_peers_are_told_a_boards_number(error, number):
    assert errors.refusal(error) == Refused(number, str(error))
