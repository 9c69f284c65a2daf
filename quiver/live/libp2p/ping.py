"""Answering pings, and sending them."""

from __future__ import annotations

import os

from quiver.errors import DeadlineExceeded, PeerError, WireCode
from quiver.ids import PeerId
from quiver.ports import Clock, Stream, Transport
from quiver.wire.ping import PING, PING_BYTES

# How long a stream may be silent (go- and js-libp2p).
IDLE_S = 10.0


class PingService:
    """Serves `/ipfs/ping/1.0.0` from the moment it is made. How many streams a peer gets is among the node's limits."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        transport.serve(PING, self._serve)

    async def _serve(self, stream: Stream) -> None:
        while True:
            async with self._clock.deadline(IDLE_S):
                data = await stream.receive()
            if data is None:
                break
            await stream.send(data)
        stream.finish()

    async def ping(self, peer: PeerId, *, timeout_s: float = 10.0) -> float:
        """Round-trip time of one ping, seconds, dialling first if need be. `PeerError` for a wrong echo."""
        (rtt_s,) = await self.series(peer, 1, timeout_s=timeout_s)
        return rtt_s

    async def series(self, peer: PeerId, count: int, *, timeout_s: float = 10.0) -> list[float]:
        """Round-trip times of `count` pings on one stream, `timeout_s` for each: peers allow few streams of pings at once.

        One that gets no answer ends it: fewer times come back, and with none `DeadlineExceeded` is raised.
        """
        times_s: list[float] = []
        stream = await self._transport.open(peer, PING, timeout_s=timeout_s)
        try:
            while len(times_s) < count:
                async with self._clock.deadline(timeout_s):
                    data, began_s = os.urandom(PING_BYTES), self._clock.now()
                    await stream.send(data)
                    if await stream.receive() != data:
                        raise PeerError("the echo of a ping is not what was sent", peer_id=peer)
                    times_s.append(self._clock.now() - began_s)
        except DeadlineExceeded:
            if not times_s:
                raise
        finally:
            stream.finish()
            stream.reset(WireCode.NONE)
        return times_s
