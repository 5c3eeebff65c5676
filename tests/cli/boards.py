"""A daemon with simulated Flipper boards, and what somebody in front of them does."""

import asyncio
import json

from client.private_bus import PrivateBus

from buswork.client import Client

SIMULATOR = ("/org/buswork/simulator/boards", "org.buswork.Simulator.Boards")
# The ports of the simulated boards; the second one is the current one.
FIRST, BENCH = "1-3", "1-4"


class Boards(PrivateBus):
    def __enter__(self):
        super().__enter__()
        self.start_daemon("--simulate")
        return self

    def flipper(self, *words, **options):
        return self.run("flipper", *words, **options)

    def ok(self, *words, **options):
        """What it printed."""
        done = self.flipper(*words, **options)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def answer(self, *words, **options):
        return json.loads(self.ok(*words, "--json", **options))

    def failure(self, *words, status=1, **options):
        done = self.flipper(*words, **options)
        assert (done.returncode, done.stdout) == (status, "")
        return done.stderr

    def simulator(self, member, signature="", *values, returns=""):
        async def ask():
            async with Client(self.address) as client:
                return await client.call(SIMULATOR, member, signature, values, returns=returns)

        return asyncio.run(ask())

    def look(self, port=BENCH):
        """How a board looks, by the words before the colons."""
        lines = self.simulator("GetBoard", "s", port, returns="as")
        return dict(line.split(": ") for line in lines)
