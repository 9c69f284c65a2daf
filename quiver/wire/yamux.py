"""One yamux session without I/O: bytes in, events out, bytes to send (libp2p specifications, yamux; `/yamux/1.0.0`).

Rules of this file: no clock, no awaiting. Streams are named by their id. Whoever drives it calls `data_to_send` after any other
method, writes again what `write` did not take, and says with `consume` what was read: that is the peer's credit, and without it
a stream stands still after a window.
What a peer can make us hold: `unread_bytes_max` of payload, `streams_max` streams, eleven bytes of a header, and `OUTPUT_BYTES_MAX`
plus `CONTROL_BYTES_MAX` that it does not read. A payload is handed over as it comes, so a frame's size costs no memory.
A peer that breaks a rule ends the session: GoAway with code 1, and a `SessionEnded` that names the rule.
"""

from __future__ import annotations

from quiver.errors import Busy, PeerUnreachable, UsageError, WireCode
from quiver.wire import yamux_events as tell
from quiver.wire import yamux_frame as frame
from quiver.wire.yamux_frame import HEADER_BYTES, NUMBER_MAX, Violation, decode_header, encode_header
from quiver.wire.yamux_stream import INITIAL_WINDOW_BYTES, WINDOW_BYTES_MAX, StreamBooks

YAMUX = "/yamux/1.0.0"
# Other frames wait behind one of ours no longer than this (go- and js-libp2p send the same). Larger ones are read.
FRAME_PAYLOAD_BYTES_MAX = 64 * 1024
# Streams of ours that the peer has not acknowledged (libp2p specs, yamux, ACK backlog).
BACKLOG_MAX = 256
OUTPUT_BYTES_MAX, CONTROL_BYTES_MAX = 1024 * 1024, 64 * 1024
PINGS_MAX = 8


