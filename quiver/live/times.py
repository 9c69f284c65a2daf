"""Points in time as operators read them."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_text(utc_ms: int) -> str:
    """To the second."""
    return datetime.fromtimestamp(utc_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
