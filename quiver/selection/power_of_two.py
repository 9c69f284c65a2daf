"""Power of d choices: the better of a few random peers.

Exponentially shorter queues than random for one comparison (Mitzenmacher 2001), and no herd: no two gateways
look at the same few peers at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from quiver.errors import UsageError
from quiver.selection.least_loaded import outstanding_per_slot
from quiver.selection.policy import RANKED_MAX
from quiver.values.decision import Candidate, Decision, Scored
from quiver.values.request import InferenceRequest


def choose_of_d(
    candidates: Sequence[Candidate],
    load: Callable[[Candidate], float],
    *,
    d: int,
    policy: str,
    reason: str,
    rng: random.Random,
) -> Decision:
    """Sample `d` distinct candidates, take the lowest load; each retry compares `d` others.

    Equal loads go to the first sampled, which is random already. The losers follow last, so that a pool of
    two still has a second choice. `reason` may name `{score}`.
    """
    drawn = rng.sample(candidates, min(max(RANKED_MAX, d), len(candidates)))
    loads = [load(candidate) for candidate in drawn]
    places = range(len(drawn))
    winners = [min(places[first : first + d], key=loads.__getitem__) for first in places[::d]]
    losers = sorted([place for place in places if place not in winners], key=loads.__getitem__)
    # Many loads are the same, and to write a reason takes as long as all the comparing.
    reasons = {value: reason.format(score=value) for value in dict.fromkeys(loads)}
    ranked = [
        Scored(peer=drawn[place].peer, score=loads[place], reason=reasons[loads[place]])
        for place in (*winners, *losers)[:RANKED_MAX]
    ]
    return Decision(ranked=tuple(ranked), policy=policy)


class PowerOfTwo:
    """The less loaded of `d` = 2 random candidates, by this gateway's own requests per slot."""

    name = "power-of-two"

    def __init__(self, *, d: int = 2) -> None:
        if d < 1:
            raise UsageError(f"PowerOfTwo compares d >= 1 candidates, not {d}")
        self._d = d

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """Winners of random groups of `d` first."""
        return choose_of_d(
            candidates,
            outstanding_per_slot,
            d=self._d,
            policy=self.name,
            reason="{score:.2f} outstanding per slot, best of " + str(self._d),
            rng=rng,
        )
