"""TCP under a swarm, for networks that let no UDP through: sockets on one side, `TcpDriver` on the other.

What a slow peer makes us hold is bounded: while its socket is full nothing more is encrypted for it, and yamux stops the writers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

from quiver.errors import UsageError
from quiver.ids import PeerId
from quiver.live.libp2p.tcp_driver import TcpDriver
from quiver.ports import Clock
from quiver.quic.carrier import Carrier, OnOpened
from quiver.quic.certificate import Identity
from quiver.quic.limits import Limits, Refusal
from quiver.quic.link import Link
from quiver.quic.streams import CLOSE_RESOURCE_LIMIT
from quiver.quic.swarm import Swarm
from quiver.quic.tls import make_judge
from quiver.wire.framing import Framing
from quiver.wire.multiaddr import tcp_address, tcp_endpoint

# The kernel holds this much that the peer does not read before we stop encrypting for it.
WRITE_BUFFER_BYTES = 256 * 1024
# For the last bytes of a connection that was closed, and for the peer to take them.
CLOSE_GRACE_S = 1.0


class TcpEndpoint(Carrier):
    """`framings` may grow while it runs; `on_opened` gets each incoming stream."""

    def __init__(
        self, *, swarm: Swarm, identity: Identity, clock: Clock, ip_version: int, limits: Limits,
        framings: dict[str, Framing], on_opened: OnOpened, loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        super().__init__(swarm=swarm, clock=clock, ip_version=ip_version, on_opened=on_opened, loop=loop)
        self._identity = identity
        self.limits = limits
        self._framings = framings
        self._judge = make_judge(clock.utc_ms)
        self._wires: dict[Link, TcpWire] = {}
        self._connecting: dict[asyncio.Task[None], None] = {}
        self._server: asyncio.Server | None = None
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self.address: tuple[str, int] = ("", 0)
        "What was bound."
        swarm.dialers.append(self)

    async def listen(self, host: str, port: int) -> None:
        """Bind and listen at `address`. `UsageError` where that is not possible."""
        try:
            # Two steps: a caller that is cancelled in the second has a server to close.
            self._server = await self._loop.create_server(partial(TcpWire, self, None), host, port, start_serving=False)
        except OSError as error:
            raise UsageError(
                f"cannot listen on TCP {host} port {port}: {error}; choose another host or port"
            ) from error
        self.address = self._server.sockets[0].getsockname()[:2]
        await self._server.start_serving()

    # ---- dialling

    def can_dial(self, address: bytes) -> bool:
        """A plain TCP address of our IP version."""
        where = tcp_endpoint(address)
        return where is not None and self.is_reachable(where[0])

    def dial(self, address: bytes, peer: PeerId) -> Link:
        """Start a connection; `link.ready` tells how it went."""
        where = tcp_endpoint(address)
        assert where is not None, "can_dial() comes first"
        link = self.add_link(where, is_dialled=True, expected_peer=peer)
        task = self._loop.create_task(self._connect(link, where))
        self._connecting[task] = None
        task.add_done_callback(lambda done: self._connecting.pop(done, None))
        return link

    async def _connect(self, link: Link, where: tuple[str, int]) -> None:
        try:
            async with self._clock.deadline(self.limits.handshake_timeout_s):
                await self._loop.create_connection(partial(TcpWire, self, link), *where)
        except Exception as error:
            self._driver(link).end_of_input(str(error) or type(error).__name__)
            link.pump()

    # ---- connections

    def add_link(self, address: tuple[str, int], *, is_dialled: bool, expected_peer: PeerId | None = None) -> Link:
        """A connection begins. An incoming one comes from a port nobody listens on."""
        now = self._clock.now()
        driver = TcpDriver(
            self._identity, is_dialer=is_dialled, judge=self._judge, expected_peer=expected_peer, limits=self.limits,
            framings=self._framings, now=now,
        )  # fmt: skip
        link = Link(
            driver, address, owner=self, is_dialled=is_dialled,
            return_address=tcp_address(*address) if is_dialled else None, loop=self._loop, clock=self._clock,
        )  # fmt: skip
        self._swarm.add(link)
        link.arm(now)
        return link

    def has_room(self, host: str) -> bool:
        """One more incoming connection from `host` is within the limits."""
        return not self._swarm.is_closed and self._swarm.judge_incoming(host, is_validated=True) is None

    def attach(self, link: Link, wire: TcpWire) -> None:
        """The socket of a link is there."""
        self._wires[link] = wire
        self._all_gone.clear()
        self.transmit_soon(link)

    def receive(self, link: Link, data: bytes) -> None:
        """Bytes of a link."""
        self._driver(link).receive(data, self._clock.now())
        link.pump()
        self.transmit_soon(link)

    def lost(self, link: Link, reason: str) -> None:
        """The socket of a link is gone."""
        self._wires.pop(link, None)
        if not self._wires:
            self._all_gone.set()
        self._driver(link).end_of_input(reason)
        link.pump()

    def stalled(self, link: Link) -> None:
        """The peer has taken nothing for the idle timeout, whatever it sends."""
        self._swarm.quota.refuse(Refusal.STALLED)
        link.close(CLOSE_RESOURCE_LIMIT, f"took nothing for {self.limits.idle_timeout_s:g} s")

    def later(self, delay_s: float, function: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        """Call `function` after `delay_s`."""
        return self._loop.call_later(delay_s, function, *arguments)

    def _driver(self, link: Link) -> TcpDriver:
        assert isinstance(link.driver, TcpDriver)
        return link.driver

    def _transmit(self, link: Link, now: float) -> None:
        wire = self._wires.get(link)
        if wire is not None:
            if not wire.is_full:
                wire.write(self._driver(link).data_to_send())
                # Room for senders that waited.
                link.pump()
            if link.driver.is_closed:
                wire.close()
        if not link.driver.is_closed:
            link.arm(now)

    async def close(self) -> None:
        """Send the goodbyes, close every socket and the port. A peer that does not read waits for nobody longer than a second."""
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        self._flush()
        if self._server is not None:
            self._server.close()
        for wire in list(self._wires.values()):
            wire.close()
        await self._all_gone.wait()
        if self._server is not None:
            await self._server.wait_closed()

    def abort(self) -> None:
        """Drop every socket without a word, and the port."""
        for task in list(self._connecting):
            task.cancel()
        if self._server is not None:
            self._server.close()
        for wire in list(self._wires.values()):
            wire.abort()

    # ---- what links say

    def on_closed(self, link: Link) -> None:
        """`link` ended: nobody new gets it."""
        super().on_closed(link)
        if link not in self._wires:
            self.on_terminated(link)

    def on_terminated(self, link: Link) -> None:
        """The socket is gone: forget the link."""
        link.disarm()
        self._swarm.remove(link)

    def on_route(self, link: Link, connection_id: bytes, *, is_added: bool) -> None:
        """TCP has no connection ids."""
        raise AssertionError("a TCP driver announces no routes")


class TcpWire(asyncio.Protocol):
    """One socket of an endpoint; `link` is None for an incoming one until it is there."""

    def __init__(self, endpoint: TcpEndpoint, link: Link | None) -> None:
        self._endpoint = endpoint
        self._link = link
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        "Of the peer's silence while the buffer is full; once closing, of the last bytes."
        self._is_closing = False
        self.is_full = False
        "The peer does not read what is in the kernel's buffer and ours."

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        # uvloop's transports are no asyncio.Transport by class.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = transport.get_extra_info("peername")[:2]
        if self._link is None:
            if not self._endpoint.has_room(host):
                transport.abort()
                return
            self._link = self._endpoint.add_link((host, port), is_dialled=False)
        self._endpoint.attach(self._link, self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._link is not None:
            self._endpoint.receive(self._link, data)

    def pause_writing(self) -> None:
        """The buffer is full."""
        self.is_full = True
        assert self._link is not None, "nothing is written before the link is there"
        self._timer = self._endpoint.later(self._endpoint.limits.idle_timeout_s, self._endpoint.stalled, self._link)

    def resume_writing(self) -> None:
        """There is room again."""
        self.is_full = False
        if not self._is_closing:
            self._stop_timer()
        if self._link is not None:
            self._endpoint.transmit_soon(self._link)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._stop_timer()
        if self._link is not None:
            self._endpoint.lost(self._link, str(exc) if exc else "the peer closed the connection")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def write(self, data: bytes) -> None:
        """Hand bytes to the kernel."""
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Flush, then close; whatever the peer has not taken in time is dropped."""
        if self._transport is not None and not self._is_closing:
            self._is_closing = True
            self._stop_timer()
            self._transport.close()
            self._timer = self._endpoint.later(CLOSE_GRACE_S, self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
