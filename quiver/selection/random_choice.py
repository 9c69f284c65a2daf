"""Uniformly random: the lower bound of every figure."""

from __future__ import annotations

import random
from collections.abc import Sequence

from quiver.selection.policy import RANKED_MAX
from quiver.values.decision import Candidate, Decision, Scored
from quiver.values.request import InferenceRequest


class RandomChoice:
    """Every candidate with the same probability, whatever it is or does. Nothing a provider says has influence."""

    name = "random"

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """A random order."""
        drawn = rng.sample(candidates, min(RANKED_MAX, len(candidates)))
        ranked = tuple(Scored(peer=candidate.peer, score=0.0, reason="drawn") for candidate in drawn)
        return Decision(ranked=ranked, policy=self.name)
