"""Two attempts at one request, until one of them answers.

Rules of this file: it awaits; when a second attempt begins, and at whom, is its caller's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quiver.errors import DeadlineExceeded, PeerError, Unavailable
from quiver.gateway.attempt import Attempt
from quiver.ports import Clock
from quiver.runtime import Nursery
from quiver.values.request import Final, TokenChunk

Failed = Unavailable | PeerError
Arrival = tuple[Attempt, TokenChunk | Final | Failed]


async def decide(
    clock: Clock, first: Attempt, *, delay_s: float, begin_second: Callable[[], Attempt | None],
    on_failed: Callable[[Attempt, Failed], None],
) -> Arrival:  # fmt: skip
    """Who answered first, and with what; an error only when nobody is left who could. `on_failed` hears of one who left the other alone.

    After `delay_s` of silence `begin_second` is asked for another attempt. Who answers in the same moment as another comes
    in the order of the frames' arrival.
    """
    arrived: asyncio.Queue[Arrival] = asyncio.Queue()

    async def listen(attempt: Attempt) -> None:
        try:
            arrived.put_nowait((attempt, await attempt.next()))
        except (Unavailable, PeerError) as error:
            arrived.put_nowait((attempt, error))

    async with Nursery() as nursery:
        nursery.start(listen(first))
        running = 1
        try:
            async with clock.deadline(delay_s):
                arrival = await arrived.get()
        except DeadlineExceeded:
            second = begin_second() if arrived.empty() else None
            if second is not None:
                nursery.start(listen(second))
                running += 1
            arrival = await arrived.get()
        attempt, result = arrival
        while running > 1 and isinstance(result, (Unavailable, PeerError)):
            on_failed(attempt, result)
            running -= 1
            attempt, result = await arrived.get()
        nursery.cancel()
    return attempt, result
