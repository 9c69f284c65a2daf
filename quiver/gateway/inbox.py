"""Frames of one request, between the stream everyone shares and the one client who reads."""

from __future__ import annotations

import asyncio
from collections import deque

from quiver.errors import DeadlineExceeded, QuiverError, UsageError
from quiver.gateway.delivery import Delivery
from quiver.runtime import Alarms
from quiver.values.frames import InferenceFrame
from quiver.values.receipt import SignedReceipt


class RequestInbox:
    """Bounded. The shared reader never waits for a slow client: `put` says no instead."""

    __slots__ = ("delivery", "receipt", "request_hash", "cancelled", "ended", "_frames", "_frames_max", "_waiter", "_error",
                 "_loop", "_alarms")  # fmt: skip

    def __init__(
        self, *, frames_max: int, request_hash: bytes, loop: asyncio.AbstractEventLoop, alarms: Alarms
    ) -> None:  # fmt: skip
        self.delivery: Delivery | None = None
        self.receipt: SignedReceipt | None = None
        "The newest one accepted. It is no frame to wait for: the client is told of it with the end."
        self.request_hash = request_hash
        self.cancelled = False
        "We sent Cancel: frames still count for the receipt, but nobody reads them."
        self.ended = False
        self._frames: deque[InferenceFrame] = deque()
        self._frames_max = frames_max
        self._waiter: asyncio.Future[None] | None = None
        self._error: QuiverError | None = None
        self._loop = loop
        self._alarms = alarms

    def put(self, frame: InferenceFrame) -> bool:
        """Keep a frame for the reader; False if it is too far behind. The last frame of a request always has a place."""
        if self.cancelled:
            return True
        if len(self._frames) >= self._frames_max and not self.ended:
            return False
        self._frames.append(frame)
        self._wake()
        return True

    def fail(self, error: QuiverError) -> None:
        """After the frames that are here, `get` raises `error`."""
        if self._error is None and not self.ended:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> InferenceFrame | None:
        """A frame that is here already, or None."""
        return self._frames.popleft() if self._frames else None

    async def get(self, timeout_s: float) -> InferenceFrame:
        """The next frame; `DeadlineExceeded` if it takes longer. Cancelling loses none."""
        while not self._frames:
            if self._error is not None:
                raise self._error
            if self._waiter is not None:
                raise UsageError("two tasks read one request")
            self._waiter = self._loop.create_future()
            self._alarms.set(self, timeout_s)
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._frames.popleft()

    def on_alarm(self) -> None:
        """The provider's time is over."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(DeadlineExceeded("the provider did not answer in time"))

    def close(self) -> None:
        """Nobody reads any more."""
        self._alarms.cancel(self)
