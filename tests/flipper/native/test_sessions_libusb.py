"""The sessions of boards behind the real libusb, on an emulated kernel."""

from pathlib import Path

import pytest
from support import usb_kernel

CASES = Path(__file__).with_name("session_cases.py")


@pytest.mark.usb
@pytest.mark.parametrize("case", usb_kernel.cases(CASES))
def test_sessions_libusb(case):
    usb_kernel.run(CASES, case)
