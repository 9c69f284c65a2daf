"""What leaves a connection in one turn: aioquic's frames, packed by us.

aioquic visits every stream for every packet, and a stream that was just emptied or finds the packet full costs as much as one
that writes. Here the streams are looked through once a turn, and only those with something to say are visited. A message that
fits into a packet of its own is not cut for the sake of the last corner of another: half a message costs its reader a whole one.
Whatever is rare (handshake, new paths, connection ids, pings) is left to aioquic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from aioquic import tls
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.stream import QuicStream

from quiver.quic.stream_frames import OrderedStream, StreamFrames

# The largest frame that is no stream data, RESET_STREAM (RFC 9000, 19.4), and the type, id, offset and length before stream data.
FRAME_ROOM_BYTES = 25
# A short header with the longest connection id, that frame header and the authentication tag.
OVERHEAD_BYTES = 3 + 20 + FRAME_ROOM_BYTES + 16
# A corner smaller than this is left empty rather than cutting a message that would fit into the next packet.
CORNER_BYTES_MAX = 300


class _Streams(dict[int, QuicStream]):
    def __setitem__(self, stream_id: int, stream: QuicStream) -> None:
        stream.__class__ = OrderedStream
        super().__setitem__(stream_id, stream)


class PackingConnection(StreamFrames, ABC):
    """A connection without a qlog trace that says what it has to say once a turn."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._streams = _Streams()

    def write(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Buffer data of a stream; dropped when the peer has just stopped it, because that event is still on its way."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            if stream.sender._reset_error_code is None:
                stream.sender.write(data, end_stream)
        elif not self._stream_is_discarded(stream_id):
            self.send_stream_data(stream_id, data, end_stream)

    @abstractmethod
    def _has_credit_to_give(self, stream: QuicStream) -> bool:
        """`_write_stream_limits` has something to write."""

    def _has_rare_frames(self, network_path: Any) -> bool:
        return (
            not self._handshake_confirmed
            or self._handshake_done_pending
            or not network_path.is_validated
            or self._probe_pending
            or self._streams_blocked_pending
            or bool(
                network_path.remote_challenges
                or self._ping_pending
                or self._datagrams_pending
                or self._retire_connection_ids
            )
            or not self._crypto_streams[tls.Epoch.ONE_RTT].sender.buffer_is_empty
            or not all(connection_id.was_sent for connection_id in self._host_cids)
        )

    def _write_application(self, builder: Any, network_path: Any, now: float) -> None:
        if self._has_rare_frames(network_path):
            super()._write_application(builder, network_path, now)
            return
        busy, granting = self._look_through_streams()
        space, crypto = self._spaces[tls.Epoch.ONE_RTT], self._cryptos[tls.Epoch.ONE_RTT]
        pacer = self._loss._pacer
        has_begun = False
        try:
            while True:
                has_ack = space.ack_at is not None and space.ack_at <= now
                if not has_ack:
                    # RFC 9002, 7.7: acknowledgements are not paced.
                    self._pacing_at = pacer.next_send_time(now=now)
                    if self._pacing_at is not None:
                        break
                builder.start_packet(QuicPacketType.ONE_RTT, crypto)
                if has_ack:
                    self._write_ack_frame(builder=builder, space=space, now=now)
                if not has_begun:
                    # Nothing is read and no stream ends within a turn, so once is enough.
                    self._write_connection_limits(builder=builder, space=space)
                    has_begun = True
                while granting and builder.remaining_flight_space >= FRAME_ROOM_BYTES:
                    self._write_stream_limits(builder=builder, space=space, stream=granting.pop())
                self._fill(builder, space, busy)
                if builder.packet_is_empty:
                    break
                pacer.update_after_send(now=now)
                if not busy and not granting:
                    break
        finally:
            if busy:
                # Who was not served has the next turn before all others, and who was and has more to send comes behind those.
                waiting = dict.fromkeys(busy)
                rest = [stream for stream in self._streams_queue if stream not in waiting]
                self._streams_queue = [*waiting, *rest]

    def _write_stop_sending_frame(self, builder: Any, stream: QuicStream) -> None:
        # aioquic's own way lacks what `_look_through_streams` says of blocked streams. The frame waits until there is leave.
        if not stream.is_blocked:
            super()._write_stop_sending_frame(builder=builder, stream=stream)

    def _write_reset_stream_frame(self, builder: Any, stream: QuicStream) -> None:
        if not stream.is_blocked:
            super()._write_reset_stream_frame(builder=builder, stream=stream)

    def _look_through_streams(self) -> tuple[deque[QuicStream], list[QuicStream]]:
        """(those with frames to send, those with credit to give); the finished are forgotten."""
        busy: deque[QuicStream] = deque()
        granting, finished = [], []
        for stream in self._streams_queue:
            sender, receiver = stream.sender, stream.receiver
            if receiver.is_finished:
                if sender.is_finished:
                    finished.append(stream)
                    continue
            elif self._has_credit_to_give(stream):
                granting.append(stream)
            if stream.is_blocked:
                # The peer has not given leave to open it: to name it, if only to reset it, would end the connection.
                continue
            if not sender.buffer_is_empty or sender.reset_pending or receiver.stop_pending:
                busy.append(stream)
        if finished:
            for stream in finished:
                assert stream.stream_id is not None
                del self._streams[stream.stream_id]
                if stream.stream_id % 2 == self._is_client:
                    # RFC 9000, 4.6: the peer may open one more for each of its own that is over. Its ids are the other parity.
                    self._stream_limit(stream.stream_id).value += 1
            self._streams_queue = [stream for stream in self._streams_queue if stream.stream_id in self._streams]
        return busy, granting

    def _fill(self, builder: Any, space: Any, busy: deque[QuicStream]) -> None:
        """Frames of `busy` streams until the packet is full. Whoever is done leaves, and whom the peer's credit stops."""
        while busy and (room := builder.remaining_flight_space) >= FRAME_ROOM_BYTES:
            stream = busy[0]
            sender = stream.sender
            if stream.receiver.stop_pending:
                self._write_stop_sending_frame(builder=builder, stream=stream)
            elif sender.reset_pending:
                self._write_reset_stream_frame(builder=builder, stream=stream)
            elif sender.buffer_is_empty:
                busy.popleft()
            else:
                unsent = sender._buffer_stop - sender.highest_offset
                if (
                    room < CORNER_BYTES_MAX
                    and room - FRAME_ROOM_BYTES < unsent <= self._max_datagram_size - OVERHEAD_BYTES
                ):
                    return
                self._remote_max_data_used += self._write_stream_frame(
                    builder=builder, space=space, stream=stream,
                    max_offset=min(
                        sender.highest_offset + self._remote_max_data - self._remote_max_data_used,
                        stream.max_stream_data_remote,
                    ),
                )  # fmt: skip
                if sender.buffer_is_empty or (not len(sender._pending) and not sender._pending_eof):
                    # aioquic would find that out at its next visit.
                    sender.buffer_is_empty = True
                    busy.popleft()
                elif builder.remaining_flight_space == room:
                    busy.popleft()
                else:
                    busy.rotate(-1)
