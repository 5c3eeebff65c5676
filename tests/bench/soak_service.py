"""A service whose caches are small: python soak_service.py daemon|appview [ITS OPTIONS]

What is kept up to a limit fills for half an hour, and garbage waits as long before it is looked
for: that would pass for growth. And simulated devices keep their last 10,000 transfers, for tests.
"""

import sys

from buswork import authority, service
from buswork.bus import caller, dispatch
from buswork.sim import carbon, device

FEW = 100
CHANGES = ["--limit", "store.history_changes=1000"]


def main() -> int:
    carbon.MAX_CALLS = device.MAX_RECORDED = FEW  # type: ignore[misc]
    dispatch.MAX_KNOWN_HEADERS = dispatch.MAX_ACCOUNTS = FEW
    authority.MAX_KEPT = caller.MAX_KNOWN = FEW
    service.GARBAGE_LOOKS = 1
    _, name, *options = sys.argv
    if name == "appview":  # neither imports what is the other's
        from buswork import appviewd

        return appviewd.main(options)
    from buswork import daemon

    return daemon.main([*options, *CHANGES])


if __name__ == "__main__":
    sys.exit(main())
