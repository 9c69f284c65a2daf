"""Telling connected peers that what we say of ourselves has changed: one push for all changes of a second."""

from __future__ import annotations

import asyncio

from quiver.errors import QuiverError
from quiver.ids import PeerId
from quiver.live.libp2p.host import Host
from quiver.live.libp2p.identify import PUSH, TIMEOUT_S
from quiver.wire import identify as wire

# As js-libp2p.
DEBOUNCE_S = 1.0


class IdentifyPush:
    """`soon()` after every change of our addresses or protocols. The host must be started."""

    def __init__(self, host: Host, *, debounce_s: float = DEBOUNCE_S) -> None:
        self._host = host
        self._debounce_s = debounce_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}

    def soon(self) -> None:
        """Within `debounce_s` everybody who takes pushes is told."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._debounce_s, self._push)

    def _push(self) -> None:
        self._timer = None
        for peer in self._host.swarm.peers:
            told = self._host.identify.known.get(peer)
            if told is not None and wire.IDENTIFY_PUSH in told.protocols:
                task = self._loop.create_task(self._tell(peer))
                self._tasks[task] = None
                task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _tell(self, peer: PeerId) -> None:
        try:
            stream = await self._host.open(peer, PUSH, timeout_s=TIMEOUT_S)
            for message in wire.split(self._host.identify.describe(peer)):
                await stream.send(message)
            stream.finish_and_drain()
        except QuiverError:
            # It has left: the next connection begins with an identify.
            return

    async def close(self) -> None:
        """Tell nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
