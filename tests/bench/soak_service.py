"""A service whose caches are small: python soak_service.py daemon|appview|doors [ITS OPTIONS]

What is kept up to a limit fills for half an hour, and garbage waits as long before it is looked
for: that would pass for growth. And simulated devices keep their last 10,000 transfers, for tests.
None of them imports what is another's.
"""

import sys
from collections.abc import Sequence

FEW = 100
CHANGES = ["--limit", "store.history_changes=1000"]


def daemon(options: Sequence[str]) -> int:
    from buswork import daemon
    from buswork.sim import carbon, device

    carbon.MAX_CALLS = device.MAX_RECORDED = FEW  # type: ignore[attr-defined]
    keep_few()
    return daemon.main([*options, *CHANGES])


def appview(options: Sequence[str]) -> int:
    from buswork import appviewd

    keep_few()
    return appviewd.main(options)


def keep_few() -> None:
    from buswork import authority, service
    from buswork.bus import caller, dispatch

    dispatch.MAX_KNOWN_HEADERS = dispatch.MAX_ACCOUNTS = FEW
    authority.MAX_KEPT = caller.MAX_KNOWN = FEW
    service.GARBAGE_LOOKS = 1


def doors(options: Sequence[str]) -> int:
    from buswork import doors
    from buswork.sim import fvm

    fvm.MAX_CALLS = FEW  # type: ignore[attr-defined]
    return doors.main(options)


STARTS = {"daemon": daemon, "appview": appview, "doors": doors}

if __name__ == "__main__":
    _, name, *options = sys.argv
    sys.exit(STARTS[name](options))
