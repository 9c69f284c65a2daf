"""Who may run: the queue in front of the engine's slots."""

from __future__ import annotations

import asyncio
from collections import deque

from quiver.provider.admission import SlotAdmission


class SlotQueue:
    """First come, first served. Bounded by what `admission` admits."""

    __slots__ = ("_admission", "_waiting", "_loop")

    def __init__(self, admission: SlotAdmission, loop: asyncio.AbstractEventLoop) -> None:
        self._admission = admission
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loop = loop

    def take(self) -> bool:
        """A slot that is free right now."""
        admission = self._admission
        if admission.running >= admission.slots or self._waiting:
            return False
        admission.running += 1
        return True

    async def wait(self) -> None:
        """A slot, in turn. Cancelling gives the turn to the next."""
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    def give_back(self, service_s: float) -> None:
        """A request that ran for `service_s` is done."""
        self._admission.on_served(service_s)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._admission.running -= 1
