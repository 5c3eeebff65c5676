"""buswork ipc pong: an echo service, and how fast one is."""

import argparse
import time

from buswork.cli.exits import Exit
from buswork.cli.ipc_parser import MEASURED_TRIPS
from buswork.cli.ipc_reach import Reach, Served
from buswork.cli.output import InputError, Output
from buswork.client import BusworkError, Client
from buswork.client.libipc import Received
from buswork.libipc import Connection, PeerGone

# To look at the terminal takes longer than a round trip.
TRIPS_A_LOOK = 256


async def pong(client: Client, options: argparse.Namespace, out: Output) -> int:
    async with Reach(client, options) as reach:
        if options.measure:
            connection = await reach.connect(options.service)
            count = options.count or MEASURED_TRIPS
            trips = await _measure(connection, count, options.size, out)
            _tell(trips, options.size, out)
        else:
            served = await reach.serve(options.service)
            out.note(f"serving {served.name} (form {served.form})")
            await _serve(served, options.count, out)
    return Exit.OK


async def _serve(served: Served, count: int | None, out: Output) -> None:
    left = count
    async for event in served.events():
        if not isinstance(event, Received):
            continue
        try:
            await served.send(event.client, event.message.payload, event.message.user_type)
        except BusworkError as error:
            out.error(f"client {event.client}: {error}", error.name)
        left = None if left is None else left - 1
        if left == 0:
            break
    else:
        raise PeerGone(f"{served.name} was taken away")
    await served.settle()


# -- measuring ---------------------------------------------------------------------------------


async def _measure(connection: Connection, count: int, size: int, out: Output) -> list[int]:
    """How long each trip took, in nanoseconds."""
    payload, trips = bytes(size), []
    with out.progress("measuring", count) as progress:
        for number in range(count):
            started = time.perf_counter_ns()
            connection.send(payload)
            answer = await connection.receive()
            trips.append(time.perf_counter_ns() - started)
            if answer.payload != payload:
                raise InputError("what came back is not what was sent")
            if number % TRIPS_A_LOOK == 0:
                progress.update(number)
    return trips


def _tell(trips: list[int], size: int, out: Output) -> None:
    trips.sort()
    a_second = len(trips) * 1e9 / sum(trips)
    half, most = (trips[len(trips) * part // 100] / 1000 for part in (50, 99))
    if out.json:
        out.document(
            {
                "trips": len(trips), "bytes": size, "trips_a_second": round(a_second, 1),
                "median_us": half, "p99_us": most,
            }
        )  # fmt: skip
    else:
        out.prose(
            f"{len(trips)} round trips of {size} bytes: {a_second:,.0f} a second; half took at "
            f"most {half:,.0f} us, 99 of 100 at most {most:,.0f} us"
        )
