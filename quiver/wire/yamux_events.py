"""What a yamux session tells whoever drives it. Values only."""

from __future__ import annotations

import msgspec


class StreamOpened(msgspec.Struct, frozen=True):
    """The peer opened a stream. `accept`, `write` or `finish` acknowledges it, `reset` refuses it."""

    stream_id: int


class DataReceived(msgspec.Struct, frozen=True):
    """Bytes of a stream; they are unread until `consume`."""

    stream_id: int
    data: bytes


class StreamEnded(msgspec.Struct, frozen=True):
    """The peer sends no more on this stream."""

    stream_id: int


class StreamAborted(msgspec.Struct, frozen=True):
    """Both directions are over; what was unread no longer counts."""

    stream_id: int
    code: int
    "The peer's code, 0 from those that send none; RESOURCE_LIMIT when it was reset here because too much was unread."


class StreamRefused(msgspec.Struct, frozen=True):
    """A stream of the peer's was reset here: it has too many (this one is new), or too much of it and others is unread."""

    stream_id: int
    is_new: bool


class CreditReceived(msgspec.Struct, frozen=True):
    """The peer read from a stream on which `write` had to stop."""

    stream_id: int


class PongReceived(msgspec.Struct, frozen=True):
    """The answer to `ping`."""

    value: int


class SessionEnded(msgspec.Struct, frozen=True):
    """Nothing more is read or written, but for what `data_to_send` still has. Every stream is over."""

    code: int
    reason: str
    by_peer: bool


Event = (
    StreamOpened
    | DataReceived
    | StreamEnded
    | StreamAborted
    | StreamRefused
    | CreditReceived
    | PongReceived
    | SessionEnded
)
