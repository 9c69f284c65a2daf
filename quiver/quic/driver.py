"""One libp2p connection without I/O: datagrams and `now` in; datagrams, one timer and events out.

Streams carry whole frames (`varint length | payload`) after multistream-select.
Rules of this file: no clock, no awaiting, no sockets. Whoever drives it calls, after any method that may have something
to send, `datagrams_to_send` and then `timer`. What a peer may make us hold is bounded: per stream one unfinished frame and
a window of unread bytes, per connection `connection_window_bytes` of unread bytes, and `streams_max` streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from aioquic.quic import events as quic_events

from quiver.errors import PeerError, StreamReset, WireCode
from quiver.ids import PeerId
from quiver.quic.connection import PeerConnection
from quiver.quic.events import (
    Changed,
    Closed,
    Connected,
    Event,
    FrameStream,
    Limits,
    NetworkAddress,
    Opened,
    RouteAdded,
    RouteRemoved,
    Terminated,
)
from quiver.wire.framing import FrameReader, encode_frame
from quiver.wire.multistream import Dialer, Listener, NegotiationFailed, encode_proposal

# libp2p's connection close codes (libp2p specs, error codes): the peer stops.
CLOSE_SHUTDOWN, CLOSE_RESOURCE_LIMIT = 0x1006, 0x1001
# js-libp2p ends a connection after 10 s of silence.
KEEPALIVE_S = 4.0
NEGOTIATION_TIMEOUT_S = 10.0


class Driver:
    """Drives one `PeerConnection`. `frame_limits` maps each protocol id we serve to its largest frame in bytes."""

    def __init__(self, quic: PeerConnection, *, limits: Limits, frame_limits: Mapping[str, int], now: float) -> None:
        self._quic = quic
        self._limits = limits
        self._frame_limits = frame_limits
        self._streams: dict[int, FrameStream] = {}
        self._ignored: dict[int, None] = {}
        "Streams given up here whose peer has not ended them yet: at most `streams_max`, and our own resets in flight."
        self._blocked: dict[int, FrameStream] = {}
        self._negotiating: dict[int, float] = {}
        "Incoming stream -> when to give it up; in the order they were opened."
        self._events: deque[Event] = deque()
        self._handshake_deadline: float | None = now + limits.handshake_timeout_s
        self._keepalive_at = now + KEEPALIVE_S
        self._keepalive_s = min(KEEPALIVE_S, limits.idle_timeout_s / 3)
        self.peer_id: PeerId | None = None
        self.is_closed = False
        self.host_connection_id: bytes = quic.host_cid

    # ---- time and datagrams

    def connect(self, address: NetworkAddress, now: float) -> None:
        """Start the handshake of a dialling connection."""
        self._quic.connect(address, now=now)

    def receive_datagram(self, data: bytes, address: NetworkAddress, now: float) -> None:
        """Take one datagram."""
        self._quic.receive_datagram(data, address, now=now)
        self._keepalive_at = now + self._keepalive_s
        self._pump(now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Everything that congestion control and pacing let out now."""
        if self._quic.get_peer_address() is None:
            return []
        datagrams: list[tuple[bytes, NetworkAddress]] = self._quic.datagrams_to_send(now=now)
        return datagrams

    def timer(self) -> float | None:
        """When `handle_timer` wants to be called; may be in the past."""
        due: float | None = self._quic.get_timer()
        if self.is_closed or due is None:
            return due
        if self._handshake_deadline is not None:
            due = min(due, self._handshake_deadline)
        if self._streams:
            due = min(due, self._keepalive_at)
        for expiry in self._negotiating.values():
            return min(due, expiry)
        return due

    def handle_timer(self, now: float) -> None:
        """Time has passed: loss detection, idle timeout, keep-alive, handshake and negotiation deadlines."""
        due = self._quic.get_timer()
        if due is not None and due <= now:
            self._quic.handle_timer(now=now)
        if not self.is_closed:
            if self._handshake_deadline is not None and now >= self._handshake_deadline:
                self.close(CLOSE_RESOURCE_LIMIT, f"no handshake within {self._limits.handshake_timeout_s:g} s")
            if self._streams and now >= self._keepalive_at:
                self._quic.send_ping(0)
                self._keepalive_at = now + self._keepalive_s
            for stream_id, expiry in list(self._negotiating.items()):
                if expiry > now:
                    break
                self.reset(self._streams[stream_id], WireCode.NEGOTIATION_FAILED)
        self._pump(now)

    def next_event(self) -> Event | None:
        """The oldest event not taken yet."""
        return self._events.popleft() if self._events else None

    def close(self, code: int, reason: str) -> None:
        """End the connection with an application code; every stream is reset at once."""
        self._quic.close(error_code=code, reason_phrase=reason)
        self._notice_end()

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time, seconds; None before the first sample."""
        return self._quic.rtt_s

    @property
    def streams_open(self) -> int:
        """Streams that are not finished in both directions."""
        return len(self._streams)

    # ---- streams, from our side

    def open(self, protocol_id: str, frame_bytes_max: int) -> FrameStream:
        """A new stream that proposes `protocol_id`; frames may follow at once."""
        stream = FrameStream(self._quic.get_next_available_stream_id())
        stream.protocol_id = protocol_id
        stream.dialer = Dialer(protocol_id)
        stream.reader = FrameReader(frame_bytes_max)
        self._streams[stream.id] = stream
        self._quic.write(stream.id, encode_proposal(protocol_id))
        return stream

    def may_write(self, stream: FrameStream) -> bool:
        """Less than a window is unacknowledged. False promises a `Changed` when there is room, or the stream ended."""
        if stream.write_code is not None or self._quic.buffered_bytes(stream.id) < self._limits.stream_window_bytes:
            return True
        self._blocked[stream.id] = stream
        return False

    def write(self, stream: FrameStream, payload: bytes) -> None:
        """Send one frame. `StreamReset` once the stream was reset."""
        if stream.write_code is not None:
            raise StreamReset(stream.write_code, peer_id=self.peer_id)
        self._quic.write(stream.id, encode_frame(payload))

    def read(self, stream: FrameStream) -> bytes | None:
        """The next frame, or None. Reading is what gives the peer new credit."""
        if not stream.frames:
            return None
        frame = stream.frames.popleft()
        self._quic.add_unread(stream.id, -len(frame))
        return frame

    def has_credit_to_send(self, stream: FrameStream) -> bool:
        """Enough was read that the peer should be told now."""
        return self._quic.has_credit_to_send(stream.id)

    def finish(self, stream: FrameStream) -> None:
        """Nothing follows from us. Idempotent."""
        if stream.is_finished or stream.write_code is not None:
            return
        stream.is_finished = True
        self._quic.write(stream.id, b"", end_stream=True)
        self._forget_if_done(stream)

    def reset(self, stream: FrameStream, code: int) -> None:
        """Give up both directions: RESET_STREAM and STOP_SENDING with `code`. Idempotent; a complete stream only drops its frames."""
        if stream.id not in self._streams:
            self._drop_unread(stream)
            return
        self._quic.reset_stream(stream.id, code)
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
            self._quic.write(stream.id, encode_frame(payload))
            self.finish(stream)

    def check_silent(self, stream: FrameStream) -> None:
        """After the last frame of an rpc its stream may only end: anything else resets it."""
        if stream.frames:
            self.reset(stream, WireCode.PROTOCOL_VIOLATION)

    def _stop_receiving(self, stream: FrameStream, code: int) -> None:
        if self._quic.is_receiving(stream.id):
            self._quic.stop_stream(stream.id, code)
            self._ignored[stream.id] = None

    def _drop_unread(self, stream: FrameStream) -> None:
        """Nobody will read these frames: their bytes no longer count against the connection's credit."""
        stream.frames.clear()
        self._quic.forget_unread(stream.id)

    def _end(self, stream: FrameStream, *, read_code: int | None = None, write_code: int | None = None) -> None:
        """One or both directions end with a reset; unread frames are dropped with the reading direction."""
        if read_code is not None and stream.read_code is None:
            stream.read_code = read_code
            self._drop_unread(stream)
        if write_code is not None and stream.write_code is None:
            stream.write_code = write_code
        self._negotiating.pop(stream.id, None)
        self._forget_if_done(stream)
        self._events.append(Changed(stream))

    def _forget_if_done(self, stream: FrameStream) -> None:
        if (stream.is_finished or stream.write_code is not None) and (stream.has_ended or stream.read_code is not None):
            self._streams.pop(stream.id, None)
            self._blocked.pop(stream.id, None)

    # ---- what aioquic says

    def _pump(self, now: float) -> None:
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, quic_events.StreamDataReceived):
                self._on_data(event.stream_id, event.data, event.end_stream, now)
            elif isinstance(event, quic_events.StreamReset):
                self._on_reset(event.stream_id, event.error_code)
            elif isinstance(event, quic_events.StopSendingReceived):
                if (stream := self._streams.get(event.stream_id)) is not None:
                    self._end(stream, write_code=event.error_code)
            elif isinstance(event, quic_events.HandshakeCompleted):
                self.peer_id = self._quic.remote_peer
                assert self.peer_id is not None, "the TLS hook lets no handshake complete without a peer id"
                self._handshake_deadline = None
                self._events.append(Connected(self.peer_id))
            elif isinstance(event, quic_events.ConnectionIdIssued):
                self._events.append(RouteAdded(event.connection_id))
            elif isinstance(event, quic_events.ConnectionIdRetired):
                self._events.append(RouteRemoved(event.connection_id))
            elif isinstance(event, quic_events.ConnectionTerminated):
                self._notice_end()
                self._events.append(Terminated())
        self._notice_end()
        # Half a window of room, so that a waiting sender is not woken for every acknowledged packet.
        for stream in [
            s
            for s in self._blocked.values()
            if self._quic.buffered_bytes(s.id) <= self._limits.stream_window_bytes // 2
        ]:
            del self._blocked[stream.id]
            self._events.append(Changed(stream))

    def _notice_end(self) -> None:
        if self.is_closed or (ending := self._quic.ending) is None:
            return
        self.is_closed = True
        code, reason, by_application = ending
        for stream in list(self._streams.values()):
            stream_code = WireCode.SHUTDOWN if by_application else WireCode.NONE
            self._end(stream, read_code=None if stream.has_ended else stream_code, write_code=stream_code)
        self._events.append(Closed(code, reason))

    def _on_data(self, stream_id: int, data: bytes, has_ended: bool, now: float) -> None:
        if stream_id in self._ignored:
            if has_ended:
                del self._ignored[stream_id]
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._streams[stream_id] = FrameStream(stream_id)
            stream.listener = Listener(self._frame_limits.__contains__)
            self._negotiating[stream_id] = now + NEGOTIATION_TIMEOUT_S
        try:
            self._feed(stream, data)
            if has_ended and (stream.reader is None or stream.dialer is not None or stream.reader.pending_bytes):
                raise NegotiationFailed("the stream ended before a protocol was agreed or inside a frame")
        except PeerError as error:
            self.reset(stream, error.wire_code)
            return
        if has_ended:
            stream.has_ended = True
            self._forget_if_done(stream)
        if stream.reader is not None and (stream.frames or has_ended):
            self._events.append(Changed(stream))

    def _feed(self, stream: FrameStream, data: bytes) -> None:
        if stream.listener is not None:
            reply, data = stream.listener.feed(data)
            if reply:
                self._quic.write(stream.id, reply)
            if stream.listener.protocol_id is None:
                return
            stream.protocol_id = stream.listener.protocol_id
            stream.listener = None
            stream.reader = FrameReader(self._frame_limits[stream.protocol_id])
            del self._negotiating[stream.id]
            self._events.append(Opened(stream))
        elif stream.dialer is not None:
            surplus = stream.dialer.feed(data)
            if surplus is None:
                return
            stream.dialer, data = None, surplus
        assert stream.reader is not None
        for frame in stream.reader.feed(data):
            stream.frames.append(frame)
            self._quic.add_unread(stream.id, len(frame))

    def _on_reset(self, stream_id: int, code: int) -> None:
        if stream_id in self._ignored:
            # The peer's answer to our STOP_SENDING; what we still write is not affected.
            del self._ignored[stream_id]
            return
        # libp2p resets both directions: end ours too. A stream we never heard of only has its slot freed.
        self._quic.reset_stream(stream_id, code)
        if (stream := self._streams.get(stream_id)) is not None:
            self._end(stream, read_code=code, write_code=code)
