"""The header of a yamux frame (libp2p specifications, yamux, framing): twelve bytes, big-endian."""

from __future__ import annotations

import struct

_HEADER = struct.Struct(">BBHII")
HEADER_BYTES = _HEADER.size

DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8
GO_AWAY_NORMAL, GO_AWAY_PROTOCOL_ERROR, GO_AWAY_INTERNAL_ERROR = 0, 1, 2
NUMBER_MAX = (1 << 32) - 1


class Violation(Exception):
    """The peer broke the rule that the message names."""


def encode_header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """`length` is that of a payload, a delta of credit, a ping's value or a code."""
    return _HEADER.pack(0, kind, flags, stream_id, length)


def decode_header(data: bytes | bytearray) -> tuple[int, int, int, int]:
    """(kind, flags, stream id, length); `Violation` for another version or kind, or a stream where none belongs."""
    version, kind, flags, stream_id, length = _HEADER.unpack(data)
    if version != 0:
        raise Violation(f"yamux version {version}, not 0")
    if kind > GO_AWAY:
        raise Violation(f"yamux frame of type {kind}; 0 to 3 are known")
    if (stream_id == 0) != (kind in (PING, GO_AWAY)):
        raise Violation(f"yamux frame of type {kind} for stream {stream_id}")
    return kind, flags, stream_id, length
