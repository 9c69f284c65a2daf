"""The books of one yamux stream: credit both ways, and which direction is over (libp2p specifications, yamux, flow control)."""

from __future__ import annotations

# What each side may send on a new stream, and the most a window is raised to (go- and js-libp2p).
INITIAL_WINDOW_BYTES, WINDOW_BYTES_MAX = 256 * 1024, 16 * 1024 * 1024
CREDIT_MAX = (1 << 32) - 1


class StreamBooks:
    """Both directions of one stream."""

    __slots__ = (
        "credit", "receive_window", "window", "consumed", "has_ended", "is_finished", "is_ours", "is_acknowledged",
        "is_stopped", "is_blocked",
    )  # fmt: skip

    def __init__(self, *, is_ours: bool) -> None:
        self.is_ours = is_ours
        self.credit = INITIAL_WINDOW_BYTES
        "Bytes the peer still takes."
        self.window = INITIAL_WINDOW_BYTES
        "receive_window + unread + consumed, while the peer sends and we read."
        self.receive_window = INITIAL_WINDOW_BYTES
        "Bytes the peer may still send."
        self.consumed = 0
        "Bytes that were read and not yet given back as credit."
        self.has_ended = False
        self.is_finished = False
        self.is_acknowledged = False
        "The accepting side has said so."
        self.is_stopped = False
        self.is_blocked = False
        "`write` took less than it was given, for want of credit."

    def raise_window(self, window_bytes: int) -> int:
        """Make our window this large; the delta to tell the peer."""
        delta = window_bytes - self.window
        self.window += delta
        self.receive_window += delta
        return delta

    def give_back(self, size: int) -> int:
        """`size` bytes were read: the credit to send now, or 0 until half a window has been read."""
        if self.has_ended or self.is_stopped:
            return 0
        self.consumed += size
        if 2 * self.consumed < self.window:
            return 0
        delta, self.consumed = self.consumed, 0
        self.receive_window += delta
        return delta

    def add_credit(self, delta: int) -> bool:
        """The peer takes `delta` more bytes; True if a write was waiting for them."""
        self.credit = min(self.credit + delta, CREDIT_MAX)
        was_blocked = self.is_blocked and self.credit > 0
        self.is_blocked = self.is_blocked and not was_blocked
        return was_blocked

    def validate(self, *, held_bytes: int) -> None:
        """Assert what must hold between any two calls; `held_bytes` are unread or announced."""
        assert 0 <= self.credit <= CREDIT_MAX and not (self.is_finished and self.has_ended)
        assert 0 <= self.receive_window <= self.window <= WINDOW_BYTES_MAX
        if not self.has_ended and not self.is_stopped:
            assert self.receive_window + self.consumed + held_bytes == self.window
