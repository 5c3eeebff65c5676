import pytest

from buswork.doctor.findings import Severity, failure, note, ok, warning, worst


def test_from_the_least_to_the_worst():
    made = [failure("f"), ok("o"), warning("w"), note("n")]
    found = sorted((each.severity for each in made), key=lambda each: each.rank)
    assert found == list(Severity) == ["ok", "note", "warning", "failure"]


@pytest.mark.parametrize("severity", Severity)
def test_the_worst(severity):
    assert worst([Severity.OK, severity, Severity.OK]) is severity


def test_nothing_is_well():
    assert worst([]) is Severity.OK
