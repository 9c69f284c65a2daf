"""Packet-level transport: real aioquic connections in virtual time, over datagrams that are delayed and lost.

Loss recovery, congestion control, flow control and handshakes are aioquic's own, and the code above it is the live
node's (`quiver.quic`); only what moves the datagrams is simulated. For tens to hundreds of nodes: a datagram costs about
0.1 ms. Rules of this file: one draw per datagram, from the sender's own substream; no other randomness reaches timing,
because the certificates' signatures have one length (Ed25519) and aioquic's random bytes change no sizes.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Protocol

from quiver.errors import UsageError
from quiver.identity.keys import KeyPair
from quiver.ids import PeerId
from quiver.ports import Clock
from quiver.quic import certificate
from quiver.quic.certificate import CertificateKey
from quiver.quic.events import NetworkAddress
from quiver.quic.limits import Limits
from quiver.quic.transport import QuicTransport
from quiver.wire.multiaddr import quic_address
from sim.clock import SimClock
from sim.loop import Environment
from sim.rng import Substreams
from sim.trace import RunTrace

PORT = 4001
# 10.0.0.0/8 holds this many addresses: a node's index is its host part.
NODES_MAX = 1 << 24
# UDP and IPv4 headers, which a link carries too.
HEADER_BYTES = 28


class DatagramLinks(Protocol):
    """One-way delays by index. Build them without a loss rule: at this level a lost datagram is lost."""

    def delay_s(self, source: int, destination: int, size_bytes: int, now: float) -> float:
        """Seconds until a datagram arrives; infinity drops it."""


class PacketNetwork:
    """All nodes of one world, and the network between them. `loss` is the probability that a datagram disappears."""

    def __init__(
        self,
        env: Environment,
        links: DatagramLinks,
        trace: RunTrace,
        streams: Substreams,
        *,
        loss: float = 0.0,
        limits: Limits | None = None,
    ) -> None:
        if not 0.0 <= loss < 1.0:
            raise UsageError(f"datagram loss {loss} is outside 0 .. 1")
        self.env = env
        self.links = links
        self.trace = trace
        self.streams = streams
        self.loss = loss
        self.limits = limits or Limits()
        self.nodes: dict[PeerId, PacketTransport] = {}
        self.datagrams_sent = 0
        self.datagrams_lost = 0
        self._by_host: dict[str, PacketTransport] = {}

    def node(self, keypair: KeyPair, *, index: int | None = None, clock: Clock | None = None) -> PacketTransport:
        """A transport for a (re)started node; `index` is its place in the link matrix, by default its number."""
        old = self.nodes.get(keypair.peer_id)
        if old is not None and old.up:
            raise UsageError(f"node {keypair.peer_id.hex()} is up already")
        if index is None:
            index = old.index if old is not None else len(self.nodes)
        if not 0 <= index < NODES_MAX:
            raise UsageError(f"a node's index is 0 to {NODES_MAX - 1}, not {index}")
        node = PacketTransport(self, keypair, index, clock or SimClock(self.env))
        self.nodes[keypair.peer_id] = self._by_host[node.host] = node
        return node

    def carry(self, sender: PacketTransport, data: bytes, address: NetworkAddress) -> None:
        """Move one datagram, or lose it."""
        receiver = self._by_host.get(address[0])
        self.datagrams_sent += 1
        # The draw is made for every datagram, so that a partition does not shift the fate of later ones.
        is_lost = self.loss > 0.0 and sender.rng.random() < self.loss
        if receiver is None or not sender.up or is_lost:
            self.datagrams_lost += 1
            return
        now = self.env.now
        delay_s = self.links.delay_s(sender.index, receiver.index, len(data) + HEADER_BYTES, now)
        if delay_s == math.inf:
            self.datagrams_lost += 1
            return
        self.env.loop.deliver_at(now + delay_s, receiver.on_datagram, data, (sender.host, PORT))


class PacketTransport(QuicTransport):
    """The `Transport` port of one node at packet level."""

    def __init__(self, network: PacketNetwork, keypair: KeyPair, index: int, clock: Clock) -> None:
        self.network = network
        self.index = index
        self.up = True
        self.host = f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"
        self.rng = network.streams.stream("packets", "loss", keypair.peer_id)
        identity = certificate.make(
            public_key=keypair.public_key,
            sign=keypair.sign,
            entropy=network.streams.digest("packets", "certificate", keypair.peer_id),
            utc_ms=clock.utc_ms(),
            key=CertificateKey.ED25519,
        )
        super().__init__(
            peer_id=keypair.peer_id,
            identity=identity,
            clock=clock,
            send_datagram=partial(network.carry, self),
            addresses=(quic_address(self.host, PORT),),
            limits=network.limits,
            on_frame=self._on_delivered,
            loop=network.env.loop,
        )

    def on_datagram(self, data: bytes, address: NetworkAddress) -> None:
        """A datagram has arrived; nobody is there after a crash."""
        if self.up:
            self.receive_datagram(data, address)

    def crash(self) -> None:
        """Gone without goodbye: peers notice when their connections idle out."""
        self.up = False
        self.abort()

    def _on_delivered(self, peer: PeerId, message: Any, data: bytes) -> None:
        source = self.network.nodes.get(peer)
        self.network.trace.frame(
            self.network.env.now, -1 if source is None else source.index, self.index, message, data
        )
