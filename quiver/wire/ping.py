"""ping: 32 random bytes and their echo (libp2p specifications, ping)."""

from __future__ import annotations

from quiver.errors import MalformedMessage

PING_BYTES = 32


class PingCodec:
    """The bytes are the message; no length goes before them."""

    id = "/ipfs/ping/1.0.0"
    frame_bytes_max = PING_BYTES
    fixed_bytes = PING_BYTES

    def encode(self, message: bytes) -> bytes:
        """The 32 bytes; `MalformedMessage` for any other number."""
        return self.decode(message)

    def decode(self, data: bytes) -> bytes:
        """The 32 bytes; `MalformedMessage` for any other number."""
        if len(data) != PING_BYTES:
            raise MalformedMessage(f"{self.id}: {len(data)} bytes; a ping has {PING_BYTES}")
        return data

    def size(self, message: bytes) -> int:
        """Always 32."""
        return PING_BYTES


PING = PingCodec()
