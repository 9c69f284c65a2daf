"""MessagePack codec of our own messages: one version byte, then a tagged msgspec array.

A newer minor version may append fields, which this reader ignores; another major version is refused by name.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from quiver.errors import MalformedMessage, UnsupportedVersion

MAJOR, MINOR = 1, 0
VERSION = MAJOR << 4 | MINOR
_VERSION_BYTE = bytes((VERSION,))

T = TypeVar("T")


class MessageCodec(Generic[T]):
    """Codec of one protocol: `types` is a union of tagged structs, or one struct."""

    fixed_bytes = 0

    def __init__(self, protocol_id: str, types: Any, *, frame_bytes_max: int) -> None:
        self.id = protocol_id
        self.frame_bytes_max = frame_bytes_max
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(types)
        self._encode = self._encoder.encode

    def encode(self, message: T) -> bytes:
        """Bytes of one message; `MalformedMessage` if it is larger than a frame may be."""
        data = _VERSION_BYTE + self._encode(message)
        if len(data) > self.frame_bytes_max:
            raise MalformedMessage(
                f"{self.id}: a message of {len(data)} bytes; at most {self.frame_bytes_max} may be sent"
            )
        return data

    def decode(self, data: bytes) -> T:
        """The message, or `MalformedMessage` / `UnsupportedVersion`."""
        if len(data) > self.frame_bytes_max:
            raise MalformedMessage(
                f"{self.id}: a message of {len(data)} bytes; at most {self.frame_bytes_max} are read"
            )
        if not data:
            raise MalformedMessage(f"{self.id}: an empty message")
        if data[0] >> 4 != MAJOR:
            raise UnsupportedVersion(f"{self.id}: peer speaks major version {data[0] >> 4}, we speak {MAJOR}")
        try:
            message: T = self._decoder.decode(memoryview(data)[1:])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise MalformedMessage(f"{self.id}: {error}") from error
        return message

    def size(self, message: T) -> int:
        """len(encode(message)), for transports that do not need the bytes."""
        return 1 + len(self._encode(message))
