"""Boards behind the real libusb, on an emulated kernel: lines, programs that are killed, many."""

from pathlib import Path

import pytest
from support import usb_kernel

CASES = Path(__file__).with_name("board_cases.py")


@pytest.mark.usb
@pytest.mark.parametrize("case", usb_kernel.cases(CASES))
def test_boards_libusb(case):
    usb_kernel.run(CASES, case)
