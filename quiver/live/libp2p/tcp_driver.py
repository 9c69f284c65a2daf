"""One libp2p connection over TCP without I/O: multistream, TLS 1.3, yamux, then the same streams of frames as over QUIC.

Rules of this file: bytes and `now` in; bytes, one timer and events out. Whoever drives it calls, after any method that may
have something to send, `data_to_send` and then `timer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quiver.errors import PeerError, WireCode
from quiver.ids import PeerId
from quiver.live.libp2p.tls_session import TlsSession
from quiver.quic.certificate import Identity
from quiver.quic.driver import KEEPALIVE_S
from quiver.quic.events import Connected, FrameStream, Terminated
from quiver.quic.limits import Limits, Refusal
from quiver.quic.streams import CLOSE_PROTOCOL_VIOLATION, CLOSE_RESOURCE_LIMIT, StreamDriver
from quiver.quic.tls import ALPN, Judge
from quiver.wire import yamux_events as tell
from quiver.wire.framing import Framing
from quiver.wire.multistream import Dialer, Listener, encode_proposal
from quiver.wire.yamux import YAMUX, YamuxSession
from quiver.wire.yamux_stream import INITIAL_WINDOW_BYTES

TLS = "/tls/1.0.0"
# RFC 6298, section 2.
RTT_GAIN = 0.125
# yamux cannot ask a peer to stop sending. One that leaves a stream open which we have left gets a reset after this long.
LINGER_S = 10.0


class Upgrade:
    """One multistream negotiation of the whole connection: for TLS in the clear, for yamux inside TLS."""

    def __init__(self, protocol_id: str, *, is_dialer: bool) -> None:
        self._dialer = Dialer(protocol_id) if is_dialer else None
        self._listener = None if is_dialer else Listener(lambda offered: offered == protocol_id)
        self.first = encode_proposal(protocol_id) if is_dialer else b""
        "What is to be written before anything is read."

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """(what to write, what follows the agreement, or None before it). `PeerError` where there is none."""
        if self._dialer is not None:
            return b"", self._dialer.feed(data)
        assert self._listener is not None
        reply, rest = self._listener.feed(data)
        return reply, rest if self._listener.protocol_id is not None else None


class TcpDriver(StreamDriver):
    """Drives one TCP connection."""

    def __init__(
        self, identity: Identity, *, is_dialer: bool, judge: Judge, expected_peer: PeerId | None, limits: Limits,
        framings: Mapping[str, Framing], now: float,
    ) -> None:  # fmt: skip
        super().__init__(limits=limits, framings=framings)
        self._is_dialer = is_dialer
        self._tls = TlsSession(
            identity, is_client=is_dialer, judge=judge, expected_peer=expected_peer, protocols=(YAMUX, ALPN)
        )
        upgrade = Upgrade(TLS, is_dialer=is_dialer)
        self._upgrade: Upgrade | None = upgrade
        self._clear = bytearray(upgrade.first)
        "To be written in the clear, before TLS begins."
        self._tls_begun = False
        self._session: YamuxSession | None = None
        self._unsent: dict[int, bytearray] = {}
        self._unread: dict[int, int] = {}
        self._ended_sending: dict[int, None] = {}
        "Streams whose end waits behind unsent bytes."
        self._lingering: dict[int, float | None] = {}
        "Streams we read no further and the peer has not ended -> when to reset them; None until the next keep-alive."
        self._rtt_s: float | None = None
        self._pinged_s: float | None = None
        self._handshake_deadline: float | None = now + limits.handshake_timeout_s
        self._heard_s = now
        self._keepalive_s = min(KEEPALIVE_S, limits.idle_timeout_s / 3)
        self._keepalive_at = now + self._keepalive_s

    # ---- time and bytes

    def receive(self, data: bytes, now: float) -> None:
        """Take what arrived."""
        if self.is_closed:
            return
        self._heard_s = now
        try:
            self._receive(data, now)
        except PeerError as error:
            if self._session is not None:
                self.on_refusal(Refusal.PROTOCOL)
            self._fail(CLOSE_PROTOCOL_VIOLATION, str(error))
        if not self.lease.take(len(data)):
            self._relieve()

    def _receive(self, data: bytes, now: float) -> None:
        if not self._tls_begun:
            rest = self._negotiate(data, self._clear.extend)
            if rest is None:
                return
            self._tls_begun = True
            data = rest
        plain = self._tls.receive(data)
        if not self._tls.is_established:
            return
        if self._session is None:
            if self.peer_id is None:
                self._on_established()
            if self._upgrade is not None:
                rest = self._negotiate(plain, self._tls.write)
                if rest is None:
                    return
                plain = rest
            self._begin_session(now)
        assert self._session is not None
        self._on_events(self._session.receive(plain), now)

    def _negotiate(self, data: bytes, write: Callable[[bytes], object]) -> bytes | None:
        assert self._upgrade is not None
        reply, rest = self._upgrade.feed(data)
        write(reply)
        if rest is not None:
            self._upgrade = None
        return rest

    def _on_established(self) -> None:
        """Who the peer is, is known; is yamux agreed by ALPN, or still to be negotiated?"""
        self.peer_id = self._tls.remote_peer
        if self._tls.protocol != YAMUX:
            self._upgrade = Upgrade(YAMUX, is_dialer=self._is_dialer)
            self._tls.write(self._upgrade.first)

    def _begin_session(self, now: float) -> None:
        assert self.peer_id is not None
        self._session = YamuxSession(
            is_dialer=self._is_dialer, window_bytes=max(self._limits.stream_window_bytes, INITIAL_WINDOW_BYTES),
            unread_bytes_max=self._limits.connection_window_bytes, streams_max=self._limits.streams_max,
        )  # fmt: skip
        self._handshake_deadline = None
        self._events.append(Connected(self.peer_id))
        self.probe(now)

    def end_of_input(self, reason: str) -> None:
        """The TCP connection has ended."""
        if not self.is_closed:
            self._end_all(0, reason, stream_code=WireCode.NONE)
        self._events.append(Terminated())

    def data_to_send(self) -> bytes:
        """Everything to write now."""
        out = bytes(self._clear)
        self._clear.clear()
        if self._session is not None:
            while data := self._session.data_to_send():
                self._tls.write(data)
                self._flush_streams()
        return out + self._tls.data_to_send() if self._tls_begun else out

    def timer(self) -> float | None:
        """When `handle_timer` wants to be called; may be in the past."""
        if self.is_closed:
            return None
        if self._handshake_deadline is not None:
            return self._handshake_deadline
        due = min(self._keepalive_at, self._heard_s + self._limits.idle_timeout_s)
        for expiry in self._negotiating.values():
            return min(due, expiry)
        return due

    def handle_timer(self, now: float) -> None:
        """Handshake and negotiation deadlines, keep-alive, silence."""
        if self.is_closed:
            return
        if self._handshake_deadline is not None:
            if now >= self._handshake_deadline:
                self._fail(CLOSE_RESOURCE_LIMIT, f"no handshake within {self._limits.handshake_timeout_s:g} s")
            return
        if now >= self._heard_s + self._limits.idle_timeout_s:
            self._fail(0, "idle timeout")
            return
        if now >= self._keepalive_at:
            # Without streams nothing keeps a connection alive, as over QUIC.
            if self._streams:
                self.probe(now)
            self._keepalive_at = now + self._keepalive_s
            self._expire_lingering(now)
        self._expire_negotiations(now)

    def _expire_lingering(self, now: float) -> None:
        for stream_id, due in list(self._lingering.items()):
            if due is None:
                self._lingering[stream_id] = now + LINGER_S
            elif due <= now and stream_id not in self._unsent and self._session is not None:
                del self._lingering[stream_id]
                self._session.reset(stream_id, WireCode.NONE)

    def probe(self, now: float) -> None:
        """Ask the peer for a sign of life."""
        if self._session is not None and self._pinged_s is None:
            self._session.ping()
            self._pinged_s = now

    def close(self, code: int, reason: str) -> None:
        """End the connection; yamux has no reasons and three codes, so the peer learns only that it was on purpose."""
        if not self.is_closed:
            if self._session is not None:
                self._session.close()
            self._end_all(code, reason, stream_code=WireCode.SHUTDOWN)

    def _fail(self, code: int, reason: str) -> None:
        if self._session is not None:
            self._session.close(1)
        self._end_all(code, reason, stream_code=WireCode.NONE)

    @property
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time of yamux pings, seconds; None before the first answer."""
        return self._rtt_s

    # ---- what yamux says

    def _on_events(self, events: list[tell.Event], now: float) -> None:
        for event in events:
            if isinstance(event, tell.DataReceived):
                self._on_bytes(event.stream_id, event.data, now)
            elif isinstance(event, tell.StreamOpened):
                assert self._session is not None
                self._session.accept(event.stream_id)
                # It must name its protocol in time, even if it never says a word.
                self._on_data(event.stream_id, b"", False, now)
            elif isinstance(event, tell.StreamEnded):
                self._lingering.pop(event.stream_id, None)
                if event.stream_id in self._streams:
                    self._on_data(event.stream_id, b"", True, now)
            elif isinstance(event, tell.StreamAborted):
                self._drop(event.stream_id)
                self._on_reset(event.stream_id, event.code, now)
            elif isinstance(event, tell.StreamRefused):
                self.on_refusal(Refusal.STREAMS_PER_CONNECTION if event.is_new else Refusal.MEMORY)
                if event.is_new:
                    self.count_waste(now)
            elif isinstance(event, tell.CreditReceived):
                self._flush_stream(event.stream_id)
            elif isinstance(event, tell.PongReceived):
                self._on_pong(now)
            elif isinstance(event, tell.SessionEnded) and not self.is_closed:
                if not event.by_peer:
                    self.on_refusal(Refusal.PROTOCOL)
                code = WireCode.SHUTDOWN if event.by_peer and event.code == 0 else WireCode.NONE
                self._end_all(event.code, event.reason, stream_code=code)
        self._wake_blocked()

    def _on_bytes(self, stream_id: int, data: bytes, now: float) -> None:
        """Bytes of whole frames stay out of the peer's credit until they are read; all others give it back at once."""
        before = self._unread.get(stream_id, 0)
        self._on_data(stream_id, data, False, now)
        kept = self._unread.get(stream_id, 0) - before
        if self._session is not None and kept < len(data):
            self._session.consume(stream_id, len(data) - max(kept, 0))

    def _on_pong(self, now: float) -> None:
        if self._pinged_s is not None:
            sample, self._pinged_s = now - self._pinged_s, None
            self._rtt_s = sample if self._rtt_s is None else self._rtt_s + RTT_GAIN * (sample - self._rtt_s)

    # ---- how bytes travel

    def _next_stream_id(self) -> int:
        assert self._session is not None, "no stream before Connected"
        return self._session.open()

    def _write(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        if self._session is None or self.is_closed or stream_id not in self._streams:
            return
        if data:
            self._unsent.setdefault(stream_id, bytearray()).extend(data)
        if end_stream:
            self._ended_sending[stream_id] = None
        self._flush_stream(stream_id)

    def _flush_stream(self, stream_id: int) -> None:
        session, waiting = self._session, self._unsent.get(stream_id)
        if session is None or session.ending is not None:
            return
        if waiting:
            taken = session.write(stream_id, bytes(waiting))
            del waiting[:taken]
        if not waiting:
            self._unsent.pop(stream_id, None)
            if stream_id in self._ended_sending:
                del self._ended_sending[stream_id]
                session.finish(stream_id)

    def _flush_streams(self) -> None:
        for stream_id in list(self._unsent):
            self._flush_stream(stream_id)
        self._wake_blocked()

    def _drop(self, stream_id: int) -> None:
        self._unsent.pop(stream_id, None)
        self._ended_sending.pop(stream_id, None)
        self._unread.pop(stream_id, None)
        self._lingering.pop(stream_id, None)

    def _buffered_bytes(self, stream_id: int) -> int:
        return len(self._unsent.get(stream_id, b""))

    def _buffered_bytes_total(self) -> int:
        waiting = 0 if self._session is None else self._session.output_bytes
        return waiting + sum(map(len, self._unsent.values()))

    def _received_bytes_total(self) -> int:
        return self._unfinished_bytes() + (0 if self._session is None else self._session.unread_bytes)

    def _reset_sending(self, stream_id: int, code: int) -> None:
        self._drop(stream_id)
        if self._session is not None:
            self._session.reset(stream_id, code)

    def _stop_peer(self, stream_id: int, code: int) -> bool:
        if self._session is None:
            return False
        if self._session.stop_reading(stream_id):
            self._lingering[stream_id] = None
        return False

    def _on_kept(self, stream_id: int, size: int) -> None:
        self._unread[stream_id] = self._unread.get(stream_id, 0) + size

    def _on_read(self, stream_id: int, size: int) -> None:
        left = self._unread.get(stream_id, 0) - size
        if left > 0:
            self._unread[stream_id] = left
        else:
            self._unread.pop(stream_id, None)
        if self._session is not None:
            self._session.consume(stream_id, size)

    def _forget_unread(self, stream_id: int) -> None:
        size = self._unread.pop(stream_id, 0)
        if self._session is not None and size:
            self._session.consume(stream_id, size)

    def has_credit_to_send(self, stream: FrameStream) -> bool:
        """Enough was read that the peer should be told now."""
        return self._session is not None
