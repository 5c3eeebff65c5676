import itertools

import pytest

from buswork.fsct.native.identities import MAX_KEPT, Identities
from buswork.fsct.wire.uuids import device_uuid, twin_uuid
from buswork.usb.devices import UsbDevice

PORTS = ("1-1", "1-2", "2-3.1")


def device(port, serial="S"):
    return UsbDevice(port, 1, 2, 0x1209, 1, 0x0201, serial=serial)


UUID = device_uuid(0x1209, 1, "S")
PLAIN = str(UUID)
TWINS = {port: str(twin_uuid(UUID, port)) for port in PORTS}


class Machine:
    """What is plugged in: port and id."""

    def __init__(self):
        self.identities = Identities()
        self.there = {}

    def plug(self, *ports):
        for port in ports:
            self.there[port] = self.identities.id_of(device(port), self.there.values())
        return self.there

    def unplug(self, *ports):
        for port in ports:
            del self.there[port]


@pytest.fixture
def machine():
    return Machine()


def test_a_device_has_its_uuid_at_whatever_port(machine):
    for port in PORTS:
        assert machine.plug(port) == {port: PLAIN}
        machine.unplug(port)


def test_equal_ones_are_told_apart_by_their_ports(machine):
    assert machine.plug(*PORTS) == {"1-1": PLAIN, "1-2": TWINS["1-2"], "2-3.1": TWINS["2-3.1"]}


@pytest.mark.parametrize("order", list(itertools.permutations(PORTS)))
def test_each_has_again_what_it_had_in_whatever_order_they_come_back(machine, order):
    before = dict(machine.plug(*PORTS))
    machine.unplug(*PORTS)
    assert machine.plug(*order) == before


def test_also_those_that_never_met_before(machine):
    machine.plug("1-1")
    machine.unplug("1-1")
    before = dict(machine.plug("1-2", "1-1"))
    assert before == {"1-2": PLAIN, "1-1": TWINS["1-1"]}
    for order in (("1-1", "1-2"), ("1-2", "1-1")):
        machine.unplug("1-1", "1-2")
        assert machine.plug(*order) == before


def test_another_serial_is_another_device(machine):
    machine.plug("1-1")
    other = machine.identities.id_of(device("1-2", "T"), machine.there.values())
    assert other == str(device_uuid(0x1209, 1, "T"))


def test_so_many_are_kept(machine):
    machine.plug("1-1", "1-2")
    machine.unplug("1-1", "1-2")
    for number in range(MAX_KEPT - 1):
        machine.identities.id_of(device("1-3", str(number)), ())
    # The one at 1-1 is forgotten, the other one is not.
    assert machine.identities.id_of(device("1-2"), ()) == TWINS["1-2"]
    assert len(machine.identities._kept) == MAX_KEPT
