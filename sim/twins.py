"""Synthetic twins of the published traces, for a machine without the data folder. Always labelled synthetic.

Rules of this file: the parameters are the published figures and nothing else. Gaps are independent draws with the
published mean and coefficient of variation (gamma, or log-normal where CV > 2, since a gamma that bursty is almost all
zeros); so autocorrelation of the arrival rate is *not* reproduced. Lengths follow an inverse distribution function that
meets p50, p95 and p99 exactly, and the mean by one fitted exponent; input and output lengths are independent.

How far that goes, measured against the traces (`tests/unit/sim/test_twins.py` holds it): p50, p95, p99 and the mean within
20 %. Below the median nothing was published, and the curve is an assumption: its lower quartile is 34 to 67 % below the
trace's, and the largest distance between the distribution functions is 0.11 to 0.36.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from quiver.errors import UsageError
from sim.rng import Substreams
from sim.workload import Workload

# The curve starts at p50 / 20 and ends at 1.5 * p99: assumptions, the sources publish neither.
_FLOOR_SHARE = 1 / 20
_CEILING = 1.5


class Lengths(NamedTuple):
    """Published figures of a token-length distribution."""

    mean: float
    p50: float
    p95: float
    p99: float

    def exponent(self) -> float:
        """Exponent g of the segment p50 -> p95, x = p50 + (p95 - p50) t^g, that gives the published mean."""
        lower = 0.5 * self.p50 * (1 - _FLOOR_SHARE) / math.log(1 / _FLOOR_SHARE)
        upper = 0.04 * (self.p95 + self.p99) / 2 + 0.01 * self.p99 * (1 + _CEILING) / 2
        middle = (self.mean - lower - upper) / 0.45
        if not self.p50 < middle < self.p95:
            raise UsageError(
                f"no curve through p50, p95, p99 = {self.p50}, {self.p95}, {self.p99} has mean {self.mean}"
            )
        return (self.p95 - self.p50) / (middle - self.p50) - 1

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """Inverse distribution function, shape of `u`."""
        low = self.p50 * _FLOOR_SHARE ** (1 - 2 * u)
        middle = self.p50 + (self.p95 - self.p50) * (np.clip(u - 0.5, 0, 0.45) / 0.45) ** self.exponent()
        high = np.interp(u, [0.95, 0.99, 1.0], [self.p95, self.p99, _CEILING * self.p99])
        curve: np.ndarray = np.where(u < 0.5, low, np.where(u < 0.95, middle, high))
        return curve

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count,) int64 lengths, at least 1."""
        lengths: np.ndarray = np.maximum(1, np.rint(self.quantile(rng.random(count)))).astype(np.int64)
        return lengths


class Twin(NamedTuple):
    """Published figures of a trace."""

    requests: int
    rate_rps: float
    gap_cv: float
    input: Lengths
    output: Lengths
    source: str


_AZURE = "figures of the Azure 2023 trace (Patel et al., Splitwise, ISCA 2024)"
TWINS: dict[str, Twin] = {
    "azure-conv": Twin(19_366, 5.53, 1.09, Lengths(1155, 1020, 4083, 4142), Lengths(211, 129, 451, 601), _AZURE),
    "azure-code": Twin(8_819, 2.57, 13.2, Lengths(2048, 1469, 7303, 7436), Lengths(28, 13, 90, 251), _AZURE),
    # Mooncake's ticks hide the gaps; spread evenly inside a tick they are close to a Poisson process (CV 1).
    "mooncake": Twin(12_031, 3.40, 1.0, Lengths(12035, 6909, 39550, 85400), Lengths(343, 350, 698, 1118),
                     "figures of Mooncake conversation (Qin et al., FAST 2025); no prefix blocks"),
}  # fmt: skip


def draw_gaps(rng: np.random.Generator, count: int, *, mean_s: float, cv: float) -> np.ndarray:
    """(count,) float64 independent gaps with the given mean and coefficient of variation."""
    if cv <= 2.0:
        return rng.gamma(1 / cv**2, mean_s * cv**2, count)
    variance = math.log(1 + cv**2)
    return rng.lognormal(math.log(mean_s) - variance / 2, math.sqrt(variance), count)


def synthetic(name: str, *, seed: int = 0, requests: int | None = None) -> Workload:
    """The twin of a published trace, with as many requests unless told otherwise."""
    if name not in TWINS:
        raise UsageError(f"no synthetic twin is called {name!r}; there are: {', '.join(sorted(TWINS))}")
    twin = TWINS[name]
    count = twin.requests if requests is None else requests
    streams = Substreams(seed)
    gaps = draw_gaps(streams.numpy("twin", name, "gaps"), count, mean_s=1 / twin.rate_rps, cv=twin.gap_cv)
    # Few heavy gaps dominate the sum: rescaling to the published rate keeps the CV and fixes the mean.
    arrival = np.cumsum(gaps) * (count / twin.rate_rps / max(gaps.sum(), 1e-9))
    return Workload(
        name=f"{name}-synthetic", label="synthetic", arrival_s=arrival, span_s=float(arrival[-1]) if count else 0.0,
        input_tokens=twin.input.sample(streams.numpy("twin", name, "input"), count),
        output_tokens=twin.output.sample(streams.numpy("twin", name, "output"), count),
        note=f"synthetic from {twin.source}",
    )  # fmt: skip
