"""What a node gives to strangers, by name: the bounds of a connection, those of the whole node, and a count of every refusal.

Rules of this file: no clock, no I/O. The scopes are those of go-libp2p's resource manager (node, peer, protocol, protocol and
peer; connections half-open, per peer and per address group), scaled to a node with a few GiB.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from enum import StrEnum

import msgspec

from quiver.ids import PeerId
from quiver.quic.rate import Buckets, Rate


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one connection."""

    stream_window_bytes: int = 256 * 1024
    "Unread bytes a stream may hold, and unacknowledged bytes a sender may buffer."
    connection_window_bytes: int = 16 * 1024 * 1024
    "Unread bytes of all streams together."
    unsent_bytes_max: int = 16 * 1024 * 1024
    "Bytes of all streams together that the peer has not taken: beyond it writers wait and rpcs are refused."
    streams_max: int = 256
    "Streams the peer may have open at once."
    idle_timeout_s: float = 30.0
    "A peer that is silent, or takes nothing, this long is gone; open streams keep a living connection alive."
    handshake_timeout_s: float = 10.0
    waste: Rate = Rate(burst=1000, per_s=100.0)
    "Streams that the peer resets or that come to nothing; one that opens and resets faster loses its connection."


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """At most so many that peers opened, that we opened, and together."""

    incoming: int
    outgoing: int
    total: int


class NodeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the whole node. docs/protocol.md has them as a table."""

    connections: Bound = Bound(incoming=768, outgoing=512, total=1024)
    connections_per_peer_max: int = 8
    connections_per_group_max: int = 8
    "Per IPv4 address or IPv6 /56; loopback is one machine's own business."
    connections_per_site_max: int = 64
    "Per IPv6 /48."
    connection_rate: Rate = Rate(burst=16, per_s=5.0)
    "Attempts to connect from one IPv4 address or IPv6 /64."
    network_rate: Rate = Rate(burst=64, per_s=20.0)
    "The same of a public IPv4 /24 or IPv6 /48; and of all strangers together while `addresses_max` are busy."
    loopback_rate: Rate = Rate(burst=1024, per_s=256.0)
    """The same of one loopback address. A whole network lives behind it on a developer's machine: 40 nodes that all dial each
    other come to a node less than a hundred times. It is still bounded, for whoever stands behind a proxy on the same machine."""
    addresses_max: int = 4096
    "Addresses, and networks, of which it is remembered how often they have just tried."
    known_addresses_max: int = 1024
    "Addresses at which a peer has proved itself in the last hour: what strangers try costs them nothing."
    half_open_max: int = 256
    "Incoming connections whose peer has not proved who it is yet."
    half_open_grace_s: float = 1.0
    "An honest handshake is done by then: when there is no room, the oldest that is older makes some."
    retry_threshold: int = 64
    "With this many half-open, a QUIC client must show that it receives what is sent to its address."
    streams: Bound = Bound(incoming=16_384, outgoing=16_384, total=32_768)
    streams_per_peer: Bound = Bound(incoming=512, outgoing=4096, total=4608)
    streams_per_protocol: Bound = Bound(incoming=8192, outgoing=16_384, total=16_384)
    streams_per_protocol_and_peer: Bound = Bound(incoming=256, outgoing=4096, total=4352)
    protocols_and_peers: tuple[tuple[str, Bound], ...] = (
        ("/ipfs/ping/1.0.0", Bound(incoming=2, outgoing=3, total=4)),
        ("/ipfs/id/1.0.0", Bound(incoming=16, outgoing=16, total=32)),
        ("/ipfs/id/push/1.0.0", Bound(incoming=16, outgoing=16, total=32)),
    )
    "Instead of `streams_per_protocol_and_peer`, for protocols that need little."
    memory_bytes: int = 512 * 1024 * 1024
    "Unread, unfinished and unsent bytes of all connections together."
    memory_reserve_bytes: int = 64 * 1024
    "Of these, what each connection has for itself, whatever the others hold."
    rpc_rate: Rate = Rate(burst=2500, per_s=250.0)
    """Questions, and streams for a handler, of one protocol and peer. A provider that announces 1024 keys asks each of its
    neighbours two things a key, at once and again each `republish_s`; nothing else that is honest comes near it."""


class Refusal(StrEnum):
    """Why something was refused; the name under which it is counted."""

    CONNECTIONS = "connections"
    CONNECTIONS_PER_PEER = "connections_per_peer"
    CONNECTIONS_PER_GROUP = "connections_per_group"
    CONNECTION_RATE = "connection_rate"
    "Its address tries too often."
    NETWORK_RATE = "network_rate"
    "The network around its address does."
    CROWD = "crowd"
    "Too many addresses try at once for each to be told apart, and this one is not known."
    HALF_OPEN = "half_open"
    RETRY = "retry"
    "The client was told to try again with a token."
    RETRY_TOKEN = "retry_token"
    "It showed a token that is not ours, not its own or too old."
    HANDSHAKE = "handshake"
    "It did not finish in time or failed."
    STREAMS = "streams"
    STREAMS_PER_CONNECTION = "streams_per_connection"
    STREAMS_PER_PEER = "streams_per_peer"
    STREAMS_PER_PROTOCOL = "streams_per_protocol"
    STREAMS_PER_PROTOCOL_AND_PEER = "streams_per_protocol_and_peer"
    NEGOTIATION = "negotiation"
    "A stream named no protocol of ours in time."
    RPC_RATE = "rpc_rate"
    "It asks more of one protocol than its share."
    QUESTION = "question"
    "An rpc's question did not come in time."
    FRAME = "frame"
    "Too long, cut, or not a frame."
    PROTOCOL = "protocol"
    "It broke the rules of a protocol after its stream was agreed, or of the connection."
    ROOM = "room"
    "It asked us to hold something for which there is no room."
    WASTE = "waste"
    "Too many streams came to nothing: the connection was closed."
    MEMORY = "memory"
    "The peer does not take its answers, or sends more than is read."
    NODE_MEMORY = "node_memory"
    "All connections together hold as much as they may."
    STALLED = "stalled"
    "It took nothing of what was written for the idle timeout."


class Tally:
    """How many are open, against a bound."""

    __slots__ = ("bound", "incoming", "outgoing")

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.incoming = 0
        self.outgoing = 0

    def has_room(self, *, is_incoming: bool) -> bool:
        """One more is within the bound."""
        bound = self.bound
        if is_incoming:
            return self.incoming < bound.incoming and self.incoming + self.outgoing < bound.total
        return self.outgoing < bound.outgoing and self.incoming + self.outgoing < bound.total

    def add(self, step: int, *, is_incoming: bool) -> None:
        """One more (1) or one less (-1)."""
        if is_incoming:
            self.incoming += step
        else:
            self.outgoing += step
        assert self.incoming >= 0 <= self.outgoing


class StreamScope:
    """The streams of one protocol with one peer, counted in every scope they belong to.

    Every rpc passes here four times, so the loops hold no calls.
    """

    __slots__ = ("_refusals", "_tallies")

    def __init__(self, tallies: tuple[tuple[Refusal, Tally], ...]) -> None:
        self._refusals = tuple(refusal for refusal, _ in tallies)
        self._tallies = tuple(tally for _, tally in tallies)

    def enter(self, *, is_incoming: bool) -> Refusal | None:
        """Count one more stream, or say which bound it would break."""
        tallies = self._tallies
        if is_incoming:
            for tally in tallies:
                bound, count = tally.bound, tally.incoming
                if count >= bound.incoming or count + tally.outgoing >= bound.total:
                    return self._refusals[tallies.index(tally)]
            for tally in tallies:
                tally.incoming += 1
        else:
            for tally in tallies:
                bound, count = tally.bound, tally.outgoing
                if count >= bound.outgoing or count + tally.incoming >= bound.total:
                    return self._refusals[tallies.index(tally)]
            for tally in tallies:
                tally.outgoing += 1
        return None

    def leave_incoming(self) -> None:
        """One that a peer opened is over."""
        for tally in self._tallies:
            tally.incoming -= 1
        assert self._tallies[0].incoming >= 0

    def leave_outgoing(self) -> None:
        """One that we opened is over."""
        for tally in self._tallies:
            tally.outgoing -= 1
        assert self._tallies[0].outgoing >= 0


class Quota:
    """What is in use of a node's limits, and what was refused."""

    def __init__(self, limits: NodeLimits | None = None) -> None:
        self.limits = limits or NodeLimits()
        self.refused: Counter[Refusal] = Counter()
        self._special = dict(self.limits.protocols_and_peers)
        self._rpcs = Buckets(self.limits.rpc_rate)
        self._node = Tally(self.limits.streams)
        self._protocols: dict[str, Tally] = {}
        self._peers: dict[PeerId, tuple[Tally, dict[str, StreamScope]]] = {}

    def refuse(self, kind: Refusal) -> None:
        """Count one refusal."""
        self.refused[kind] += 1

    def admits_rpc(self, peer: PeerId, protocol_id: str, now: float) -> bool:
        """One more question of `peer` in `protocol_id` is within its rate; counted if not. It outlives connections."""
        if self._rpcs.take((peer, protocol_id), now):
            return True
        self.refused[Refusal.RPC_RATE] += 1
        return False

    def scope(self, peer: PeerId, protocol_id: str) -> StreamScope:
        """Where the streams of `protocol_id` with `peer` are counted. Protocols are those we serve or dial: they are few."""
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = (Tally(self.limits.streams_per_peer), {})
        peer_tally, scopes = known
        scope = scopes.get(protocol_id)
        if scope is None:
            limits = self.limits
            if protocol_id not in self._protocols:
                self._protocols[protocol_id] = Tally(limits.streams_per_protocol)
            both = self._special.get(protocol_id, limits.streams_per_protocol_and_peer)
            scope = scopes[protocol_id] = StreamScope(
                (
                    (Refusal.STREAMS_PER_PROTOCOL_AND_PEER, Tally(both)),
                    (Refusal.STREAMS_PER_PEER, peer_tally),
                    (Refusal.STREAMS_PER_PROTOCOL, self._protocols[protocol_id]),
                    (Refusal.STREAMS, self._node),
                )
            )
        return scope

    def forget(self, peer: PeerId) -> None:
        """The last connection to `peer` is gone. What still runs for it stays counted until it ends."""
        known = self._peers.get(peer)
        if known is not None and not known[0].incoming + known[0].outgoing:
            del self._peers[peer]

    @property
    def streams_open(self) -> tuple[int, int]:
        """Streams that peers opened, and that we opened."""
        return self._node.incoming, self._node.outgoing

    def validate(self) -> None:
        """Assert what must hold between any two calls."""
        peers = [tally for tally, _ in self._peers.values()]
        for one in (peers, list(self._protocols.values())):
            assert sum(tally.incoming for tally in one) == self._node.incoming
            assert sum(tally.outgoing for tally in one) == self._node.outgoing


def address_groups(host: str) -> tuple[str, ...]:
    """Who shares a fate, smallest first: an IPv4 address; an IPv6 /56 and its /48; nobody for loopback."""
    ip = ipaddress.ip_address(host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return ()
    if ip.version == 4:
        return (str(ip),)
    return tuple(str(ipaddress.ip_network(f"{ip}/{bits}", strict=False)) for bits in (56, 48))
