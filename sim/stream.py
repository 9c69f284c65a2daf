"""One stream of the message-level transport: whole frames, in order, each after the link's delay, within a window."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING, Any

from quiver.errors import StreamReset, UsageError, WireCode
from quiver.ports import ProtocolSpec

if TYPE_CHECKING:
    from sim.transport import SimTransport


class SimStream:
    """One end of a stream. The twin end is the peer's."""

    __slots__ = (
        "_node", "_peer", "protocol", "twin", "accepted", "_inbox", "_reader", "_writers", "_in_flight", "_uncredited",
        "_last_arrival", "_finished", "_ended", "_reset_code", "peer_id",
    )  # fmt: skip

    def __init__(self, node: SimTransport, peer: SimTransport, protocol: ProtocolSpec) -> None:
        self._node = node
        self._peer = peer
        self.protocol = protocol
        self.twin: SimStream = self
        self.accepted = True
        self._inbox: deque[tuple[Any, int]] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._writers: deque[asyncio.Future[None]] = deque()
        self._in_flight = 0
        self._uncredited = 0
        self._last_arrival = 0.0
        self._finished = False
        self._ended = False
        self._reset_code: int | None = None
        self.peer_id = peer.peer_id

    async def send(self, frame: Any) -> None:
        network = self._node.network
        if self._finished:
            raise UsageError("send after finish")
        message, data = network.pack(self.protocol, frame)
        size = len(data)
        window = network.params.stream_window_bytes
        # Up to half the window may be read but not yet credited, so half a window must never block: a large frame would wait for ever.
        while self._in_flight * 2 > window and self._in_flight + size > window and self._reset_code is None:
            waiter: asyncio.Future[None] = network.loop.create_future()
            self._writers.append(waiter)
            await waiter
        if self._reset_code is not None:
            raise StreamReset(self._reset_code, peer_id=self.peer_id)
        self._in_flight += size
        self._post(size, self.twin._on_frame, message, data)

    def _post(self, size: int, function: Any, *args: Any) -> None:
        """Deliver to the twin after everything that was sent before."""
        node = self._node
        network = node.network
        now = network.env._now
        delay_s = network.links.delay_s(node.index, self._peer.index, size, now)
        if delay_s == math.inf:
            # Partitioned: the connection idles out at both ends.
            when = now + network.idle_timeout_s
            network.loop.deliver_at(when, self.on_reset, WireCode.NONE)
            network.loop.deliver_at(when, self.twin.on_reset, WireCode.NONE)
            return
        arrival = now + delay_s
        if arrival < self._last_arrival:
            arrival = self._last_arrival
        self._last_arrival = arrival
        network.loop.deliver_at(arrival, function, *args)

    def _on_frame(self, message: Any, data: bytes) -> None:
        node = self._node
        if self._reset_code is not None or not node.up:
            return
        node.network.trace.frame(node.network.env._now, self._peer.index, node.index, message, data)
        if not self.accepted:
            self.accepted = True
            node.accept(self)
            if self._reset_code is not None:
                return
        self._inbox.append((message, len(data)))
        self._wake_reader()

    def _on_end(self) -> None:
        if not self.accepted:
            self.accepted = True
            self._node.accept(self)
        self._ended = True
        self._wake_reader()
        self._forget_if_done()

    def _on_credit(self, size: int) -> None:
        self._in_flight -= size
        self._wake_writers()

    def _wake_reader(self) -> None:
        reader = self._reader
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _wake_writers(self) -> None:
        while self._writers:
            waiter = self._writers.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def receive(self) -> Any | None:
        inbox = self._inbox
        while not inbox:
            if self._reset_code is not None:
                raise StreamReset(self._reset_code, peer_id=self.peer_id)
            if self._ended:
                return None
            if self._reader is not None and not self._reader.done():
                raise UsageError("two tasks read one stream")
            self._reader = self._node.network.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        message, size = inbox.popleft()
        self._uncredited += size
        # Credit goes back when half the window was read, as QUIC's MAX_STREAM_DATA does.
        if self._uncredited * 2 > self._node.network.params.stream_window_bytes and self._reset_code is None:
            credit, self._uncredited = self._uncredited, 0
            self._post(16, self.twin._on_credit, credit)
        return message

    def finish(self) -> None:
        if not self._finished:
            self._finished = True
            if self._reset_code is None:
                self._post(8, self.twin._on_end)
                self._forget_if_done()

    def reset(self, code: int) -> None:
        if self._reset_code is None and not (self._finished and self._ended):
            self._post(16, self.twin.on_reset, code)
            self.on_reset(code)

    def on_reset(self, code: int) -> None:
        if self._reset_code is not None or (self._finished and self._ended):
            return
        self._reset_code = code
        self._inbox.clear()
        self._node.streams.pop(self, None)
        self._wake_reader()
        self._wake_writers()

    def _forget_if_done(self) -> None:
        if self._finished and self._ended:
            self._node.streams.pop(self, None)
