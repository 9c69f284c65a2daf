"""Two ways to forget: a mean and a peak, both by time and not by count, because a gateway's traffic is uneven."""

from __future__ import annotations

from math import exp


class DecayingMean:
    """Mean of the samples seen, each weighted exp(-age / tau). Silence changes no value, only how soon it will move."""

    __slots__ = ("_tau_s", "_sum", "_weight", "_stamp_s")

    def __init__(self, *, tau_s: float) -> None:
        self._tau_s = tau_s
        self._sum = 0.0
        self._weight = 0.0
        self._stamp_s = 0.0

    def observe(self, value: float, *, now: float) -> None:
        """Add one sample."""
        kept = exp(-max(now - self._stamp_s, 0.0) / self._tau_s)
        self._sum = self._sum * kept + value
        self._weight = self._weight * kept + 1.0
        self._stamp_s = now

    @property
    def value(self) -> float | None:
        """None before the first sample."""
        return self._sum / self._weight if self._weight else None


class PeakCost:
    """Finagle's peak EWMA: jumps up to a worse sample at once, comes down slowly, and decays to zero in silence.

    Source: twitter/finagle, finagle-core, PeakEwma.scala.
    """

    __slots__ = ("_tau_s", "_cost", "_stamp_s")

    def __init__(self, value: float, *, tau_s: float, now: float) -> None:
        self._tau_s = tau_s
        self._cost = value
        self._stamp_s = now

    def observe(self, value: float, *, now: float) -> None:
        """cost = value if value > cost, else value (1 - w) + cost w with w = exp(-age / tau)."""
        if value > self._cost:
            self._cost = value
        else:
            kept = exp(-max(now - self._stamp_s, 0.0) / self._tau_s)
            self._cost = value * (1.0 - kept) + self._cost * kept
        self._stamp_s = now

    def read(self, *, now: float) -> float:
        """The cost now: as if a zero had just been observed, so that an idle peer is tried again."""
        return self._cost * exp(-max(now - self._stamp_s, 0.0) / self._tau_s)
