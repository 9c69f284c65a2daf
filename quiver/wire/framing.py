"""Unsigned varints and length-prefixed frames (multiformats unsigned-varint; at most 9 bytes, minimal form)."""

from __future__ import annotations

import msgspec

from quiver.errors import MalformedMessage

VARINT_BYTES_MAX = 9


def encode_varint(value: int) -> bytes:
    """7 bits a byte, little-endian groups, most significant bit = more."""
    if 0 <= value < 1 << 14:
        return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80, value >> 7))
    if not 0 <= value < 1 << 63:
        raise MalformedMessage(f"a varint holds 0 to 2^63 - 1, not {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """(value, offset after it), or None when more bytes are needed."""
    if len(data) > offset + 1 and data[offset] >= 0x80 > data[offset + 1] > 0:
        # Two bytes, as most frames of ours have.
        return data[offset] & 0x7F | data[offset + 1] << 7, offset + 2
    value = shift = 0
    for position in range(offset, min(len(data), offset + VARINT_BYTES_MAX)):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and position > offset:
                raise MalformedMessage("a varint that is not in its shortest form")
            return value, position + 1
        shift += 7
    if len(data) - offset >= VARINT_BYTES_MAX:
        raise MalformedMessage(f"a varint of more than {VARINT_BYTES_MAX} bytes")
    return None


def encode_frame(payload: bytes) -> bytes:
    """varint length | payload."""
    return encode_varint(len(payload)) + payload


class Framing(msgspec.Struct, frozen=True):
    """How a protocol cuts its streams into messages of at most `bytes_max`: by length prefix, or all of one size."""

    bytes_max: int
    fixed_bytes: int = 0
    "Every message has exactly this many bytes and no prefix; 0: a prefix."

    def encode(self, payload: bytes) -> bytes:
        """The bytes on the wire."""
        return payload if self.fixed_bytes else encode_frame(payload)

    def reader(self) -> FrameReader | FixedReader:
        """For one stream."""
        return FixedReader(self.fixed_bytes) if self.fixed_bytes else FrameReader(self.bytes_max)


class FixedReader:
    """Bytes in, messages of one size out."""

    def __init__(self, size: int) -> None:
        self._buffer = bytearray()
        self._size = size

    def feed(self, data: bytes) -> list[bytes]:
        """Messages completed by `data`."""
        self._buffer += data
        whole = len(self._buffer) - len(self._buffer) % self._size
        messages = [bytes(self._buffer[at : at + self._size]) for at in range(0, whole, self._size)]
        del self._buffer[:whole]
        return messages

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished message."""
        return len(self._buffer)


class FrameReader:
    """Bytes in, whole frames out. Holds at most one frame of `frame_bytes_max` and what came with it."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._buffer = bytearray()
        self._frame_bytes_max = frame_bytes_max

    def feed(self, data: bytes) -> list[bytes]:
        """Frames completed by `data`. `MalformedMessage` for a length beyond the limit, before anything is stored."""
        if not self._buffer:
            # Most often `data` is whole frames: they are cut without passing through the buffer.
            frames, taken = self._cut(data)
            if taken < len(data):
                self._buffer += data[taken:]
            return frames
        self._buffer += data
        frames, taken = self._cut(self._buffer)
        del self._buffer[:taken]
        return frames

    def _cut(self, data: bytes | bytearray) -> tuple[list[bytes], int]:
        """(whole frames, bytes they took)."""
        frames: list[bytes] = []
        offset, size = 0, len(data)
        while offset < size:
            length, start = data[offset], offset + 1
            if length >= 0x80:
                head = decode_varint(data, offset)
                if head is None:
                    break
                length, start = head
            if length > self._frame_bytes_max:
                raise MalformedMessage(f"a frame of {length} bytes; at most {self._frame_bytes_max} are read")
            if size - start < length:
                break
            offset = start + length
            frames.append(bytes(data[start:offset]))
        return frames, offset

    @property
    def pending_bytes(self) -> int:
        """Bytes of an unfinished frame; not zero at the end of a stream means it was cut."""
        return len(self._buffer)
