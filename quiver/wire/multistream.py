"""multistream-select 1.0 without I/O: how a stream names its protocol (libp2p specs, connections).

A message is `varint length | text | newline`. The dialer is optimistic: header, proposal and first payload leave in one
write and the echo is read later, so naming a protocol costs no round trip. A listener keeps what follows the proposal.
"""

from __future__ import annotations

from collections.abc import Callable

from quiver.errors import MalformedMessage, PeerError, WireCode
from quiver.wire.framing import decode_varint, encode_frame

HEADER = "/multistream/1.0.0"
NOT_AVAILABLE = "na"
# js-libp2p refuses longer messages; so do we.
MESSAGE_BYTES_MAX = 1024
# A dialer that has not found a protocol after this many proposals is not negotiating.
PROPOSALS_MAX = 100


class NegotiationFailed(PeerError):
    """The two sides share no protocol, or the bytes are not multistream-select."""

    wire_code = WireCode.NEGOTIATION_FAILED


def encode_message(text: str) -> bytes:
    """`varint length | text | newline`; the length counts the newline."""
    return encode_frame(text.encode() + b"\n")


_HEADER_BYTES = encode_message(HEADER)
_NOT_AVAILABLE_BYTES = encode_message(NOT_AVAILABLE)


def encode_proposal(protocol_id: str) -> bytes:
    """Header and proposal: what a dialer writes before its first payload."""
    return _HEADER_BYTES + encode_message(protocol_id)


def split_proposal(data: bytes) -> tuple[str, int] | None:
    """(protocol id, where what follows begins) of a dialer that wrote its header and a short proposal at once, as most do.

    An agreement repeats exactly those bytes. None: let a `Listener` look closer.
    """
    at = len(_HEADER_BYTES)
    if len(data) <= at or not data.startswith(_HEADER_BYTES):
        return None
    end = at + 1 + data[at]
    if data[at] >= 0x80 or data[end - 1 : end] != b"\n":
        return None
    try:
        return data[at + 1 : end - 1].decode(), end
    except UnicodeDecodeError:
        return None


class _Reader:
    """Cuts a byte stream into multistream messages; holds at most one message and what came with it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> str | None:
        """The next message without its newline, or None when more bytes are needed."""
        try:
            head = decode_varint(self._buffer)
        except MalformedMessage as error:
            raise NegotiationFailed(f"not a multistream message: {error}") from error
        if head is None:
            return None
        length, start = head
        if not 0 < length <= MESSAGE_BYTES_MAX:
            raise NegotiationFailed(f"a multistream message of {length} bytes; 1 to {MESSAGE_BYTES_MAX} are read")
        if len(self._buffer) < start + length:
            return None
        raw = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        if raw[-1:] != b"\n":
            raise NegotiationFailed("a multistream message without its newline")
        try:
            return raw[:-1].decode()
        except UnicodeDecodeError as error:
            raise NegotiationFailed("a multistream message that is not UTF-8") from error

    def surplus(self) -> bytes:
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


class Dialer:
    """Proposes one protocol. Write `encode_proposal(protocol_id)` first, then feed what the peer says."""

    def __init__(self, protocol_id: str) -> None:
        self._protocol_id = protocol_id
        self._reader = _Reader()
        self._header_seen = False

    def feed(self, data: bytes) -> bytes | None:
        """None while more is needed; then the payload bytes that followed the echo. `NegotiationFailed` on `na`."""
        self._reader.feed(data)
        while (text := self._reader.next()) is not None:
            if not self._header_seen:
                if text != HEADER:
                    raise NegotiationFailed(f"expected {HEADER}, the peer said {text[:60]!r}")
                self._header_seen = True
            elif text == self._protocol_id:
                return self._reader.surplus()
            elif text == NOT_AVAILABLE:
                raise NegotiationFailed(f"the peer does not serve {self._protocol_id}")
            else:
                raise NegotiationFailed(f"proposed {self._protocol_id}, the peer said {text[:60]!r}")
        return None


class Listener:
    """Answers proposals. `is_served` says whether we speak a protocol id."""

    def __init__(self, is_served: Callable[[str], bool]) -> None:
        self._is_served = is_served
        self._reader = _Reader()
        self._header_seen = False
        self._proposals = 0
        self.protocol_id: str | None = None
        "The agreed protocol, once `feed` has returned it."

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """(what to write, payload that followed the agreed proposal). `NegotiationFailed` when the peer breaks the rules."""
        self._reader.feed(data)
        reply = b""
        while self.protocol_id is None and (text := self._reader.next()) is not None:
            if not self._header_seen:
                if text != HEADER:
                    raise NegotiationFailed(f"expected {HEADER}, the peer said {text[:60]!r}")
                self._header_seen = True
                reply += _HEADER_BYTES
            elif self._is_served(text):
                self.protocol_id = text
                reply += encode_message(text)
            else:
                self._proposals += 1
                if self._proposals >= PROPOSALS_MAX:
                    raise NegotiationFailed(f"{PROPOSALS_MAX} proposals and none is served here")
                reply += _NOT_AVAILABLE_BYTES
        return reply, self._reader.surplus() if self.protocol_id is not None else b""
