"""One connection: its driver, its timer, its routes, and whether it is ready; whatever carries it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from quiver.ids import PeerId
from quiver.ports import Clock
from quiver.quic.events import (
    Changed,
    Closed,
    Connected,
    FrameStream,
    NetworkAddress,
    Opened,
    RouteAdded,
    RouteRemoved,
    Terminated,
)
from quiver.quic.streams import StreamDriver

# aioquic may ask for a timer that is already due. In virtual time that would stop the clock: move it by a microsecond.
TIMER_STEP_S = 1e-6


class LinkOwner(Protocol):
    """What a link tells the endpoint it belongs to."""

    def on_connected(self, link: Link, peer_id: PeerId) -> None:
        """The peer proved who it is."""

    def on_opened(self, link: Link, stream: FrameStream) -> None:
        """The peer opened a stream."""

    def on_closed(self, link: Link) -> None:
        """The connection ended."""

    def on_terminated(self, link: Link) -> None:
        """No more datagrams will come or go."""

    def on_route(self, link: Link, connection_id: bytes, *, is_added: bool) -> None:
        """A connection id belongs to the link, or no longer does."""

    def on_timer(self, link: Link) -> None:
        """The link's timer is due."""

    def transmit_soon(self, link: Link) -> None:
        """Send what the link has at the end of this turn of the loop."""


class Link:
    """Owned by an endpoint; compared by identity. `return_address` is a multiaddr at which its peer may be dialled."""

    def __init__(
        self,
        driver: StreamDriver,
        address: NetworkAddress,
        *,
        owner: LinkOwner,
        is_dialled: bool,
        return_address: bytes | None,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
    ) -> None:
        self.driver = driver
        self.address = address
        self.is_dialled = is_dialled
        self.return_address = return_address
        self.routes: dict[bytes, None] = {}
        self.ready: asyncio.Future[str | None] = loop.create_future()
        "None once the peer is known, else why the connection ended before."
        self._loop = loop
        self._clock = clock
        self._owner = owner
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def arm(self, now: float) -> None:
        """Follow the driver's timer. One that fires too early is cheaper than one that is moved with every datagram."""
        due = self.driver.timer()
        if due is None:
            self.disarm()
            return
        due = max(due, now + TIMER_STEP_S)
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_later(due - now, self._fire)

    def disarm(self) -> None:
        """No timer any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.now()
        due = self.driver.timer()
        if due is not None and due > now:
            self.arm(now)
        else:
            self._owner.on_timer(self)

    def transmit_soon(self) -> None:
        """Send what the driver has at the end of this turn of the loop."""
        self._owner.transmit_soon(self)

    def close(self, code: int, reason: str) -> None:
        """End the connection with an application code; every stream is reset at once."""
        self.driver.close(code, reason)
        self.pump()
        self.transmit_soon()

    def pump(self) -> None:
        """Pass on everything the driver has to say."""
        owner = self._owner
        while (event := self.driver.next_event()) is not None:
            if isinstance(event, Changed):
                if event.stream.on_change is not None:
                    event.stream.on_change()
            elif isinstance(event, Opened):
                owner.on_opened(self, event.stream)
            elif isinstance(event, Connected):
                owner.on_connected(self, event.peer_id)
                self._set_ready(None)
            elif isinstance(event, RouteAdded):
                owner.on_route(self, event.connection_id, is_added=True)
            elif isinstance(event, RouteRemoved):
                owner.on_route(self, event.connection_id, is_added=False)
            elif isinstance(event, Closed):
                owner.on_closed(self)
                self._set_ready(f"{event.reason or 'closed'} (code {event.code:#x})")
            elif isinstance(event, Terminated):
                owner.on_terminated(self)

    def _set_ready(self, failure: str | None) -> None:
        if not self.ready.done():
            self.ready.set_result(failure)
