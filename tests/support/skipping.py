"""Time that passes at once wherever nothing else happens.

Deadlines are as long as they are for users, nobody waits for them, and a busy machine misses none.
"""

import asyncio


def skip_waiting():
    """From now on, in the loop that runs; it must have no other threads to wait for."""
    loop = asyncio.get_running_loop()
    select = loop._selector.select
    now = loop.time()

    def skipping(timeout=None):
        nonlocal now
        found = select(timeout and 0)
        if not found and timeout:
            now += timeout
        return found

    loop._selector.select = skipping
    loop.time = lambda: now
