"""Random in proportion to a weight, drawn without replacement (Efraimidis & Spirakis 2006, A-Res)."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from math import isfinite, log

from quiver.selection.policy import rank
from quiver.values.decision import Candidate, Decision
from quiver.values.request import InferenceRequest


def capacity(candidate: Candidate) -> float:
    """Slots times self-reported decode speed, tokens per second: what a provider can inflate to attract work."""
    return candidate.slots * candidate.reported_decode_tps


class Weighted:
    """Candidate i comes first with probability w_i / sum(w). A missing weight counts as the median of the known ones."""

    name = "weighted"

    def __init__(self, *, weight: Callable[[Candidate], float] = capacity) -> None:
        self._weight = weight

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """Smallest of -ln(u) / w first: an exponential race, whose winners are distributed as A-Res draws."""
        weights = {candidate.peer: self._weight(candidate) for candidate in candidates}
        known = [weight for weight in weights.values() if weight > 0 and isfinite(weight)]
        median = statistics.median(known) if known else 1.0

        def finish_time(candidate: Candidate) -> float:
            weight = weights[candidate.peer]
            return -log(1.0 - rng.random()) / (weight if weight > 0 and isfinite(weight) else median)

        return rank(candidates, finish_time, policy=self.name, reason="drawn by weight", rng=rng)
