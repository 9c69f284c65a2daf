"""`Stream` over the sans-I/O driver: the awaiting half. Frames are encoded and decoded here.

Cancelling an await loses nothing: frames stay in the driver until `receive` returns them, and a frame is written whole
in the turn in which there is room.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from quiver.errors import MalformedMessage, PeerError, StreamReset, UsageError
from quiver.ids import PeerId
from quiver.ports import ProtocolSpec
from quiver.quic.events import FrameStream
from quiver.quic.streams import StreamDriver

OnFrame = Callable[[PeerId, Any, bytes], None]
"""(peer, message, its payload): observes a frame when it is handed over."""


class PeerStream:
    """One stream to `peer_id`. `transmit_soon` asks the endpoint to send what the driver has."""

    __slots__ = ("peer_id", "_driver", "_stream", "_protocol", "_transmit_soon", "_on_frame", "_reader", "_senders")

    def __init__(
        self,
        driver: StreamDriver,
        stream: FrameStream,
        protocol: ProtocolSpec,
        *,
        transmit_soon: Callable[[], None],
        on_frame: OnFrame | None = None,
    ) -> None:
        assert driver.peer_id is not None
        self.peer_id: PeerId = driver.peer_id
        self._driver = driver
        self._stream = stream
        self._protocol = protocol
        self._transmit_soon = transmit_soon
        self._on_frame = on_frame
        self._reader: asyncio.Future[None] | None = None
        self._senders: deque[asyncio.Future[None]] = deque()
        stream.on_change = self._on_change

    @property
    def protocol_id(self) -> str:
        """What was agreed for this stream."""
        return self._protocol.id

    async def send(self, frame: Any) -> None:
        """Wait at the window, then hand the frame over. `StreamReset` after a reset, `UsageError` after `finish`."""
        data = self._protocol.encode(frame)
        while True:
            if self._stream.write_code is not None:
                raise StreamReset(self._stream.write_code, peer_id=self.peer_id)
            if self._stream.is_finished:
                raise UsageError(f"{self._protocol.id}: a frame after finish()")
            if self._driver.may_write(self._stream):
                break
            waiter = asyncio.get_running_loop().create_future()
            self._senders.append(waiter)
            await waiter
        self._driver.write(self._stream, data)
        self._transmit_soon()

    async def receive(self) -> Any | None:
        """The next frame, None at the peer's clean end, `StreamReset(code)` at a reset."""
        while True:
            data = self._driver.read(self._stream)
            if data is not None:
                break
            if self._stream.read_code is not None:
                raise StreamReset(self._stream.read_code, peer_id=self.peer_id)
            if self._stream.has_ended:
                return None
            if self._reader is not None:
                raise UsageError(f"{self._protocol.id}: two receives at once on one stream")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self._driver.has_credit_to_send(self._stream):
            self._transmit_soon()
        try:
            frame = self._protocol.decode(data)
        except MalformedMessage as error:
            self.reset(error.wire_code)
            error.peer_id = self.peer_id
            raise
        except PeerError as error:
            self.reset(error.wire_code)
            raise
        if self._on_frame is not None:
            self._on_frame(self.peer_id, frame, data)
        return frame

    def finish(self) -> None:
        """No more frames from us; idempotent."""
        self._driver.finish(self._stream)
        self._wake_senders()
        self._transmit_soon()

    def reset(self, code: int) -> None:
        """Give up both directions; idempotent."""
        self._driver.reset(self._stream, code)
        self._transmit_soon()

    def finish_and_drain(self) -> None:
        """The last frame was read: end our side, and expect nothing but the peer's end."""
        self._driver.finish(self._stream)
        self._driver.expect_silence(self._stream)
        self._transmit_soon()

    def abandon(self) -> None:
        """Finish, and read no further: the handler has returned."""
        self._driver.finish(self._stream)
        self._driver.abandon(self._stream)
        self._transmit_soon()

    def _on_change(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self._wake_senders()

    def _wake_senders(self) -> None:
        # All of them, first come first: whoever finds no room waits again, in the same order.
        waiting, self._senders = self._senders, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
