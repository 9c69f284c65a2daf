"""The cheapest provider that should make the deadline for the first token; the fastest if none should."""

from __future__ import annotations

import random
from collections.abc import Sequence

from quiver.errors import UsageError
from quiver.selection.policy import RANKED_MAX
from quiver.units import compute_cost_credits
from quiver.values.decision import Candidate, Decision, Scored
from quiver.values.request import InferenceRequest

TTFT_SLO_S = 2.0


def predict_ttft_s(request: InferenceRequest, candidate: Candidate) -> float:
    """Expected time to first token in seconds: measured here if anything was, else one round trip and the prefill.

    The provider's claimed prefill speed only counts until its first answer. Own requests beyond a full house wait.
    """
    base_s = candidate.ttft_ewma_s
    if base_s is None:
        prefill_tps = max(candidate.reported_prefill_tps, 1.0)
        base_s = (candidate.rtt_s or 0.0) + request.prompt_tokens_estimate / prefill_tps
    return base_s * max(1.0, (candidate.in_flight + 1) / max(candidate.slots, 1))


class CheapestWithinSlo:
    """Lowest greatest price among those predicted within `ttft_slo_s`; then the others, soonest first."""

    name = "cheapest-within-slo"

    def __init__(self, *, ttft_slo_s: float = TTFT_SLO_S) -> None:
        if ttft_slo_s <= 0:
            raise UsageError(f"CheapestWithinSlo needs ttft_slo_s > 0, not {ttft_slo_s}")
        self._ttft_slo_s = ttft_slo_s

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """Score: credits within the SLO, predicted seconds outside; the reason says which."""
        keyed = []
        for candidate in candidates:
            ttft_s = predict_ttft_s(request, candidate)
            late = ttft_s > self._ttft_slo_s
            cost = compute_cost_credits(
                prompt_tokens=request.prompt_tokens_estimate,
                completion_tokens=request.max_tokens,
                prompt_price=candidate.prompt_price,
                completion_price=candidate.completion_price,
            )
            keyed.append((late, ttft_s if late else float(cost), rng.random(), candidate.peer))
        keyed.sort()
        ranked = tuple(
            Scored(peer=peer, score=score, reason=f"late, {score:.3f} s" if late else f"in time, {score:.0f} credits")
            for late, score, _, peer in keyed[:RANKED_MAX]
        )
        return Decision(ranked=ranked, policy=self.name)
