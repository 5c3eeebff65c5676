"""Real libusb and libudev, pyusb and pyudev, on an emulated kernel."""

from pathlib import Path

import pytest
from support import usb_kernel

CASES = Path(__file__).with_name("real_cases.py")


@pytest.mark.usb
@pytest.mark.parametrize("case", usb_kernel.cases(CASES))
def test_real_libusb(case):
    usb_kernel.run(CASES, case)
