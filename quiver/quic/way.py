"""How the bytes of one connection's streams travel: what QUIC and TCP each say of themselves. No I/O, no clock."""

from __future__ import annotations

from abc import abstractmethod

from quiver.quic.events import FrameStream
from quiver.quic.limits import Limits
from quiver.quic.memory import Holder


class Way(Holder):
    """Of one connection."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.is_silent = False
        "The peer has not answered for a while, over QUIC: another connection to it is better."

    @abstractmethod
    def _next_stream_id(self) -> int:
        """Id of the next stream from our side."""

    @abstractmethod
    def _write(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None:
        """Buffer bytes of a stream; dropped when the peer has just stopped it, because that event is still on its way."""

    def _agree(self, stream_id: int, data: bytes) -> None:
        """Write what names a protocol; it may wait for a frame that is written in the same turn."""
        self._write(stream_id, data)

    @abstractmethod
    def _reset_sending(self, stream_id: int, code: int) -> None:
        """Nothing follows, and what is buffered is dropped."""

    @abstractmethod
    def _stop_peer(self, stream_id: int, code: int) -> bool:
        """Ask the peer to send no more; True if something may still come that must be ignored."""

    @abstractmethod
    def _on_kept(self, stream_id: int, size: int) -> None:
        """`size` bytes wait for a reader: they stay out of the peer's credit."""

    @abstractmethod
    def _on_read(self, stream_id: int, size: int) -> None:
        """They were read."""

    @abstractmethod
    def _forget_unread(self, stream_id: int) -> None:
        """Nobody will read what waits."""

    @abstractmethod
    def has_credit_to_send(self, stream: FrameStream) -> bool:
        """Enough was read that the peer should be told now."""

    @property
    @abstractmethod
    def rtt_s(self) -> float | None:
        """Smoothed round-trip time, seconds; None before the first sample."""

    @property
    def has_last_words(self) -> bool:
        """The peer does not have the whole of a stream that we finished. Over TCP the kernel sees to that."""
        return False

    @abstractmethod
    def probe(self, now: float) -> None:
        """Ask the peer for a sign of life."""

    @abstractmethod
    def timer(self) -> float | None:
        """When `handle_timer` wants to be called; may be in the past."""

    @abstractmethod
    def handle_timer(self, now: float) -> None:
        """Time has passed."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """End the connection with an application code; every stream is reset at once."""
