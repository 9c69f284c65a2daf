"""Streams of whole frames over one connection, whatever carries its bytes: multistream-select, framing, ends and resets.

Rules of this file: no I/O, no clock, no awaiting. What a peer may make us hold is bounded: a stream one unfinished frame and a
window of unread bytes, a connection `streams_max` streams and `connection_window_bytes`. Subclasses say how bytes travel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from quiver.errors import PeerError, StreamReset, WireCode
from quiver.ids import PeerId
from quiver.quic.agreement import hear_echo, hear_proposal, proposal
from quiver.quic.events import Changed, Closed, Event, FrameStream, Opened
from quiver.quic.limits import Limits, Refusal
from quiver.quic.rate import Bucket
from quiver.quic.way import Way
from quiver.wire.framing import Framing
from quiver.wire.multistream import NegotiationFailed

# libp2p's connection close codes (libp2p specs, error codes).
CLOSE_RESOURCE_LIMIT, CLOSE_RATE_LIMITED, CLOSE_PROTOCOL_VIOLATION, CLOSE_SUPPLANTED, CLOSE_SHUTDOWN, CLOSE_GATED = (
    0x1001, 0x1002, 0x1003, 0x1004, 0x1006, 0x1007
)  # fmt: skip
# For naming a protocol, and then for the whole question of an rpc.
NEGOTIATION_TIMEOUT_S = 10.0
# What an unread frame costs beside its bytes: without it, empty ones would cost a peer no credit at all.
FRAME_COST_BYTES = 32


class StreamDriver(Way):
    """One connection. `framings` has each protocol id we serve."""

    def __init__(self, *, limits: Limits, framings: Mapping[str, Framing]) -> None:
        super().__init__(limits)
        self._framings = framings
        self._streams: dict[int, FrameStream] = {}
        self._ignored: dict[int, None] = {}
        "Streams given up here whose peer has not ended them yet: at most `streams_max`, and our own resets in flight."
        self._blocked: dict[int, FrameStream] = {}
        self._negotiating: dict[int, float] = {}
        "Incoming stream that has not said what it wants -> when to give it up, soonest first."
        self._waste = Bucket(limits.waste, 0.0)
        self.on_refusal: Callable[[Refusal], None] = lambda kind: None
        "Called with the kind of each refusal."
        self._events: deque[Event] = deque()
        self.peer_id: PeerId | None = None
        self.is_closed, self.ending_reason = False, ""
        "Why it was closed, in the words of whoever closed it."

    # ---- the connection

    def next_event(self) -> Event | None:
        """The oldest event not taken yet."""
        return self._events.popleft() if self._events else None

    @property
    def streams_open(self) -> int:
        """Streams that are not finished in both directions."""
        return len(self._streams)

    def is_open(self, stream: FrameStream) -> bool:
        """It is not finished in both directions."""
        return stream.id in self._streams

    def _unfinished_bytes(self) -> int:
        return sum(stream.reader.pending_bytes for stream in self._streams.values() if stream.reader is not None)

    def _relieve(self) -> None:
        """The node has no room for what the peer sent: the largest stream goes, and all of them where that is not enough.

        A little has room always. What we have written is no fault of the peer's: writers wait.
        """
        if self._received_bytes_total() <= self.lease.reserve_bytes:
            return
        largest = max(self._streams.values(), key=lambda stream: stream.unread_bytes, default=None)
        if largest is not None:
            self.reset(largest, WireCode.RESOURCE_LIMIT)
        if self._received_bytes_total() > self.lease.reserve_bytes and not self.lease.take(0):
            self.close(CLOSE_RESOURCE_LIMIT, "no memory is left for what this connection holds")

    # ---- streams, from our side

    def open(self, protocol_id: str, framing: Framing) -> FrameStream:
        """A new stream that proposes `protocol_id`; frames may follow at once."""
        stream = FrameStream(self._next_stream_id(), is_ours=True)
        stream.protocol_id, stream.framing = protocol_id, framing
        self._streams[stream.id] = stream
        self._agree(stream.id, proposal(protocol_id))
        return stream

    def may_write(self, stream: FrameStream) -> bool:
        """Less than a window is unacknowledged. False promises a `Changed` when there is room, or the stream ended."""
        if stream.write_code is not None:
            return True
        if self._buffered_bytes(stream.id) < self._limits.stream_window_bytes and self.has_memory():
            return True
        self._blocked[stream.id] = stream
        return False

    def write(self, stream: FrameStream, payload: bytes, *, is_last: bool = False) -> None:
        """Send one frame, and with the last one the end. `StreamReset` once the stream was reset."""
        if stream.write_code is not None:
            raise StreamReset(stream.write_code, peer_id=self.peer_id)
        assert stream.framing is not None, "nothing is written before a protocol is agreed"
        data = stream.framing.encode(payload)
        self._write(stream.id, data, end_stream=is_last)
        self._count_written(len(data))
        if is_last:
            stream.is_finished = True
            self._forget_if_done(stream)

    def read(self, stream: FrameStream) -> bytes | None:
        """The next frame, or None. Reading is what gives the peer new credit."""
        if not stream.frames:
            return None
        frame = stream.frames.popleft()
        self._on_read(stream.id, len(frame) + FRAME_COST_BYTES)
        return frame

    def finish(self, stream: FrameStream) -> None:
        """Nothing follows from us. Idempotent."""
        if stream.is_finished or stream.write_code is not None:
            return
        stream.is_finished = True
        self._write(stream.id, b"", end_stream=True)
        self._forget_if_done(stream)

    def reset(self, stream: FrameStream, code: int) -> None:
        """Give up both directions: RESET_STREAM and STOP_SENDING with `code`. Idempotent; a complete stream only drops its frames."""
        if stream.id not in self._streams:
            self._drop_unread(stream)
            return
        self._reset_sending(stream.id, code)
        self._stop_receiving(stream, code)
        self._end(stream, read_code=code, write_code=code)

    def abandon(self, stream: FrameStream) -> None:
        """We read no further; what we wrote is still delivered."""
        if stream.id in self._streams and not stream.has_ended and stream.read_code is None:
            self._stop_receiving(stream, WireCode.NONE)
            self._end(stream, read_code=WireCode.NONE)
        else:
            self._drop_unread(stream)

    def write_last(self, stream: FrameStream, payload: bytes) -> None:
        """One frame and the end, in one go; dropped when the stream was reset meanwhile."""
        if stream.write_code is None and not stream.is_finished:
            self.write(stream, payload, is_last=True)

    def expect_silence(self, stream: FrameStream) -> None:
        """The last frame of an rpc was read: its stream may only end, and anything else resets it."""
        if stream.frames:
            self.reset(stream, WireCode.PROTOCOL_VIOLATION)
        # What is over refers to nobody, so that it is gone at once and not when garbage is collected.
        stream.on_change = partial(self.expect_silence, stream) if self.is_open(stream) else None

    def _stop_receiving(self, stream: FrameStream, code: int) -> None:
        if self._stop_peer(stream.id, code):
            self._ignored[stream.id] = None

    def _drop_unread(self, stream: FrameStream) -> None:
        """Nobody will read these frames: their bytes no longer count against the connection's credit."""
        stream.frames.clear()
        self._forget_unread(stream.id)

    def _end(self, stream: FrameStream, *, read_code: int | None = None, write_code: int | None = None) -> None:
        """One or both directions end with a reset; unread frames are dropped with the reading direction."""
        if read_code is not None and stream.read_code is None:
            stream.read_code = read_code
            self._drop_unread(stream)
            # Not with the other half alone: who wants no answer has no longer to say something.
            self._negotiating.pop(stream.id, None)
        if write_code is not None and stream.write_code is None:
            stream.write_code = write_code
        self._forget_if_done(stream)
        self._events.append(Changed(stream))

    def _forget_if_done(self, stream: FrameStream) -> None:
        if (stream.is_finished or stream.write_code is not None) and (stream.has_ended or stream.read_code is not None):
            self._blocked.pop(stream.id, None)
            self._negotiating.pop(stream.id, None)
            if self._streams.pop(stream.id, None) is not None and stream.on_done is not None:
                stream.on_done()

    # ---- streams, from the peer's side

    def expect_question(self, stream: FrameStream, now: float) -> None:
        """Give the stream up unless a whole frame comes soon."""
        self._negotiating.pop(stream.id, None)
        self._negotiating[stream.id] = now + NEGOTIATION_TIMEOUT_S

    def _expire_negotiations(self, now: float) -> None:
        for stream_id, expiry in list(self._negotiating.items()):
            # One of them may have been one too many, and then all are over.
            if expiry > now or self.is_closed:
                break
            stream = self._streams[stream_id]
            self.on_refusal(Refusal.NEGOTIATION if stream.reader is None else Refusal.QUESTION)
            self.reset(stream, WireCode.NEGOTIATION_FAILED if stream.reader is None else WireCode.DEADLINE)
            self.count_waste(now)

    def count_waste(self, now: float) -> None:
        """A stream of the peer's came to nothing. Opening and resetting costs it less than us, so it is bounded."""
        if not self._waste.take(now) and not self.is_closed:
            self.on_refusal(Refusal.WASTE)
            self.close(CLOSE_RATE_LIMITED, "too many streams that came to nothing")

    def _end_all(self, code: int, reason: str, *, stream_code: int) -> None:
        """The connection is over."""
        self.is_closed, self.ending_reason = True, reason
        for stream in list(self._streams.values()):
            self._end(stream, read_code=None if stream.has_ended else stream_code, write_code=stream_code)
        self._events.append(Closed(code, reason))

    def _wake_blocked(self) -> None:
        """Half a window of room, so that a waiting sender is not woken for every acknowledged packet."""
        if self._blocked and self.has_memory():
            room = self._limits.stream_window_bytes // 2
            for stream in [s for s in self._blocked.values() if self._buffered_bytes(s.id) <= room]:
                del self._blocked[stream.id]
                self._events.append(Changed(stream))

    def _on_data(self, stream_id: int, data: bytes, has_ended: bool, now: float) -> None:
        if self.is_closed:
            return
        if stream_id in self._ignored:
            if has_ended:
                del self._ignored[stream_id]
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._streams[stream_id] = FrameStream(stream_id, is_ours=False)
            self._negotiating[stream_id] = now + NEGOTIATION_TIMEOUT_S
        try:
            self._feed(stream, data)
            if has_ended and (stream.reader is None or stream.reader.pending_bytes):
                raise NegotiationFailed("the stream ended before a protocol was agreed or inside a frame")
        except PeerError as error:
            self.on_refusal(Refusal.NEGOTIATION if stream.reader is None else Refusal.FRAME)
            self.reset(stream, error.wire_code)
            if not stream.is_ours:
                self.count_waste(now)
            return
        if stream.frames:
            self._negotiating.pop(stream_id, None)
        if has_ended:
            stream.has_ended = True
            self._forget_if_done(stream)
        if stream.reader is not None and (stream.frames or has_ended):
            self._events.append(Changed(stream))

    def _feed(self, stream: FrameStream, data: bytes) -> None:
        if (reader := stream.reader) is None:
            rest = hear_echo(stream, data) if stream.is_ours else self._hear_proposal(stream, data)
            if rest is None:
                return
            assert stream.framing is not None
            reader, data = stream.framing.reader(), rest
            stream.reader, stream.dialer, stream.listener = reader, None, None
        for frame in reader.feed(data):
            stream.frames.append(frame)
            self._on_kept(stream.id, len(frame) + FRAME_COST_BYTES)

    def _hear_proposal(self, stream: FrameStream, data: bytes) -> bytes | None:
        reply, rest = hear_proposal(stream, data, self._framings)
        if rest is None:
            self._write(stream.id, reply)
            return None
        self._agree(stream.id, reply)
        stream.framing = self._framings[stream.protocol_id]
        del self._negotiating[stream.id]
        self._events.append(Opened(stream))
        return rest

    def _on_reset(self, stream_id: int, code: int, now: float) -> None:
        if self.is_closed:
            return
        if stream_id in self._ignored:
            # The peer's answer to our STOP_SENDING; what we still write is not affected.
            del self._ignored[stream_id]
            return
        # libp2p resets both directions: end ours too. A stream we never heard of only has its slot freed.
        self._reset_sending(stream_id, code)
        if (stream := self._streams.get(stream_id)) is not None:
            if code == WireCode.NONE and stream.reader is None:
                # No protocol is agreed yet. js-libp2p says "na", takes our first frame for a proposal, and its reset overtakes it.
                code = WireCode.NEGOTIATION_FAILED
            # What came whole before may still be read.
            self._end(stream, read_code=None if stream.has_ended else code, write_code=code)
        if stream is None or not stream.is_ours:
            self.count_waste(now)
