from uuid import UUID, uuid5

import pytest
from fsct.wire.vectors import vectors

from buswork.fsct.wire.uuids import device_uuid, twin_uuid


@pytest.mark.parametrize("vector", vectors("device_uuid"), ids=lambda v: v["uuid"])
def test_devices_are_named_as_by_the_original(vector):
    uuid = device_uuid(vector["vid"], vector["pid"], vector["serial"])
    assert uuid == UUID(vector["uuid"])


def test_twins_are_told_apart_by_their_ports():
    uuid = device_uuid(0x16C0, 0x0483, "")
    twins = {uuid, twin_uuid(uuid, "1-2"), twin_uuid(uuid, "1-2.3"), twin_uuid(uuid, "2-2")}
    assert len(twins) == 4
    assert twin_uuid(uuid, "1-2") == uuid5(uuid, "1-2")


def test_a_serial_with_half_a_character_is_one_too():
    assert device_uuid(1, 2, "A\ud800") == device_uuid(1, 2, "A?")
