"""Peak-EWMA (Finagle) on time to first token: remembers the worst, forgets slowly.

What is timed is TTFT, because the time of a whole answer is mostly its length. Only complete answers count:
a fast failure must not look like a fast provider.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

from quiver.errors import UsageError
from quiver.ids import PeerId
from quiver.selection.decay import PeakCost
from quiver.selection.power_of_two import choose_of_d
from quiver.values.decision import Candidate, Decision, Outcome
from quiver.values.request import InferenceRequest

# Finagle's 10 s is shorter than one long generation: half of what is learned would be gone when the answer ends.
TAU_S = 30.0
PEERS_MAX = 4096
"Peers whose cost is kept; the one observed longest ago is forgotten."


class PeakEwma:
    """The lower of two random candidates by cost x (in flight + 1). An unknown peer costs the median of the known."""

    name = "peak-ewma"

    def __init__(self, *, tau_s: float = TAU_S) -> None:
        if tau_s <= 0:
            raise UsageError(f"PeakEwma needs tau_s > 0, not {tau_s}")
        self._tau_s = tau_s
        self._costs: dict[PeerId, PeakCost] = {}

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """Power of two choices over the expected wait, in seconds."""
        unknown_cost: float | None = None

        def load(candidate: Candidate) -> float:
            nonlocal unknown_cost
            known = self._costs.get(candidate.peer)
            if known is not None:
                return known.read(now=now) * (candidate.in_flight + 1)
            if unknown_cost is None:
                unknown_cost = self._median_cost(now=now)
            return unknown_cost * (candidate.in_flight + 1)

        return choose_of_d(candidates, load, d=2, policy=self.name, reason="peak cost {score:.3f} s", rng=rng)

    def on_outcome(self, outcome: Outcome, *, now: float) -> None:
        """Learn the time to first token of a complete answer."""
        if not outcome.ok or outcome.ttft_s is None:
            return
        cost = self._costs.pop(outcome.peer, None)
        if cost is None:
            cost = PeakCost(outcome.ttft_s, tau_s=self._tau_s, now=now)
        else:
            cost.observe(outcome.ttft_s, now=now)
        if len(self._costs) >= PEERS_MAX:
            del self._costs[next(iter(self._costs))]
        self._costs[outcome.peer] = cost

    def cost_s(self, peer: PeerId, *, now: float) -> float | None:
        """What the policy believes about a peer, in seconds; None before its first answer."""
        known = self._costs.get(peer)
        return None if known is None else known.read(now=now)

    def _median_cost(self, *, now: float) -> float:
        # With no history at all any positive constant leaves the order to `in_flight`.
        return statistics.median(cost.read(now=now) for cost in self._costs.values()) if self._costs else 1.0
