"""Writes that go on during a read, by the real libusb on an emulated kernel."""

from pathlib import Path

import pytest
from support import usb_kernel

CASES = Path(__file__).with_name("write_cases.py")


@pytest.mark.usb
@pytest.mark.parametrize("case", usb_kernel.cases(CASES))
def test_writes(case):
    usb_kernel.run(CASES, case)
