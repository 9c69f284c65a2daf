"""One libp2p connection over QUIC without I/O: datagrams and `now` in; datagrams, one timer and events out.

Rules of this file: no clock, no awaiting, no sockets. Whoever drives it calls, after any method that may have something
to send, `datagrams_to_send` and then `timer`.
"""

from __future__ import annotations

from collections.abc import Mapping

from aioquic.quic import events as quic_events

from quiver.errors import WireCode
from quiver.quic.connection import PeerConnection
from quiver.quic.events import Connected, FrameStream, NetworkAddress, RouteAdded, RouteRemoved, Terminated
from quiver.quic.limits import Limits, Refusal
from quiver.quic.streams import CLOSE_RESOURCE_LIMIT, StreamDriver
from quiver.wire.framing import Framing

# js-libp2p ends a connection after 10 s of silence.
KEEPALIVE_S = 4.0
# So many probe timeouts, each twice as long as the one before, and so many seconds since the first: the peer may have begun another
# life and know nothing of this connection. Fewer would take a busy peer for a dead one.
SILENT_PROBES, SILENT_S = 3, 1.5


class Driver(StreamDriver):
    """Drives one `PeerConnection`."""

    def __init__(self, quic: PeerConnection, *, limits: Limits, framings: Mapping[str, Framing], now: float) -> None:
        super().__init__(limits=limits, framings=framings)
        self._quic = quic
        self._handshake_deadline: float | None = now + limits.handshake_timeout_s
        self._doubted_s: float | None = None
        "When the first probe timeout since the peer was last heard was."
        self._keepalive_at = now + KEEPALIVE_S
        self._keepalive_s = min(KEEPALIVE_S, limits.idle_timeout_s / 3)
        self.host_connection_id: bytes = quic.host_cid
        self._agreements: dict[int, bytes] = {}
        "Stream -> what names its protocol and leaves with its first frame, or else with the next datagrams."

    # ---- time and datagrams

    def connect(self, address: NetworkAddress, now: float) -> None:
        """Start the handshake of a dialling connection."""
        self._quic.connect(address, now=now)

    def receive_datagram(self, data: bytes, address: NetworkAddress, now: float) -> None:
        """Take one datagram."""
        self._quic.receive_datagram(data, address, now=now)
        self._keepalive_at = now + self._keepalive_s
        self._doubted_s, self.is_silent = None, False
        self._pump(now)
        if not self.lease.take(len(data)):
            self._relieve()

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Everything that congestion control and pacing let out now."""
        if self._quic.get_peer_address() is None:
            return []
        if self._agreements:
            agreements, self._agreements = self._agreements, {}
            for stream_id, data in agreements.items():
                self._quic.write(stream_id, data)
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
            self._doubt(now)
        if not self.is_closed:
            if self._handshake_deadline is not None and now >= self._handshake_deadline:
                self.close(CLOSE_RESOURCE_LIMIT, f"no handshake within {self._limits.handshake_timeout_s:g} s")
            if self._streams and now >= self._keepalive_at:
                self._quic.send_ping(0)
                self._keepalive_at = now + self._keepalive_s
            self._expire_negotiations(now)
        self._pump(now)

    def _doubt(self, now: float) -> None:
        probes = self._quic.unanswered_probes
        if probes and self._doubted_s is None:
            self._doubted_s = now
        self.is_silent = probes >= SILENT_PROBES and self._doubted_s is not None and now - self._doubted_s >= SILENT_S

    def probe(self, now: float) -> None:
        """Ask the peer for a sign of life."""
        self._quic.send_ping(0)

    def close(self, code: int, reason: str) -> None:
        """End the connection with an application code; every stream is reset at once."""
        self._quic.close(error_code=code, reason_phrase=reason)
        self._notice_end()

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time, seconds; None before the first sample."""
        return self._quic.rtt_s

    # ---- how bytes travel

    @property
    def has_last_words(self) -> bool:
        """The peer does not have the whole of a stream that we finished."""
        return self._quic.has_unfinished_end and not self.is_closed

    def _next_stream_id(self) -> int:
        return self._quic.open()

    def _agree(self, stream_id: int, data: bytes) -> None:
        self._agreements[stream_id] = data

    def _write(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        if self._agreements and (agreement := self._agreements.pop(stream_id, None)) is not None:
            data = agreement + data
        self._quic.write(stream_id, data, end_stream=end_stream)

    def _buffered_bytes(self, stream_id: int) -> int:
        return self._quic.buffered_bytes(stream_id)

    def _buffered_bytes_total(self) -> int:
        return self._quic.buffered_bytes_total()

    def _received_bytes_total(self) -> int:
        return self._quic.received_bytes_total() + self._unfinished_bytes()

    def _reset_sending(self, stream_id: int, code: int) -> None:
        self._agreements.pop(stream_id, None)
        self._quic.reset_stream(stream_id, code)

    def _stop_peer(self, stream_id: int, code: int) -> bool:
        if not self._quic.is_receiving(stream_id):
            return self._quic.has_end_to_tell(stream_id)
        self._quic.stop_stream(stream_id, code)
        return True

    def _on_kept(self, stream_id: int, size: int) -> None:
        self._quic.add_unread(stream_id, size)

    def _on_read(self, stream_id: int, size: int) -> None:
        self._quic.add_unread(stream_id, -size)

    def _forget_unread(self, stream_id: int) -> None:
        self._quic.forget_unread(stream_id)

    def has_credit_to_send(self, stream: FrameStream) -> bool:
        """Enough was read that the peer should be told now."""
        return self._quic.has_credit_to_send(stream.id)

    # ---- what aioquic says

    def _pump(self, now: float) -> None:
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, quic_events.StreamDataReceived):
                self._on_data(event.stream_id, event.data, event.end_stream, now)
            elif isinstance(event, quic_events.StreamReset):
                self._on_reset(event.stream_id, event.error_code, now)
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
        self._wake_blocked()

    def _notice_end(self) -> None:
        if self.is_closed or (ending := self._quic.ending) is None:
            return
        code, reason, by_application = ending
        if self._quic.has_caught_peer and self.peer_id is not None:
            self.on_refusal(Refusal.PROTOCOL)
        self._end_all(code, reason, stream_code=WireCode.SHUTDOWN if by_application else WireCode.NONE)
