"""Random in proportion to a weight, drawn without replacement (Efraimidis & Spirakis 2006, A-Res)."""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Callable, Sequence
from math import inf, log

from quiver.selection.policy import RANKED_MAX
from quiver.values.decision import Candidate, Decision, Scored
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
        weights = [self._weight(candidate) for candidate in candidates]
        known = [weight for weight in weights if 0 < weight < inf]
        if len(known) < len(weights):
            median = statistics.median(known) if known else 1.0
            weights = [weight if 0 < weight < inf else median for weight in weights]
        race = heapq.nsmallest(
            RANKED_MAX,
            (
                (-log(1.0 - rng.random()) / weight, candidate.peer)
                for weight, candidate in zip(weights, candidates, strict=True)
            ),
        )
        ranked = tuple(Scored(peer=peer, score=finish, reason="drawn by weight") for finish, peer in race)
        return Decision(ranked=ranked, policy=self.name)
