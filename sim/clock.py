"""A simulated node's clock: the environment's time, and a UTC of its own with skew and drift."""

from __future__ import annotations

import asyncio

from quiver.runtime import Deadline
from sim.loop import Environment

EPOCH_MS = 1_700_000_000_000
"UTC of virtual time zero, milliseconds since 1970."


class SimClock:
    """`utc_ms` = EPOCH_MS + offset + time x (1 + drift): nodes need not agree about it."""

    __slots__ = ("_env", "_offset_ms", "_drift")

    def __init__(self, env: Environment, *, offset_ms: float = 0.0, drift: float = 0.0) -> None:
        self._env = env
        self._offset_ms = offset_ms
        self._drift = drift

    def now(self) -> float:
        return self._env._now

    def utc_ms(self) -> int:
        return EPOCH_MS + round(self._offset_ms + self._env._now * 1000 * (1 + self._drift))

    async def sleep(self, seconds: float) -> None:
        loop = self._env.loop
        future = loop.create_future()
        if seconds <= 0:
            loop.call_soon(_wake, future)
        else:
            timer = loop.call_later(seconds, _wake, future)
            try:
                await future
            finally:
                timer.cancel()
            return
        await future

    def deadline(self, seconds: float) -> Deadline:
        return Deadline(seconds, self._env.loop)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
