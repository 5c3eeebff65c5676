import pytest
from doctor.patients import FakePatient


@pytest.fixture
def patient(tmp_path):
    return FakePatient(tmp_path)
