"""STREAM frames (RFC 9000, 19.8) in the usual case: new data, whole and in order. Everything else is aioquic's.

aioquic's own way through a frame serves loss, splitting, reordering and logging alike, and costs about twice as much.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream, QuicStreamSender

# The bits of a STREAM frame's type.
FIN, LENGTH, OFFSET = 1, 2, 4
# Type, stream id, offset and length: what a STREAM frame holds besides data, at most.
STREAM_HEADER_BYTES = 1 + 8 + 8 + 2


class OrderedStream(QuicStream):
    """aioquic serves streams in the order of a set of objects; here a stream's hash is its id, so a run can be repeated."""

    def __hash__(self) -> int:
        assert self.stream_id is not None
        return self.stream_id


class StreamFrames(QuicConnection):
    """A connection without a qlog trace."""

    def open(self) -> int:
        """A new bidirectional stream; nothing of it is sent before something is written."""
        stream_id = self._local_next_stream_id_bidi
        if stream_id // 4 < self._remote_max_streams_bidi:
            self._add_stream(
                stream_id, self._local_max_stream_data_bidi_local, self._remote_max_stream_data_bidi_remote
            )
            self._local_next_stream_id_bidi = stream_id + 4
        else:
            self._get_or_create_stream_for_send(stream_id)
        return stream_id

    def _stream_of_peer(self, frame_type: int, stream_id: int) -> QuicStream:
        """The stream of a frame; a new one for the next id, as it mostly is. Whatever else is new goes aioquic's way."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream
        limit = self._local_max_streams_bidi
        if stream_id == 4 * limit.used + self._is_client and limit.used < limit.value:
            limit.used += 1
            return self._add_stream(
                stream_id, self._local_max_stream_data_bidi_remote, self._remote_max_stream_data_bidi_local
            )
        # Also says who broke which rule.
        self._assert_stream_can_receive(frame_type, stream_id)
        return self._get_or_create_stream(frame_type, stream_id)

    def _add_stream(self, stream_id: int, window_bytes: int, peer_window_bytes: int) -> QuicStream:
        stream = OrderedStream(stream_id, window_bytes, peer_window_bytes)
        self._streams[stream_id] = stream
        self._streams_queue.append(stream)
        return stream

    def _write_stream_frame(self, builder: Any, space: Any, stream: QuicStream, max_offset: int) -> int:
        sender = stream.sender
        start, stop = sender.highest_offset, sender._buffer_stop
        pending, size = sender._pending, stop - start
        if (
            not 0 < size <= builder.remaining_flight_space - STREAM_HEADER_BYTES
            or stop > max_offset
            or len(pending) != 1
            or pending[0].start != start
        ):
            used: int = super()._write_stream_frame(builder=builder, space=space, stream=stream, max_offset=max_offset)
            return used
        has_ended = sender._buffer_fin is not None
        buffer = builder.start_frame(
            QuicFrameType.STREAM_BASE | LENGTH | (OFFSET if start else 0) | has_ended,
            capacity=STREAM_HEADER_BYTES,
            handler=_on_delivery,
            handler_args=(sender, start, stop, has_ended),
        )
        buffer.push_uint_var(stream.stream_id)
        if start:
            buffer.push_uint_var(start)
        buffer.push_uint16(size | 0x4000)
        buffer.push_bytes(bytes(sender._buffer[start - sender._buffer_start :]))
        pending.shift()
        sender.highest_offset = stop
        sender._pending_eof = False
        # aioquic would find that out at its next visit.
        sender.buffer_is_empty = True
        return size

    def _handle_stream_frame(self, context: Any, frame_type: int, buf: Any) -> None:
        began = buf.tell()
        stream_id = buf.pull_uint_var()
        offset = buf.pull_uint_var() if frame_type & OFFSET else 0
        size = buf.pull_uint_var() if frame_type & LENGTH else buf.capacity - buf.tell()
        # Taken before anything can be raised: the next frame begins behind it.
        data = buf.pull_bytes(size)
        stream = self._stream_of_peer(frame_type, stream_id)
        receiver, connection, end = stream.receiver, self._local_max_data, offset + size
        if (
            not size
            or offset != receiver._buffer_start
            or offset != receiver.highest_offset
            or receiver._final_size is not None
            or end > stream.max_stream_data_local
            or connection.used + size > connection.value
        ):
            buf.seek(began)
            super()._handle_stream_frame(context, frame_type, buf)
            return
        receiver.highest_offset = receiver._buffer_start = end
        has_ended = bool(frame_type & FIN)
        if has_ended:
            receiver._final_size, receiver.is_finished = end, True
        connection.used += size
        self._events.append(StreamDataReceived(data=data, end_stream=has_ended, stream_id=stream_id))


def _on_delivery(delivery: QuicDeliveryState, sender: QuicStreamSender, start: int, stop: int, has_ended: bool) -> None:
    """A frame was acknowledged, mostly the oldest one under way, or it was lost."""
    if (
        delivery is not QuicDeliveryState.ACKED
        or start != sender._buffer_start
        or len(sender._acked)
        or sender._reset_error_code is not None
    ):
        sender.on_data_delivery(delivery, start, stop, has_ended)
        return
    sender._buffer_start = stop
    del sender._buffer[: stop - start]
    if has_ended:
        sender._acked_fin = True
    if sender._acked_fin and sender._buffer_fin == stop:
        sender.is_finished = True
