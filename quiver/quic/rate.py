"""Token buckets: so many at once, so many a second after that. No clock: callers pass `now`."""

from __future__ import annotations

from collections.abc import Hashable

import msgspec

# Keys whose bucket is remembered; the one used longest ago is forgotten, and would by then mostly be full again.
BUCKETS_MAX = 4096


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """`burst` at once, refilled with `per_s` a second."""

    burst: int
    per_s: float


UNLIMITED = Rate(burst=1 << 62, per_s=0.0)
"""For peers that are one's own."""


class Bucket:
    """One token bucket, full at first."""

    __slots__ = ("_rate", "_tokens", "_at_s")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at_s = now

    def is_full(self, now: float) -> bool:
        """As if nothing had ever been taken."""
        return self._tokens + (now - self._at_s) * self._rate.per_s >= self._rate.burst

    def take(self, now: float) -> bool:
        """One token, if there is one."""
        rate = self._rate
        tokens = self._tokens + (now - self._at_s) * rate.per_s
        if tokens > rate.burst:
            tokens = float(rate.burst)
        self._at_s = now
        if tokens < 1.0:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1.0
        return True


class Buckets:
    """A bucket for each key, at most `BUCKETS_MAX`."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: dict[Hashable, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, now: float) -> bool:
        """One token of `key`'s, if there is one."""
        bucket = self._buckets.pop(key, None) or Bucket(self._rate, now)
        self._buckets[key] = bucket
        if len(self._buckets) > BUCKETS_MAX:
            del self._buckets[next(iter(self._buckets))]
        return bucket.take(now)
