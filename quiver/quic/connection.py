"""aioquic's connection with two things of libp2p's and ours: authentication and honest credit.

aioquic doubles its receive windows as data arrives, read or not. Here credit follows what was consumed:
limit = bytes taken in order - bytes read by nobody yet + window. So a peer that is not read is stopped by flow control.
"""

from __future__ import annotations

from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.stream import QuicStream

from quiver.ids import PeerId
from quiver.quic.packing import PackingConnection
from quiver.quic.tls import Judge, authenticate


class PeerConnection(PackingConnection):
    """One authenticated QUIC connection. `streams_max` is how many streams the peer may have open at once."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        judge: Judge,
        expected_peer: PeerId | None = None,
        streams_max: int,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._judge = judge
        self._expected_peer = expected_peer
        self._window = configuration.max_stream_data
        self._credit_step = self._window // 2 - self._window
        self._unread: dict[int, int] = {}
        self._unread_total = 0
        self.has_caught_peer = False
        "The peer broke a rule of QUIC or TLS, and that is why the connection ended."
        # libp2p opens bidirectional streams only.
        for limit, value in ((self._local_max_streams_bidi, streams_max), (self._local_max_streams_uni, 0)):
            limit.value = limit.sent = value

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        authenticate(self.tls, judge=self._judge, expected_peer=self._expected_peer)

    @property
    def remote_peer(self) -> PeerId | None:
        """Who the certificate proved; None before."""
        tls = getattr(self, "tls", None)
        return None if tls is None else tls.remote_peer

    @property
    def ending(self) -> tuple[int, str, bool] | None:
        """(code, reason, said by an application) once either side closes; known before aioquic's own event, which waits 3 PTO."""
        event = self._close_event
        return None if event is None else (event.error_code, event.reason_phrase, event.frame_type is None)

    def close(self, error_code: int = 0, frame_type: int | None = None, reason_phrase: str = "") -> None:
        """End the connection. aioquic calls it with the frame that broke a rule; an application names none."""
        if self._close_event is None and frame_type is not None:
            self.has_caught_peer = True
        super().close(error_code=error_code, frame_type=frame_type, reason_phrase=reason_phrase)

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time (RFC 9002, 5.3); None before the first sample."""
        return float(self._loss._rtt_smoothed) if self._loss._rtt_initialized else None

    @property
    def unanswered_probes(self) -> int:
        """Probe timeouts (RFC 9002, 6.2) since the peer last acknowledged anything."""
        return int(self._loss._pto_count)

    def buffered_bytes(self, stream_id: int) -> int:
        """Bytes written to a stream that the peer has not acknowledged yet; they are held in memory."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else stream.sender._buffer_stop - stream.sender._buffer_start

    def buffered_bytes_total(self) -> int:
        """The same of all streams."""
        senders = (stream.sender for stream in self._streams.values())
        return sum(sender._buffer_stop - sender._buffer_start for sender in senders)

    @property
    def has_unfinished_end(self) -> bool:
        """A stream that ends on our side is not acknowledged to its end."""
        senders = (stream.sender for stream in self._streams.values())
        return any(sender._buffer_fin is not None and not sender.is_finished for sender in senders)

    def received_bytes_total(self) -> int:
        """Bytes that nobody has read: those handed over, and those that wait for what comes before them."""
        streams = (*self._streams.values(), *self._crypto_streams.values())
        return self._unread_total + sum(len(stream.receiver._buffer) for stream in streams)

    def is_receiving(self, stream_id: int) -> bool:
        """More may arrive on this stream."""
        stream = self._streams.get(stream_id)
        return stream is not None and not stream.receiver.is_finished

    def has_end_to_tell(self, stream_id: int) -> bool:
        """The event with which the peer's half ended is still to be taken: it came with the one that is looked at now."""
        kinds = (StreamDataReceived, StreamReset)
        return any(isinstance(event, kinds) and event.stream_id == stream_id for event in self._events)

    def add_unread(self, stream_id: int, size: int) -> None:
        """`size` bytes now wait for a reader (negative: were read). They stay out of the peer's credit while they wait."""
        left = self._unread.get(stream_id, 0) + size
        assert left >= 0
        if left:
            self._unread[stream_id] = left
        else:
            self._unread.pop(stream_id, None)
        self._unread_total += size

    def forget_unread(self, stream_id: int) -> None:
        """Nobody will read this stream: give its bytes back to the connection's credit."""
        self._unread_total -= self._unread.pop(stream_id, 0)

    def has_credit_to_send(self, stream_id: int) -> bool:
        """At least half a window was read since the peer was last told, for this stream or for the connection."""
        stream = self._streams.get(stream_id)
        if self._connection_credit() > self._local_max_data.value:
            return True
        return stream is not None and self._stream_credit(stream) > stream.max_stream_data_local

    def _stream_credit(self, stream: QuicStream) -> int:
        """The limit the peer should have; the present one until at least half a window more can be granted."""
        window = self._window
        assert stream.stream_id is not None
        limit = stream.receiver.starting_offset() - self._unread.get(stream.stream_id, 0) + window
        present = stream.max_stream_data_local
        return limit if limit - present >= window // 2 and not stream.receiver.is_finished else present

    def _connection_credit(self) -> int:
        window = self._configuration.max_data
        limit: int = self._local_max_data.used - self._unread_total + window
        present: int = self._local_max_data.value
        return limit if limit - present >= window // 2 else present

    def _has_credit_to_give(self, stream: QuicStream) -> bool:
        # Whatever was read, if less than half a window was received since then there is none.
        present = stream.max_stream_data_local
        return (
            stream.receiver._buffer_start - present >= self._credit_step or present != stream.max_stream_data_local_sent
        )

    def _write_stream_limits(self, builder: Any, space: Any, stream: QuicStream) -> None:
        if stream.receiver.is_finished or not self._has_credit_to_give(stream):
            return
        present = stream.max_stream_data_local
        stream.max_stream_data_local = self._stream_credit(stream)
        if stream.max_stream_data_local == present == stream.max_stream_data_local_sent:
            return
        # aioquic doubles the limit when more than half of it was received: it is shown nothing received.
        received, stream.receiver.highest_offset = stream.receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder=builder, space=space, stream=stream)
        finally:
            stream.receiver.highest_offset = received

    def _write_connection_limits(self, builder: Any, space: Any) -> None:
        limit = self._local_max_data
        limit.value = self._connection_credit()
        used, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder=builder, space=space)
        finally:
            limit.used = used
