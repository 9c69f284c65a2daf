"""Real time: the only `Clock` that reads one."""

from __future__ import annotations

import asyncio
import time

from quiver.runtime import Deadline


class LiveClock:
    """`now` is the system's monotonic clock, which is also the event loop's; `utc_ms` is the wall clock."""

    __slots__ = ()

    def now(self) -> float:
        """Seconds, monotonic."""
        return time.monotonic()

    def utc_ms(self) -> int:
        """Milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    async def sleep(self, seconds: float) -> None:
        """Return `seconds` later; 0 yields once."""
        await asyncio.sleep(max(0.0, seconds))

    def deadline(self, seconds: float) -> Deadline:
        """`async with`: the body raises `DeadlineExceeded` when it takes longer."""
        return Deadline(seconds)