class YamuxSession:
    """One side of a session; the side that dialled opens odd stream ids. `window_bytes` is what a stream may hold unread."""

    def __init__(
        self,
        *,
        is_dialer: bool,
        window_bytes: int = INITIAL_WINDOW_BYTES,
        unread_bytes_max: int = 16 * 1024 * 1024,
        streams_max: int = 256,
    ) -> None:
        if not INITIAL_WINDOW_BYTES <= window_bytes <= WINDOW_BYTES_MAX:
            raise UsageError(f"a yamux window is 256 KiB to 16 MiB, not {window_bytes} bytes")
        self._window_bytes = window_bytes
        self._unread_bytes_max = unread_bytes_max
        self._streams_max = streams_max
        self._streams: dict[int, StreamBooks] = {}
        self._unread: dict[int, int] = {}
        "Stream -> bytes handed over and not consumed; a stream may be over before it is read."
        self._next_id = 1 if is_dialer else 2
        self._header = bytearray()
        self._payload_left = 0
        "Bytes of the current Data frame that are still to come."
        self._payload_of: int | None = None
        "The stream they belong to; None: nobody's."
        self._fin_follows = False
        "The current Data frame ends its stream."
        self._pings: dict[int, None] = {}
        self._out = bytearray()
        self._events: list[tell.Event] = []
        self._over: dict[int, None] = {}
        "Streams that ended since events were last taken."
        self._ping_count = self._unacknowledged = 0
        self._streams_open = [0, 0]
        "The peer's, and ours."
        self.unread_bytes = 0
        self.ending: tell.SessionEnded | None = None

    # ---- bytes

    def receive(self, data: bytes) -> list[tell.Event]:
        """What these bytes mean, in order. After the end of the session nothing is read."""
        if self.ending is None and len(self._out) > OUTPUT_BYTES_MAX + CONTROL_BYTES_MAX:
            self._end(frame.GO_AWAY_INTERNAL_ERROR, "the peer makes us answer and does not read")
        offset = 0
        try:
            while offset < len(data) and self.ending is None:
                if self._payload_left:
                    piece = data[offset : offset + self._payload_left]
                    self._payload_left -= len(piece)
                    self._on_payload(piece)
                else:
                    piece = data[offset : offset + HEADER_BYTES - len(self._header)]
                    self._header += piece
                    if len(self._header) == HEADER_BYTES:
                        header, self._header = self._header, bytearray()
                        self._on_header(*decode_header(header))
                offset += len(piece)
        except Violation as violation:
            self._end(frame.GO_AWAY_PROTOCOL_ERROR, str(violation))
        events, self._events, self._over = self._events, [], {}
        return events

    def end_of_input(self) -> list[tell.Event]:
        """The connection beneath has ended."""
        if self.ending is None:
            self._out.clear()
            self._end(frame.GO_AWAY_NORMAL, "the connection was lost", by_peer=True)
        return self.receive(b"")

    def data_to_send(self) -> bytes:
        """Everything to write now. Where `write` had no room in it, there is room again."""
        data = bytes(self._out)
        self._out.clear()
        return data

    # ---- streams

    def open(self) -> int:
        """Id of a new stream; data may follow before the peer acknowledges it. `Busy` at a limit, `PeerUnreachable` after the end."""
        self._check_alive()
        if self._unacknowledged >= BACKLOG_MAX:
            raise Busy(f"{BACKLOG_MAX} streams wait for the peer to acknowledge them")
        if self._streams_open[True] >= self._streams_max:
            raise Busy(f"{self._streams_max} streams of ours are open")
        if self._next_id > NUMBER_MAX:
            raise Busy("every stream id of this connection was used: dial a new one")
        stream_id, self._next_id = self._next_id, self._next_id + 2
        self._add(stream_id, is_ours=True)
        self._unacknowledged += 1
        self._raise_window(stream_id, frame.SYN)
        return stream_id

    def accept(self, stream_id: int) -> None:
        """Acknowledge a stream the peer opened. Idempotent."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.is_ours and not stream.is_acknowledged:
            stream.is_acknowledged = True
            self._raise_window(stream_id, frame.ACK)

    def write(self, stream_id: int, data: bytes) -> int:
        """How many bytes were taken: less than all at the end of the peer's credit (`CreditReceived` follows) or of our buffer.

        Taken and dropped for a stream that is over: the event that says so may still be on its way. `UsageError` after `finish`.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return len(data)
        if stream.is_finished:
            raise UsageError(f"yamux stream {stream_id}: bytes after its end")
        self.accept(stream_id)
        room = max(0, OUTPUT_BYTES_MAX - len(self._out))
        taken = min(len(data), stream.credit, room)
        for start in range(0, taken, FRAME_PAYLOAD_BYTES_MAX):
            piece = data[start : min(taken, start + FRAME_PAYLOAD_BYTES_MAX)]
            self._frame(frame.DATA, 0, stream_id, len(piece))
            self._out += piece
        stream.credit -= taken
        stream.is_blocked = taken < len(data) and stream.credit == 0
        return taken

    def finish(self, stream_id: int) -> None:
        """Nothing follows from us. Idempotent."""
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.is_finished:
            self.accept(stream_id)
            stream.is_finished = True
            self._frame(frame.WINDOW_UPDATE, frame.FIN, stream_id, 0)
            self._forget_if_done(stream_id, stream)

    def reset(self, stream_id: int, code: int) -> None:
        """Give up both directions; what is unread no longer counts. Idempotent."""
        if stream_id in self._streams:
            self._frame(frame.WINDOW_UPDATE, frame.RST, stream_id, code)
            self._forget(stream_id)
        self._drop_unread(stream_id)

    def consume(self, stream_id: int, size: int) -> None:
        """`size` unread bytes were read: the peer gets them as credit, half a window at a time."""
        unread = self._unread.get(stream_id, 0)
        size = min(size, unread)
        self.unread_bytes -= size
        if size < unread:
            self._unread[stream_id] = unread - size
        else:
            self._unread.pop(stream_id, None)
        stream = self._streams.get(stream_id)
        if stream is not None and (delta := stream.give_back(size)):
            self._frame(frame.WINDOW_UPDATE, 0, stream_id, delta)

    def stop_reading(self, stream_id: int) -> bool:
        """What comes is dropped and gives no credit, until the peer ends the stream; True if it has not. yamux cannot tell it so."""
        self._drop_unread(stream_id)
        if (stream := self._streams.get(stream_id)) is None:
            return False
        stream.is_stopped = True
        return not stream.has_ended

    @property
    def output_bytes(self) -> int:
        """What `data_to_send` has."""
        return len(self._out)

    @property
    def streams_open(self) -> int:
        """Streams that are not over in both directions."""
        return len(self._streams)

    # ---- the session

    def ping(self) -> int:
        """Ask the peer for a sign of life; `PongReceived` with the same value follows. `UsageError` while 8 are unanswered, `PeerUnreachable`."""
        self._check_alive()
        if len(self._pings) >= PINGS_MAX:
            raise UsageError(f"{PINGS_MAX} yamux pings are unanswered")
        value, self._ping_count = self._ping_count, (self._ping_count + 1) & NUMBER_MAX
        self._pings[value] = None
        self._frame(frame.PING, frame.SYN, 0, value)
        return value

    def close(self, code: int = frame.GO_AWAY_NORMAL) -> None:
        """End the session from our side; send what `data_to_send` has, then close the connection. Idempotent."""
        if self.ending is None:
            self._end(code, "closed here")
            self._events.clear()

    def validate(self) -> None:
        """Assert what must hold between any two calls."""
        assert self.unread_bytes == sum(self._unread.values()) <= self._unread_bytes_max
        assert len(self._header) < HEADER_BYTES and len(self._pings) <= PINGS_MAX
        ours = [stream for stream in self._streams.values() if stream.is_ours]
        assert self._streams_open == [len(self._streams) - len(ours), len(ours)]
        assert self._unacknowledged == sum(not stream.is_acknowledged for stream in ours) <= BACKLOG_MAX
        for stream_id, stream in self._streams.items():
            coming = self._payload_left if self._payload_of == stream_id else 0
            stream.validate(held_bytes=self._unread.get(stream_id, 0) + coming)

    # ---- what the peer says

    def _on_header(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        if kind == frame.PING:
            self._on_ping(flags, length)
        elif kind == frame.GO_AWAY:
            self._end(length, f"the peer went away with code {length}", by_peer=True)
        else:
            self._on_stream_frame(kind, flags, stream_id, length)

    def _on_ping(self, flags: int, value: int) -> None:
        if flags & frame.SYN:
            self._frame(frame.PING, frame.ACK, 0, value)
        elif flags & frame.ACK and value in self._pings:
            del self._pings[value]
            self._events.append(tell.PongReceived(value))

    def _on_stream_frame(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        if flags & frame.SYN:
            self._on_syn(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None and flags & frame.ACK and stream.is_ours and not stream.is_acknowledged:
            stream.is_acknowledged = True
            self._unacknowledged -= 1
        if kind == frame.DATA:
            self._on_data(stream_id, stream, flags, length)
        elif stream is not None and not flags & frame.RST:
            if stream.add_credit(length):
                self._events.append(tell.CreditReceived(stream_id))
        if flags & frame.RST:
            if stream_id in self._streams:
                self._abort(stream_id, 0 if kind == frame.DATA else length)
        elif flags & frame.FIN and not self._payload_left:
            self._on_fin(stream_id)

    def _on_syn(self, stream_id: int) -> None:
        if stream_id % 2 == self._next_id % 2:
            raise Violation(f"yamux stream {stream_id} is ours to open")
        if stream_id in self._streams or stream_id in self._unread or stream_id in self._over:
            raise Violation(f"yamux stream {stream_id} was opened twice")
        if self._streams_open[False] >= self._streams_max:
            self._frame(frame.WINDOW_UPDATE, frame.RST, stream_id, WireCode.RESOURCE_LIMIT)
            self._events.append(tell.StreamRefused(stream_id, is_new=True))
            return
        self._add(stream_id, is_ours=False)
        self._events.append(tell.StreamOpened(stream_id))

    def _on_data(self, stream_id: int, stream: StreamBooks | None, flags: int, length: int) -> None:
        # What is still on its way to a stream that is over is at most a window.
        allowed = WINDOW_BYTES_MAX if stream is None else 0 if stream.has_ended else stream.receive_window
        if length > allowed:
            raise Violation(f"yamux stream {stream_id}: {length} bytes where {allowed} may come")
        self._payload_left = length
        self._payload_of = None
        if stream is None or not length:
            return
        stream.receive_window -= length
        if not stream.is_stopped and self.unread_bytes + length > self._unread_bytes_max:
            self.reset(stream_id, WireCode.RESOURCE_LIMIT)
            self._events.append(tell.StreamRefused(stream_id, is_new=False))
            self._events.append(tell.StreamAborted(stream_id, WireCode.RESOURCE_LIMIT))
        elif not flags & frame.RST:
            self._payload_of = stream_id
            self._fin_follows = bool(flags & frame.FIN)

    def _on_payload(self, piece: bytes) -> None:
        stream_id = self._payload_of
        # It may have been reset since its header came.
        if stream_id is None or (stream := self._streams.get(stream_id)) is None:
            return
        if not stream.is_stopped:
            self._unread[stream_id] = self._unread.get(stream_id, 0) + len(piece)
            self.unread_bytes += len(piece)
            self._events.append(tell.DataReceived(stream_id, piece))
        if not self._payload_left and self._fin_follows:
            self._on_fin(stream_id)

    def _on_fin(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None and not stream.has_ended:
            stream.has_ended = True
            self._events.append(tell.StreamEnded(stream_id))
            self._forget_if_done(stream_id, stream)

    # ---- bookkeeping

    def _check_alive(self) -> None:
        if self.ending is not None:
            raise PeerUnreachable(f"the yamux session has ended: {self.ending.reason}")

    def _add(self, stream_id: int, *, is_ours: bool) -> None:
        self._streams[stream_id] = StreamBooks(is_ours=is_ours)
        self._streams_open[is_ours] += 1

    def _raise_window(self, stream_id: int, flags: int) -> None:
        """The first frame of our side; it makes the window as large as we want it."""
        self._frame(frame.WINDOW_UPDATE, flags, stream_id, self._streams[stream_id].raise_window(self._window_bytes))

    def _abort(self, stream_id: int, code: int) -> None:
        self._forget(stream_id)
        self._drop_unread(stream_id)
        self._events.append(tell.StreamAborted(stream_id, code))

    def _forget_if_done(self, stream_id: int, stream: StreamBooks) -> None:
        if stream.is_finished and stream.has_ended:
            self._forget(stream_id)

    def _forget(self, stream_id: int) -> None:
        stream, self._over[stream_id] = self._streams.pop(stream_id), None
        self._streams_open[stream.is_ours] -= 1
        if stream.is_ours and not stream.is_acknowledged:
            self._unacknowledged -= 1

    def _drop_unread(self, stream_id: int) -> None:
        self.unread_bytes -= self._unread.pop(stream_id, 0)

    def _end(self, code: int, reason: str, *, by_peer: bool = False) -> None:
        if not by_peer:
            self._frame(frame.GO_AWAY, 0, 0, code)
        for stream_id in list(self._streams):
            self._abort(stream_id, WireCode.SHUTDOWN)
        self.ending = tell.SessionEnded(code, reason, by_peer)
        self._events.append(self.ending)

    def _frame(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._out += encode_header(kind, flags, stream_id, length)
