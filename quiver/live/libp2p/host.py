"""A libp2p host on real ports: QUIC and TCP under one swarm, identify and ping; the `Transport` port of a live node.

A dial tries QUIC first and TCP beside it when that does not answer; `kinds` can forbid either.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair
from quiver.ids import PeerId
from quiver.live.clock import LiveClock
from quiver.live.libp2p.identify import IdentifyService
from quiver.live.libp2p.ping import PingService
from quiver.live.libp2p.tcp import CLOSE_GRACE_S, TcpEndpoint
from quiver.live.libp2p.udp import UdpSocket
from quiver.ports import Answer, Clock, Handler, ProtocolSpec
from quiver.quic import certificate
from quiver.quic.certificate import Identity
from quiver.quic.limits import Limits, NodeLimits, Refusal
from quiver.quic.stream import PeerStream
from quiver.quic.streams import CLOSE_GATED
from quiver.quic.swarm import Swarm
from quiver.quic.transport import OURS, QuicTransport, SwarmTransport
from quiver.values.identify import Identify
from quiver.values.peer import PeerInfo
from quiver.wire.multiaddr import quic_address, tcp_address

_ANY_HOSTS = ("0.0.0.0", "::")


class Kind(StrEnum):
    """How a connection travels."""

    QUIC = "quic"
    TCP = "tcp"


BOTH = (Kind.QUIC, Kind.TCP)


class Host:
    """`await start()` binds `port` for UDP and TCP; 0 lets the kernel choose.

    `announce` are the binary multiaddrs others are told to dial; by default those that were bound. `network` is a hash: nodes
    of other networks are told so and left; strangers who speak none of our protocols may stay. With `listens` false it only
    dials, and no TCP port is bound.
    """

    def __init__(
        self,
        keypair: KeyPair,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        announce: tuple[bytes, ...] = (),
        kinds: Sequence[Kind] = BOTH,
        listens: bool = True,
        network: str = "",
        clock: Clock | None = None,
        limits: Limits | None = None,
        node_limits: NodeLimits | None = None,
    ) -> None:
        if not kinds:
            raise UsageError("a host needs QUIC or TCP, or both")
        self.peer_id: PeerId = keypair.peer_id
        self.limits = limits or Limits()
        self._node_limits = node_limits
        self.kinds = tuple(kinds)
        self._listens = listens
        self._keypair = keypair
        self._host = host
        self._port = port
        self._announce = announce
        self._network = network
        self._clock = clock or LiveClock()
        self._udp: UdpSocket | None = None
        self._tcp: TcpEndpoint | None = None
        self._started: SwarmTransport | None = None

    async def start(self) -> None:
        """Bind the ports and listen. `UsageError` says which port could not be bound."""
        loop = asyncio.get_running_loop()
        identity = certificate.make(
            public_key=self._keypair.public_key,
            sign=self._keypair.sign,
            entropy=os.urandom(certificate.PRIVATE_KEY_ENTROPY_BYTES),
            utc_ms=self._clock.utc_ms(),
        )
        try:
            self._started = self._make_transport(identity, loop)
            if Kind.TCP in self.kinds:
                await self._listen_tcp(self._started, identity, loop)
        except BaseException:
            self._drop_sockets()
            raise
        if self._udp is not None:
            assert isinstance(self._started, QuicTransport)
            self._udp.start(self._started.receive_datagram)
        self._started.addresses = self._announce or self._bound()
        self.identify = IdentifyService(
            self, self._keypair, self._clock, protocols=self._served, observed=self._observed, loop=loop
        )
        self.pings = PingService(self, self._clock)
        self.identify.listeners.append(self._check_network)
        self._started.swarm.on_admitted = self.identify.ask_soon

    def _make_transport(self, identity: Identity, loop: asyncio.AbstractEventLoop) -> SwarmTransport:
        if Kind.QUIC not in self.kinds:
            return SwarmTransport(
                peer_id=self.peer_id, clock=self._clock, network=self._network, node_limits=self._node_limits, loop=loop
            )  # fmt: skip
        self._udp = UdpSocket(self._host, self._port, loop)
        return QuicTransport(
            peer_id=self.peer_id, identity=identity, clock=self._clock, send_datagram=self._udp.send,
            ip_version=self._udp.ip_version, limits=self.limits, network=self._network, node_limits=self._node_limits,
            loop=loop,
        )  # fmt: skip

    async def _listen_tcp(self, transport: SwarmTransport, identity: Identity, loop: asyncio.AbstractEventLoop) -> None:
        self._tcp = TcpEndpoint(
            swarm=transport.swarm, identity=identity, clock=self._clock, ip_version=6 if ":" in self._host else 4,
            limits=self.limits, framings=transport.framings, on_opened=transport.on_opened, loop=loop,
        )  # fmt: skip
        if not self._listens:
            return
        # One number for both where nobody asked for another: firewalls and people like that.
        wanted = self._udp.address[1] if self._udp is not None else self._port
        try:
            await self._tcp.listen(self._host, wanted)
        except UsageError:
            if self._port:
                raise
            await self._tcp.listen(self._host, 0)

    def _check_network(self, peer: PeerId, told: Identify) -> None:
        """Two networks never mix: neither finds a protocol of the other, and here both learn why."""
        reason = self.foreign_reason(told)
        if reason:
            self._transport.swarm.close_peer(peer, CLOSE_GATED, reason)

    def foreign_reason(self, told: Identify) -> str:
        """The network or version a node of QUIVer belongs to if it is not ours, else nothing; strangers are of no network."""
        theirs = [protocol for protocol in told.protocols if protocol.startswith(OURS)]
        if not self._network or not theirs or any(one.startswith(f"{OURS}{self._network}/") for one in theirs):
            return ""
        return f"another network or version: it speaks {theirs[0]}, and here it is {OURS}{self._network}/"

    def _bound(self) -> tuple[bytes, ...]:
        """A node bound to all interfaces cannot know its outer address: without `announce` it is reached by nobody new."""
        if self._host in _ANY_HOSTS:
            return ()
        socket = self._udp or self._tcp
        return () if socket is None else self.bound_at(socket.address[0])

    def bound_at(self, ip: str) -> tuple[bytes, ...]:
        """The addresses of our ports if `ip` leads to us."""
        quic = () if self._udp is None else (quic_address(ip, self._udp.address[1]),)
        tcp = () if self._tcp is None else (tcp_address(ip, self._tcp.address[1]),)
        return quic + tcp

    def _served(self) -> list[str]:
        return sorted(self._transport.framings)

    def _observed(self, peer: PeerId) -> bytes | None:
        """Where we see the peer."""
        link = self._transport.swarm.link_to(peer)
        if link is None:
            return None
        return link.return_address or tcp_address(*link.address)

    @property
    def port(self) -> int:
        """The UDP port that was bound; the TCP port where there is no QUIC."""
        if self._udp is not None:
            return self._udp.address[1]
        if self._tcp is not None:
            return self._tcp.address[1]
        raise UsageError("the host is not started; await start() first")

    @property
    def datagrams_lost(self) -> int:
        """Datagrams this side dropped: the queue was full or the kernel refused the address."""
        return 0 if self._udp is None else self._udp.datagrams_lost

    @property
    def swarm(self) -> Swarm:
        """To whom this host is connected."""
        return self._transport.swarm

    @property
    def refused(self) -> Mapping[Refusal, int]:
        """What was refused to peers since the start, by kind."""
        return self._transport.quota.refused

    def _drop_sockets(self) -> None:
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.abort()

    async def close(self) -> None:
        """Let what was answered arrive, say goodbye to every peer, end every stream with SHUTDOWN, release the ports.

        A peer that does not take it holds nobody up for longer than a second.
        """
        try:
            if self._started is not None:
                await self._started.drain(timeout_s=CLOSE_GRACE_S)
        finally:
            await self._end()

    async def _end(self) -> None:
        try:
            if self._started is not None:
                await self.identify.close()
                await self._started.close()
            if self._tcp is not None:
                await self._tcp.close()
        finally:
            # Whoever is closing may be cancelled; the ports are released all the same.
            self._drop_sockets()

    async def abort(self) -> None:
        """Release the ports without a word, as a crash would."""
        self._drop_sockets()
        await self._end()

    # ---- the port

    @property
    def _transport(self) -> SwarmTransport:
        if self._started is None:
            raise UsageError("the host is not started; await start() first")
        return self._started

    def local_info(self) -> PeerInfo:
        """Our peer id and the addresses others may dial."""
        return self._transport.local_info()

    def learn(self, info: PeerInfo) -> None:
        """Remember addresses of a peer."""
        self._transport.learn(info)

    def pin(self, info: PeerInfo) -> None:
        """Remember addresses that an operator named for as long as this node runs."""
        self._transport.pin(info)

    def serve(self, protocol: ProtocolSpec, handler: Handler) -> None:
        """Run `handler` as a task for each incoming stream."""
        self._transport.serve(protocol, handler)

    def answer(self, protocol: ProtocolSpec, function: Answer, *, reuses_streams: bool = False) -> None:
        """Answer each rpc with a plain function; `reuses_streams` if one stream may carry many."""
        self._transport.answer(protocol, function, reuses_streams=reuses_streams)

    def withdraw(self, protocol: ProtocolSpec) -> None:
        """Serve it no longer."""
        self._transport.withdraw(protocol)

    def wire_id(self, protocol: ProtocolSpec) -> str:
        """The protocol's id as peers of this network name it."""
        return self._transport.wire_id(protocol)

    def rpc(self, peer: PeerId, protocol: ProtocolSpec, message: Any, *, timeout_s: float) -> Coroutine[Any, Any, Any]:
        """Ask, and wait for the one answer. The transport's own coroutine: each layer costs at every turn."""
        return self._transport.rpc(peer, protocol, message, timeout_s=timeout_s)

    async def open(self, peer: PeerId, protocol: ProtocolSpec, *, timeout_s: float) -> PeerStream:
        """A new stream."""
        return await self._transport.open(peer, protocol, timeout_s=timeout_s)

    def rtt_s(self, peer: PeerId) -> float | None:
        """Smoothed round-trip time, or None."""
        return self._transport.rtt_s(peer)
