"""How long nodes stay up and down: published fits, as endless iterators of (up_s, down_s).

Rules of this file: every fit names its source and what in it is an assumption. All published fits have shape k < 1: the
longer a node has been up, the longer it stays up. Up and down times are drawn independently.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from quiver.errors import UsageError
from sim.plug import Plug, PlugPoint

_HOUR_S = 3600.0


class Weibull(NamedTuple):
    """F(x) = 1 - exp(-(x / scale_s)^k)."""

    k: float
    scale_s: float

    def mean_s(self) -> float:
        """Expected duration."""
        return self.scale_s * math.gamma(1 + 1 / self.k)

    def quantile_s(self, q: float) -> float:
        """Duration that a share `q` stays below."""
        return self.scale_s * math.pow(-math.log1p(-q), 1 / self.k)

    def sample_s(self, rng: random.Random) -> float:
        """One duration; the inverse method takes exactly one draw."""
        return self.quantile_s(rng.random())

    def residual_s(self, rng: random.Random) -> float:
        """What is left of the duration that covers a random moment (the equilibrium distribution).

        The covering duration is length-biased: (x / scale)^k is gamma(1 + 1/k); the moment falls uniformly into it.
        """
        covering = self.scale_s * math.pow(rng.gammavariate(1 + 1 / self.k, 1.0), 1 / self.k)
        return covering * rng.random()


class Churn(Protocol):
    """The plug point: when a node is up and down."""

    def sessions(self, rng: random.Random) -> Iterator[tuple[float, float]]:
        """Endless (up_s, down_s), up first; up_s of 0 in the first pair means the node starts down."""


class NoChurn:
    """Every node is up for ever."""

    def sessions(self, rng: random.Random) -> Iterator[tuple[float, float]]:
        """One endless session."""
        while True:
            yield math.inf, 0.0


class WeibullChurn(NamedTuple):
    """Alternating Weibull up and down times."""

    name: str
    up: Weibull
    down: Weibull
    stationary: bool = True
    "Start in the middle of a session, as a network that has run for long; False: all nodes start a fresh session."
    source: str = ""

    def availability(self) -> float:
        """Share of time a node is up."""
        up_s = self.up.mean_s()
        return up_s / (up_s + self.down.mean_s())

    def sessions(self, rng: random.Random) -> Iterator[tuple[float, float]]:
        """Endless (up_s, down_s)."""
        if self.stationary:
            if rng.random() < self.availability():
                yield self.up.residual_s(rng), self.down.sample_s(rng)
            else:
                yield 0.0, self.down.residual_s(rng)
        while True:
            yield self.up.sample_s(rng), self.down.sample_s(rng)

    def starting_fresh(self) -> WeibullChurn:
        """The same churn, all nodes beginning a session at time 0."""
        return self._replace(stationary=False)


def spot() -> WeibullChurn:
    """Spot V100 zones over 45 days.

    The fits are smoother than the data: their availability is 0.62 (measured 0.64), their median up time 0.95 h (0.54 h),
    their mean 2.7 h (3.2 h).
    """
    return WeibullChurn(
        "spot", Weibull(0.595, 1.75 * _HOUR_S), Weibull(0.707, 1.32 * _HOUR_S), source="Wu et al., NSDI 2024"
    )


def ipfs(availability: float = 0.5) -> WeibullChurn:
    """IPFS DHT servers: half the sessions <= 2 h, 80 % <= 8 h (Weibull fit to these two quantiles).

    Down times were not published: they have the same shape, and a scale that gives `availability` (an assumption).
    """
    if not 0 < availability < 1:
        raise UsageError(f"availability {availability} is not between 0 and 1")
    up = Weibull(0.608, 3.66 * _HOUR_S)
    return WeibullChurn(
        "ipfs", up, Weibull(up.k, up.scale_s * (1 - availability) / availability),
        source="ProbeLab network-measurements RFM 2, week 2022-04-28; down times assumed",
    )  # fmt: skip


def per_hour(rate: float, *, down_s: float = 600.0) -> WeibullChurn:
    """`rate` departures per node and up-hour, memoryless (k = 1), down for `down_s` on average: for sweeps of one number."""
    if rate <= 0:
        raise UsageError(f"{rate} departures an hour: use NoChurn for none")
    return WeibullChurn(
        f"{rate:g}/h", Weibull(1.0, _HOUR_S / rate), Weibull(1.0, down_s), source="exponential, a theoretical baseline"
    )


CHURN = PlugPoint(
    field="churn",
    builtins={"none": NoChurn, "spot": spot, "ipfs": ipfs},
    plain="departures per hour",
    methods={"sessions": ("rng",)},
)


def make_churn(plug: Plug | float) -> Churn:
    """A built-in's name, departures per hour (as a number or its text), or a plug."""
    if isinstance(plug, (int, float)):
        return per_hour(plug) if plug else NoChurn()
    if isinstance(plug, str) and is_number(plug):
        return make_churn(float(plug))
    churn: Churn = CHURN.make(plug)
    return churn


def check_churn(plug: Plug | float) -> None:
    """Refuse what `make_churn` would, without loading anything."""
    if isinstance(plug, (int, float)) or (isinstance(plug, str) and is_number(plug)):
        if not 0 <= float(plug) < math.inf:
            raise UsageError(f"churn {plug} is no rate: departures per hour are 0 or more")
    else:
        CHURN.check(plug)


def is_number(text: str) -> bool:
    """Whether `float` reads it."""
    try:
        float(text)
    except ValueError:
        return False
    return True
