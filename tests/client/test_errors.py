import pytest

from buswork import errors
from buswork.client.errors import NotRunning, RevisionGone, typed
from buswork.store.model import history


@pytest.mark.parametrize("class_", [errors.AccessDenied, errors.Busy, errors.TimedOut])
def test_a_name_becomes_its_class(class_):
    error = typed(errors.BusworkError("why", class_.name))
    assert type(error) is class_
    assert str(error) == "why"


def test_an_unknown_name_is_kept():
    error = typed(errors.BusworkError("why", "com.example.Odd"))
    assert type(error) is errors.BusworkError
    assert error.name == "com.example.Odd"


@pytest.mark.parametrize(
    "name",
    [
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.Spawn.ChildExited",
        "org.freedesktop.systemd1.UnitMasked",
    ],
)
def test_a_service_that_does_not_start_is_not_running(name):
    error = typed(errors.BusworkError("why", name))
    assert type(error) is NotRunning
    assert error.name == name


def test_revision_gone_has_the_name_that_the_store_gives_it():
    assert RevisionGone.name == history.RevisionGone.name
