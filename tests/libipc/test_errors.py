import pytest

from buswork.errors import InvalidArgs
from buswork.libipc import errors
from buswork.libipc.wire.forms import BadMessage
from buswork.libipc.wire.lookups import BadRequest
from buswork.libipc.wire.names import BadName
from buswork.libipc.wire.typed import BadTyped


@pytest.mark.parametrize("kind", [BadMessage, BadName, BadRequest, BadTyped])
def test_what_callers_give_wrongly_has_the_bus_name_of_that(kind):
    told = errors.named(kind("why"))
    assert type(told) is InvalidArgs
    assert str(told) == "why"


@pytest.mark.parametrize("error", [errors.PeerGone("why"), RuntimeError("a defect")])
def test_all_else_stays_what_it_is(error):
    assert errors.named(error) is error


def test_each_error_has_a_name_of_its_own():
    ours = [
        each for each in vars(errors).values() if getattr(each, "__module__", "") == errors.__name__
    ]
    kinds = [each for each in ours if isinstance(each, type)]
    assert {kind.name for kind in kinds} == {f"org.libipc.Error.{kind.__name__}" for kind in kinds}
