"""Least outstanding per slot, counted here: no provider can lie about it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from quiver.selection.policy import rank
from quiver.values.decision import Candidate, Decision
from quiver.values.request import InferenceRequest


def outstanding_per_slot(candidate: Candidate) -> float:
    """Requests of this gateway open at the provider, per slot of its offer."""
    return candidate.in_flight / max(candidate.slots, 1)


class LeastLoaded:
    """Full scan for the fewest own requests per slot. Blind to other gateways: with many of them its counts say little."""

    name = "least-loaded"

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """Lowest load first."""
        return rank(
            candidates, outstanding_per_slot, policy=self.name, reason="{score:.2f} outstanding per slot", rng=rng
        )
