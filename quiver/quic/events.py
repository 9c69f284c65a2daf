"""What a driver knows of a stream, and what it tells whoever drives it. Values only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from quiver.ids import PeerId
from quiver.wire.framing import FixedReader, FrameReader, Framing
from quiver.wire.multistream import Dialer, Listener

NetworkAddress = tuple[str, int]
"""Numeric host and UDP port."""


class FrameStream:
    """State of one stream. `read_code` and `write_code` are set once that direction ended with a reset."""

    __slots__ = (
        "id", "protocol_id", "frames", "has_ended", "is_finished", "read_code", "write_code",
        "on_change", "on_done", "is_ours", "dialer", "listener", "framing", "reader",
    )  # fmt: skip

    def __init__(self, stream_id: int, *, is_ours: bool) -> None:
        self.id = stream_id
        self.is_ours = is_ours
        self.protocol_id = ""
        self.frames: deque[bytes] = deque()
        self.has_ended = False
        "The peer's clean end has arrived; frames may still wait in front of it."
        self.is_finished = False
        "We said that nothing follows."
        self.read_code: int | None = None
        self.write_code: int | None = None
        self.on_change: Callable[[], None] | None = None
        "Called by whoever takes `Changed` events."
        self.on_done: Callable[[], None] | None = None
        "Called once, when both directions are over."
        self.dialer: Dialer | None = None
        self.listener: Listener | None = None
        self.framing: Framing | None = None
        self.reader: FrameReader | FixedReader | None = None
        "Set once the peer has named the protocol; until then `dialer` or `listener` keeps what came of it in pieces."

    @property
    def unread_bytes(self) -> int:
        """Of whole frames and of one that is not whole yet."""
        return sum(map(len, self.frames)) + (0 if self.reader is None else self.reader.pending_bytes)


class Connected(msgspec.Struct, frozen=True):
    """The peer has proved who it is."""

    peer_id: PeerId


class Opened(msgspec.Struct, frozen=True):
    """The peer opened a stream and a protocol was agreed."""

    stream: FrameStream


class Changed(msgspec.Struct, frozen=True):
    """A stream has frames, room, an end or a reset to look at."""

    stream: FrameStream


class RouteAdded(msgspec.Struct, frozen=True):
    """Datagrams for this connection id belong here."""

    connection_id: bytes


class RouteRemoved(msgspec.Struct, frozen=True):
    """No longer."""

    connection_id: bytes


class Closed(msgspec.Struct, frozen=True):
    """Either side ended the connection; every stream was reset. Keep driving it until `Terminated`."""

    code: int
    reason: str


class Terminated(msgspec.Struct, frozen=True):
    """Nothing more to send or receive: forget the connection."""


Event = Connected | Opened | Changed | RouteAdded | RouteRemoved | Closed | Terminated
