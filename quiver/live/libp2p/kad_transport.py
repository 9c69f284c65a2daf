"""A host as the DHT sees it: which DHT protocols are served and asked, whether this node is a server, and how strangers differ.

Rules of this file: no lookup and no record; those are `quiver/dht`. Mode and protocol ids are a matter of the wire:
`DhtService` above speaks of one protocol and always answers; here a client's answers are not served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from quiver.errors import DeadlineExceeded, StreamReset, UsageError, WireCode
from quiver.ids import PeerId
from quiver.live.libp2p.host import Host
from quiver.ports import Answer, Clock, Handler, ProtocolSpec, Stream
from quiver.quic.limits import address_groups
from quiver.values.kad import KadMessage, KadType
from quiver.values.peer import PeerInfo
from quiver.wire.kad import KAD_IPFS, KAD_QUIVER, KadCodec

# Names of the DHT protocols in a config.
KAD_IDS = {"quiver": KAD_QUIVER, "ipfs": KAD_IPFS}
# js- and go-libp2p never answer ADD_PROVIDER, and js keeps the stream open: who says nothing for so long has taken the record.
SILENCE_S = 1.0


class KadTransport:
    """`Transport` over a started host. `ids` are full protocol ids; a peer we know nothing of is asked by the first."""

    def __init__(self, host: Host, ids: Sequence[str] = (KAD_QUIVER,), *, clock: Clock, is_server: bool) -> None:
        if not ids:
            raise UsageError("a DHT needs at least one protocol id")
        self.peer_id = host.peer_id
        self.is_server = False
        self._host = host
        self._clock = clock
        self._codecs = [KadCodec(protocol_id) for protocol_id in dict.fromkeys(ids)]
        self._function: Answer | None = None
        self.set_server(is_server)

    # ---- mode

    def set_server(self, is_server: bool) -> None:
        """A server answers and lists the DHT in identify; a client does neither, so that nobody counts on it."""
        if is_server == self.is_server:
            return
        self.is_server = is_server
        for codec in self._codecs:
            if not is_server:
                self._host.withdraw(codec)
            elif self._function is not None:
                self._serve(codec)

    def is_spoken_by(self, protocols: Sequence[str]) -> bool:
        """Whether a peer that serves `protocols` is a server of our DHT."""
        return any(self._host.wire_id(codec) in protocols for codec in self._codecs)

    # ---- the port

    def local_info(self) -> PeerInfo:
        """Our peer id and the addresses others may dial."""
        return self._host.local_info()

    def learn(self, info: PeerInfo) -> None:
        """Remember addresses of a peer."""
        self._host.learn(info)

    def serve(self, protocol: ProtocolSpec, handler: Handler) -> None:
        """Run `handler` as a task for each incoming stream."""
        self._host.serve(protocol, handler)

    def answer(self, protocol: ProtocolSpec, function: Answer) -> None:
        """Answer the DHT's rpcs, in any of its protocols, while this node is a server."""
        self._function = function
        if self.is_server:
            for codec in self._codecs:
                self._serve(codec)

    def _serve(self, codec: KadCodec) -> None:
        # libp2p kad-dht: a stream may carry many questions. And over QUIC py-libp2p 0.8.1 loses, now and then, an answer whose
        # end comes with it.
        self._host.answer(codec, self._on_question, reuses_streams=True)

    def _on_question(self, peer: PeerId, message: KadMessage) -> KadMessage:
        """Who asks is not for that a server we can reach: identify and a ping tell (see `TableFeed`)."""
        assert self._function is not None
        if message.providers and message.type is not KadType.ADD_PROVIDER:
            message = msgspec.structs.replace(message, providers=())
        answer: KadMessage = self._function(peer, message)
        return answer

    async def rpc(self, peer: PeerId, protocol: ProtocolSpec, message: Any, *, timeout_s: float) -> Any:
        """Ask in a protocol the peer serves. As the host's; a stranger that takes a record without a word has answered."""
        if not self.is_server and message.providers and message.type is not KadType.ADD_PROVIDER:
            # Only servers introduce themselves: a client is in nobody's table.
            message = msgspec.structs.replace(message, providers=())
        if message.type is KadType.ADD_PROVIDER and self._is_stranger(peer):
            return await self._hand_over(peer, message, timeout_s)
        codecs = self._codecs_of(peer)
        for codec in codecs[:-1]:
            try:
                return await self._host.rpc(peer, codec, message, timeout_s=timeout_s)
            except StreamReset as error:
                if error.code != WireCode.NEGOTIATION_FAILED:
                    raise
        return await self._host.rpc(peer, codecs[-1], message, timeout_s=timeout_s)

    def _codecs_of(self, peer: PeerId) -> list[KadCodec]:
        """The one that identify lists, else all."""
        told = self._host.identify.known.get(peer)
        listed = [] if told is None else [one for one in self._codecs if self._host.wire_id(one) in told.protocols]
        return listed[:1] or self._codecs

    def _is_stranger(self, peer: PeerId) -> bool:
        """Known not to be a node of QUIVer, whose nodes answer everything."""
        told = self._host.identify.known.get(peer)
        return told is not None and not (told.agent_version or "").startswith("quiver/")

    async def _hand_over(self, peer: PeerId, message: KadMessage, timeout_s: float) -> KadMessage:
        stream = await self._host.open(peer, self._codecs_of(peer)[0], timeout_s=timeout_s)
        try:
            async with self._clock.deadline(SILENCE_S):
                await stream.send(message)
                await stream.receive()
        except DeadlineExceeded:
            pass
        stream.finish_and_drain()
        return message

    async def open(self, peer: PeerId, protocol: ProtocolSpec, *, timeout_s: float) -> Stream:
        """A new stream."""
        return await self._host.open(peer, protocol, timeout_s=timeout_s)

    def place_of(self, peer: PeerId) -> str | None:
        """The IPv4 address or IPv6 /56 a peer is connected from: it may share what it may hold here. None on loopback."""
        link = self._host.swarm.link_to(peer)
        groups = () if link is None else address_groups(link.address[0])
        return groups[0] if groups else None

    def rtt_s(self, peer: PeerId) -> float | None:
        """Smoothed round-trip time, or None."""
        return self._host.rtt_s(peer)

    async def close(self) -> None:
        """The host is closed by whoever started it."""
