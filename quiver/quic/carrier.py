"""What every endpoint of a swarm does alike, whatever carries its bytes: one transmission a turn, and a link's news passed on."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from quiver.ids import PeerId
from quiver.ports import Clock
from quiver.quic.events import FrameStream
from quiver.quic.link import Link
from quiver.quic.streams import CLOSE_RESOURCE_LIMIT, CLOSE_SUPPLANTED
from quiver.quic.swarm import Swarm

OnOpened = Callable[[Link, FrameStream], None]


class Carrier(ABC):
    """`LinkOwner` of its links; `on_opened` gets each incoming stream."""

    def __init__(
        self, *, swarm: Swarm, clock: Clock, ip_version: int, on_opened: OnOpened, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._swarm = swarm
        self._clock = clock
        self._ip_version = ip_version
        self._on_opened = on_opened
        self._loop = loop
        self._to_flush: dict[Link, None] = {}

    def is_reachable(self, host: str) -> bool:
        """A host of our IP version."""
        return (":" in host) == (self._ip_version == 6)

    def give_up(self, link: Link) -> None:
        """Another address was quicker."""
        link.close(CLOSE_SUPPLANTED, "another address was quicker")

    def transmit_soon(self, link: Link) -> None:
        """Send what the link has at the end of this turn of the loop, together with everything else of the turn."""
        if not self._to_flush:
            self._loop.call_soon(self._flush)
        self._to_flush[link] = None

    def _flush(self) -> None:
        links, self._to_flush = self._to_flush, {}
        now = self._clock.now()
        for link in links:
            self._transmit(link, now)

    @abstractmethod
    def _transmit(self, link: Link, now: float) -> None:
        """Send what the link has, and arm its timer; the link may be gone by now."""

    def on_timer(self, link: Link) -> None:
        """The link's timer is due."""
        link.driver.handle_timer(self._clock.now())
        link.pump()
        self.transmit_soon(link)

    def on_connected(self, link: Link, peer_id: PeerId) -> None:
        """`link` proved to be `peer_id`."""
        refusal = self._swarm.admit(link, peer_id)
        if refusal is not None:
            link.driver.close(CLOSE_RESOURCE_LIMIT, refusal)

    def on_opened(self, link: Link, stream: FrameStream) -> None:
        """The peer opened a stream."""
        self._on_opened(link, stream)

    def on_closed(self, link: Link) -> None:
        """`link` ended: nobody new gets it."""
        self._swarm.on_closed(link)
