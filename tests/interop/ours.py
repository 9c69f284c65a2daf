"""Our node as the interop tests use it, and the protocols that every peer in them serves."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from quiver.errors import WireCode
from quiver.identity.keys import KeyPair
from quiver.identity.peer_id import parse_peer_id, peer_id_text
from quiver.live.libp2p.host import Host, Kind
from quiver.ports import Stream
from quiver.quic.limits import Limits, NodeLimits
from quiver.values.peer import PeerInfo
from quiver.wire.framing import encode_frame
from quiver.wire.multiaddr import from_text, to_text
from tests.interop.foreign import ForeignPeer

FRAME_BYTES = 32_000
# What tells an address of a kind from others.
PARTS = {Kind.QUIC: "/quic-v1", Kind.TCP: "/tcp/"}
# The code our RESET handler gives: any that nothing else would send.
RESET_CODE = WireCode.UNKNOWN_MODEL


class RawFrames:
    """Frames of plain bytes."""

    frame_bytes_max = 64 * 1024
    fixed_bytes = 0

    def __init__(self, protocol_id: str) -> None:
        self.id = protocol_id

    def encode(self, message: bytes) -> bytes:
        return message

    def decode(self, data: bytes) -> bytes:
        return data

    def size(self, message: bytes) -> int:
        return len(message)


ECHO = RawFrames("/quiver/interop/echo/1.0.0")
"What comes is sent back, then the end."
COUNT = RawFrames("/quiver/interop/count/1.0.0")
"At the end of what comes, how many bytes it was, as decimal text in one frame."
RESET = RawFrames("/quiver/interop/reset/1.0.0")
"After the first bytes the stream is reset."
NOBODYS = RawFrames("/quiver/interop/nobody/1.0.0")
"Served nowhere."


class Seen:
    """What the handlers of our node saw: the peer of each stream, and the error that ended it, if one did."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.errors: list[Exception] = []


def serve(node: Host) -> Seen:
    """Serve the protocols of the tests."""
    seen = Seen()

    async def echo(stream: Stream) -> None:
        seen.peers.append(peer_id_text(stream.peer_id))
        try:
            while (frame := await stream.receive()) is not None:
                await stream.send(frame)
        except Exception as error:
            seen.errors.append(error)
            raise
        stream.finish()

    async def count(stream: Stream) -> None:
        total = 0
        while (frame := await stream.receive()) is not None:
            total += len(encode_frame(frame))
        await stream.send(str(total).encode())
        stream.finish()

    async def reset(stream: Stream) -> None:
        await stream.receive()
        stream.reset(RESET_CODE)

    node.serve(ECHO, echo)
    node.serve(COUNT, count)
    node.serve(RESET, reset)
    return seen


class Way(NamedTuple):
    """A foreign peer, and how we and it reach each other."""

    other: ForeignPeer
    kind: Kind

    def info(self, ip: str = "/ip4/") -> PeerInfo:
        """What our node is told of it."""
        return PeerInfo(
            peer_id=parse_peer_id(self.other.peer), addresses=(from_text(self.other.address(ip, PARTS[self.kind])),)
        )

    @asynccontextmanager
    async def opened(
        self, host: str = "127.0.0.1", *, limits: Limits | None = None, node_limits: NodeLimits | None = None
    ) -> AsyncIterator[Host]:
        """A node of ours with a key of its own, that knows no other way."""
        node = Host(KeyPair(os.urandom(32)), host=host, kinds=(self.kind,), limits=limits, node_limits=node_limits)
        await node.start()
        try:
            yield node
        finally:
            await node.close()


def address(node: Host) -> str:
    """Where a foreign peer dials it."""
    return f"{to_text(node.local_info().addresses[0])}/p2p/{peer_id_text(node.peer_id)}"
