"""Many QUIC connections behind one address: who a datagram belongs to, dialling, sending once a turn.

It neither opens sockets nor reads a clock: datagrams come in through `receive_datagram` and leave through the function it
was given, so the same code serves real UDP (quiver.live) and simulated packets (sim).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # re-exported from C without __all__
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from quiver.ids import PeerId
from quiver.ports import Clock
from quiver.quic.carrier import Carrier, OnOpened
from quiver.quic.certificate import Identity
from quiver.quic.connection import PeerConnection
from quiver.quic.driver import Driver
from quiver.quic.events import NetworkAddress
from quiver.quic.limits import Limits, Refusal
from quiver.quic.link import Link
from quiver.quic.swarm import Swarm
from quiver.quic.tls import CONNECTION_ID_BYTES, make_configuration, make_judge
from quiver.wire.framing import Framing
from quiver.wire.multiaddr import quic_address, quic_endpoint

# RFC 9000, 14.1: a client's first datagram is at least this long.
INITIAL_DATAGRAM_BYTES_MIN = 1200
_VERSIONS = (int(QuicProtocolVersion.VERSION_1),)

SendDatagram = Callable[[bytes, NetworkAddress], None]


class QuicEndpoint(Carrier):
    """`framings` (protocol id -> how it is framed) may grow while it runs; `on_opened` gets each incoming stream."""

    def __init__(
        self,
        *,
        swarm: Swarm,
        identity: Identity,
        clock: Clock,
        send_datagram: SendDatagram,
        ip_version: int,
        limits: Limits,
        framings: dict[str, Framing],
        on_opened: OnOpened,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(swarm=swarm, clock=clock, ip_version=ip_version, on_opened=on_opened, loop=loop)
        self._send_datagram = send_datagram
        self._limits = limits
        self._framings = framings
        self._judge = make_judge(clock.utc_ms)
        self._tokens = QuicRetryTokenHandler()
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
        self._routes: dict[bytes, Link] = {}
        self._alive: dict[Link, Driver] = {}
        swarm.dialers.append(self)

    # ---- dialling

    def can_dial(self, address: bytes) -> bool:
        """A QUIC v1 address of our IP version."""
        where = quic_endpoint(address)
        return where is not None and self.is_reachable(where[0])

    def dial(self, address: bytes, peer: PeerId) -> Link:
        """Start a handshake; `link.ready` tells how it went."""
        where = quic_endpoint(address)
        assert where is not None, "can_dial() comes first"
        return self._add_link(where, expected_peer=peer)

    # ---- datagrams

    def receive_datagram(self, data: bytes, address: NetworkAddress) -> None:
        """Hand in one datagram. What is not ours, or over a limit, is dropped as if the network had lost it."""
        if self._swarm.is_closed:
            return
        # RFC 9000, 17.3: what is not a long header has our connection id behind its first byte.
        if data[:1] < b"\x80":
            link = self._routes.get(data[1 : 1 + CONNECTION_ID_BYTES])
        else:
            link = self._receive_long_header(data, address)
        if link is None:
            return
        self._alive[link].receive_datagram(data, address, self._clock.now())
        link.pump()
        self.transmit_soon(link)

    def _receive_long_header(self, data: bytes, address: NetworkAddress) -> Link | None:
        """Whose datagram of the handshake this is; a first one may begin a connection."""
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_BYTES)
        except ValueError:
            return None
        link = self._routes.get(header.destination_cid)
        if link is not None:
            return link
        if len(data) < INITIAL_DATAGRAM_BYTES_MIN or header.version is None:
            return None
        if header.version not in _VERSIONS:
            # A version negotiation packet (version 0) is never answered: two such answers would chase each other.
            if header.packet_type is not QuicPacketType.VERSION_NEGOTIATION:
                reply = encode_quic_version_negotiation(
                    source_cid=header.destination_cid,
                    destination_cid=header.source_cid,
                    supported_versions=list(_VERSIONS),
                )
                self._send_datagram(reply, address)
            return None
        return self._accept(header, address) if header.packet_type is QuicPacketType.INITIAL else None

    def _accept(self, header: QuicHeader, address: NetworkAddress) -> Link | None:
        """A new connection, unless it is refused or must first show that it receives what is sent to its address."""
        original = None
        if header.token:
            try:
                original = self._tokens.validate_token(
                    address=address, destination_cid=header.destination_cid, token=header.token, now=self._clock.now()
                )
            except ValueError:
                # RFC 9000, 8.1.3: dropped, because whoever sent it may not be at this address.
                self._swarm.quota.refuse(Refusal.RETRY_TOKEN)
                return None
        refusal = self._swarm.judge_incoming(address[0], is_validated=original is not None)
        if refusal is Refusal.RETRY:
            self._send_retry(header, address)
        if refusal is not None:
            return None
        return self._add_link(address, first_connection_id=header.destination_cid, original_connection_id=original)

    def _send_retry(self, header: QuicHeader, address: NetworkAddress) -> None:
        """Nothing is kept: the token says it all when it comes back."""
        assert header.version is not None
        ours = hashlib.sha256(header.destination_cid + header.source_cid).digest()[:CONNECTION_ID_BYTES]
        token = self._tokens.create_token(
            address=address, original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=ours, now=self._clock.now(),
        )  # fmt: skip
        retry = encode_quic_retry(
            version=header.version, source_cid=ours, destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid, retry_token=token,
        )  # fmt: skip
        self._send_datagram(retry, address)

    def _transmit(self, link: Link, now: float) -> None:
        driver = self._alive.get(link)
        if driver is not None:
            for data, address in driver.datagrams_to_send(now):
                self._send_datagram(data, address)
            link.arm(now)

    def close(self) -> None:
        """Send the goodbyes and forget every connection."""
        self._flush()
        for link in list(self._alive):
            self.on_terminated(link)

    # ---- connections

    def _add_link(
        self,
        address: NetworkAddress,
        *,
        first_connection_id: bytes | None = None,
        original_connection_id: bytes | None = None,
        expected_peer: PeerId | None = None,
    ) -> Link:
        """`original_connection_id` is what an incoming one was sent to before it was told to retry."""
        now, is_client = self._clock.now(), first_connection_id is None
        quic = PeerConnection(
            configuration=self._configurations[is_client],
            judge=self._judge,
            expected_peer=expected_peer,
            streams_max=self._limits.streams_max,
            original_destination_connection_id=original_connection_id or first_connection_id,
            retry_source_connection_id=first_connection_id if original_connection_id else None,
        )
        driver = Driver(quic, limits=self._limits, framings=self._framings, now=now)
        link = Link(
            driver, address, owner=self, is_dialled=is_client, return_address=quic_address(*address), loop=self._loop,
            clock=self._clock,
        )  # fmt: skip
        self._alive[link] = driver
        self._swarm.add(link)
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

    def on_terminated(self, link: Link) -> None:
        """`link` needs no more datagrams: forget it."""
        link.disarm()
        self._alive.pop(link, None)
        self._swarm.remove(link)
        for connection_id in list(link.routes):
            self.on_route(link, connection_id, is_added=False)
