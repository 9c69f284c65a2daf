"""Many QUIC connections behind one address: who a datagram belongs to, dialling, reuse per peer, sending once a turn.

It neither opens sockets nor reads a clock: datagrams come in through `receive_datagram` and leave through the function it
was given, so the same code serves real UDP (quiver.live) and simulated packets (sim).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # re-exported from C without __all__
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, encode_quic_version_negotiation, pull_quic_header

from quiver.errors import PeerUnreachable
from quiver.ids import PeerId, short
from quiver.ports import Clock
from quiver.quic.certificate import Identity
from quiver.quic.connection import PeerConnection
from quiver.quic.driver import CLOSE_RESOURCE_LIMIT, CLOSE_SHUTDOWN, Driver
from quiver.quic.events import FrameStream, Limits, NetworkAddress
from quiver.quic.link import Link
from quiver.quic.tls import CONNECTION_ID_BYTES, make_configuration, make_judge
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import quic_address, quic_endpoint

# RFC 9000, 14.1: a client's first datagram is at least this long.
INITIAL_DATAGRAM_BYTES_MIN = 1200
CONNECTIONS_MAX = 1024
# Connections whose peer has not proved who it is yet.
HALF_OPEN_MAX = 256
# As go-libp2p's resource manager.
CONNECTIONS_PER_PEER_MAX = 8
PEERS_KNOWN_MAX = 4096
ADDRESSES_PER_PEER_MAX = 8
_VERSIONS = (int(QuicProtocolVersion.VERSION_1),)

SendDatagram = Callable[[bytes, NetworkAddress], None]
OnOpened = Callable[[Link, FrameStream], None]


class QuicEndpoint:
    """`frame_limits` (protocol id -> largest frame) may grow while it runs; `on_opened` gets each incoming stream."""

    def __init__(
        self,
        *,
        identity: Identity,
        clock: Clock,
        send_datagram: SendDatagram,
        ip_version: int,
        limits: Limits,
        frame_limits: dict[str, int],
        on_opened: OnOpened,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._clock = clock
        self._send_datagram = send_datagram
        self._ip_version = ip_version
        self._limits = limits
        self._frame_limits = frame_limits
        self._on_opened = on_opened
        self._judge = make_judge(clock.utc_ms)
        self._configurations = {
            is_client: make_configuration(
                identity,
                is_client=is_client,
                idle_timeout_s=limits.idle_timeout_s,
                stream_window_bytes=limits.stream_window_bytes,
                connection_window_bytes=limits.connection_window_bytes,
            )
            for is_client in (False, True)
        }
        self._loop = loop
        self._known: dict[PeerId, tuple[bytes, ...]] = {}
        self._routes: dict[bytes, Link] = {}
        self._links: dict[Link, None] = {}
        self._by_peer: dict[PeerId, dict[Link, None]] = {}
        self._dials: dict[PeerId, asyncio.Task[Link | PeerUnreachable]] = {}
        self._to_flush: dict[Link, None] = {}
        self.is_closed = False

    # ---- peers

    def learn(self, info: PeerInfo) -> None:
        """Remember addresses of a peer; the newest `PEERS_KNOWN_MAX` peers are kept."""
        self._known.pop(info.peer_id, None)
        self._known[info.peer_id] = info.addresses[:ADDRESSES_PER_PEER_MAX]
        while len(self._known) > PEERS_KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def link_to(self, peer: PeerId) -> Link | None:
        """The connection in use: the oldest that is open."""
        return next(iter(self._by_peer.get(peer, ())), None)

    async def connect(self, peer: PeerId) -> Link:
        """The connection in use, or a new one. `PeerUnreachable` says what each address answered."""
        if self.is_closed:
            raise PeerUnreachable(f"not dialling {short(peer)}: this node is shutting down")
        if (link := self.link_to(peer)) is not None:
            return link
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._dials[peer] = self._loop.create_task(self._dial(peer))
            dial.add_done_callback(lambda _: self._dials.pop(peer, None))
        # Several callers share a dial: one that gives up does not end it for the others.
        result = await asyncio.shield(dial)
        if isinstance(result, PeerUnreachable):
            raise PeerUnreachable(str(result))
        return result

    async def _dial(self, peer: PeerId) -> Link | PeerUnreachable:
        """One address after another; returns the failure, because a shared task's error belongs to no single caller."""
        addresses = [a for a in map(quic_endpoint, self._known.get(peer, ())) if a is not None and self._can_reach(a)]
        if not addresses:
            return PeerUnreachable(f"no QUIC v1 address of {short(peer)} that can be reached from here is known")
        reasons = []
        for address in addresses:
            if len(self._links) >= CONNECTIONS_MAX or self.is_closed:
                reasons.append(
                    f"{len(self._links)} connections are open" if not self.is_closed else "this node is shutting down"
                )
                break
            failure = await self._add_link(address, expected_peer=peer).ready
            if (link := self.link_to(peer)) is not None:
                return link
            reasons.append(f"{address[0]} port {address[1]}: {failure or 'closed at once'}")
        return PeerUnreachable(f"{short(peer)} could not be dialled: {'; '.join(reasons)}")

    def _can_reach(self, address: NetworkAddress) -> bool:
        return (":" in address[0]) == (self._ip_version == 6)

    # ---- datagrams

    def receive_datagram(self, data: bytes, address: NetworkAddress) -> None:
        """Hand in one datagram. What is not ours, or over a limit, is dropped as if the network had lost it."""
        if self.is_closed:
            return
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:
            return
        link = self._routes.get(header.destination_cid)
        if link is None:
            if len(data) < INITIAL_DATAGRAM_BYTES_MIN or header.version is None:
                return
            if header.version not in _VERSIONS:
                # A version negotiation packet (version 0) is never answered: two such answers would chase each other.
                if header.packet_type is not QuicPacketType.VERSION_NEGOTIATION:
                    reply = encode_quic_version_negotiation(
                        source_cid=header.destination_cid,
                        destination_cid=header.source_cid,
                        supported_versions=list(_VERSIONS),
                    )
                    self._send_datagram(reply, address)
                return
            if header.packet_type is not QuicPacketType.INITIAL or self._is_full():
                return
            link = self._add_link(address, first_connection_id=header.destination_cid)
        link.driver.receive_datagram(data, address, self._clock.now())
        link.pump(self)
        self.transmit_soon(link)

    def _is_full(self) -> bool:
        half_open = len(self._links) - sum(len(links) for links in self._by_peer.values())
        return len(self._links) >= CONNECTIONS_MAX or half_open >= HALF_OPEN_MAX

    def transmit_soon(self, link: Link) -> None:
        """Send what the link has at the end of this turn of the loop, together with everything else of the turn."""
        if not self._to_flush:
            self._loop.call_soon(self._flush)
        self._to_flush[link] = None

    def _flush(self) -> None:
        links, self._to_flush = self._to_flush, {}
        now = self._clock.now()
        for link in links:
            for data, address in link.driver.datagrams_to_send(now):
                self._send_datagram(data, address)
            if link in self._links:
                link.arm(now)

    def _on_timer(self, link: Link) -> None:
        link.driver.handle_timer(self._clock.now())
        link.pump(self)
        self.transmit_soon(link)

    def close(self) -> None:
        """Say goodbye on every connection and end every stream with SHUTDOWN. Open dials fail."""
        self.is_closed = True
        for link in list(self._links):
            link.driver.close(CLOSE_SHUTDOWN, "shutdown")
            link.pump(self)
            self.transmit_soon(link)
        self._flush()
        for link in list(self._links):
            self.on_terminated(link)

    async def wait_closed(self) -> None:
        """Until the open dials have failed."""
        await asyncio.gather(*self._dials.values())

    # ---- connections

    def _add_link(
        self, address: NetworkAddress, *, first_connection_id: bytes | None = None, expected_peer: PeerId | None = None
    ) -> Link:
        now, is_client = self._clock.now(), first_connection_id is None
        quic = PeerConnection(
            configuration=self._configurations[is_client],
            judge=self._judge,
            expected_peer=expected_peer,
            streams_max=self._limits.streams_max,
            original_destination_connection_id=first_connection_id,
        )
        driver = Driver(quic, limits=self._limits, frame_limits=self._frame_limits, now=now)
        link = Link(driver, address, loop=self._loop, clock=self._clock, on_timer=self._on_timer)
        self._links[link] = None
        for connection_id in (driver.host_connection_id, first_connection_id):
            if connection_id is not None:
                self.on_route(link, connection_id, is_added=True)
        if is_client:
            driver.connect(address, now)
            self.transmit_soon(link)
        return link

    def on_route(self, link: Link, connection_id: bytes, *, is_added: bool) -> None:
        """Datagrams for this connection id belong to `link`, or no longer do."""
        if is_added:
            self._routes[connection_id] = link
            link.routes[connection_id] = None
        else:
            link.routes.pop(connection_id, None)
            if self._routes.get(connection_id) is link:
                del self._routes[connection_id]

    def on_connected(self, link: Link, peer_id: PeerId) -> None:
        """`link` proved to be `peer_id`."""
        links = self._by_peer.setdefault(peer_id, {})
        if len(links) >= CONNECTIONS_PER_PEER_MAX:
            link.driver.close(CLOSE_RESOURCE_LIMIT, f"more than {CONNECTIONS_PER_PEER_MAX} connections")
            return
        links[link] = None
        if peer_id not in self._known:
            # Nodes dial from the port they listen on, so where a peer came from is where it can be reached.
            self.learn(PeerInfo(peer_id=peer_id, addresses=(quic_address(*link.address),)))

    def on_opened(self, link: Link, stream: FrameStream) -> None:
        """The peer opened a stream."""
        self._on_opened(link, stream)

    def on_closed(self, link: Link) -> None:
        """`link` ended: nobody new gets it."""
        peer_id = link.driver.peer_id
        if peer_id is not None and (links := self._by_peer.get(peer_id)) is not None:
            links.pop(link, None)
            if not links:
                del self._by_peer[peer_id]

    def on_terminated(self, link: Link) -> None:
        """`link` needs no more datagrams: forget it."""
        link.disarm()
        self.on_closed(link)
        self._links.pop(link, None)
        for connection_id in list(link.routes):
            self.on_route(link, connection_id, is_added=False)
