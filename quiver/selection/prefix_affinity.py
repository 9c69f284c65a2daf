"""Prefix affinity with load override: send a prompt where its beginning was computed before, unless that peer is hot.

After SGLang's cache-aware router. Only what this gateway routed itself is known, as hashes of
blocks: no prompt text is kept.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from quiver.ids import PeerId
from quiver.selection.least_loaded import outstanding_per_slot
from quiver.selection.policy import RANKED_MAX, rank
from quiver.values.decision import Candidate, Decision, Scored
from quiver.values.request import InferenceRequest

MATCH_MIN = 0.3
"Share of the prompt's blocks that must have been seen; below it, load decides."
IMBALANCE_ABS = 3
"Requests between the busiest and the idlest peer; SGLang's 64 is far above a gateway's scale."
IMBALANCE_REL = 1.5
PREFIXES_MAX = 16_384
"Block hashes kept; the least recently used is forgotten."


class PrefixAffinity:
    """The peer that served the longest known prefix; least outstanding per slot without a match or out of balance."""

    name = "prefix-affinity"

    def __init__(self) -> None:
        self._owners: dict[bytes, PeerId] = {}

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """The decision is remembered: the next prompt with this beginning follows it."""
        by_load = rank(
            candidates, outstanding_per_slot, policy=self.name, reason="{score:.2f} outstanding per slot", rng=rng
        )
        if not by_load.ranked:
            return by_load
        owner, matched = (None, 0) if self._is_out_of_balance(candidates) else self._find(request, candidates)
        decision = by_load
        if owner is not None and matched >= MATCH_MIN * len(request.prefix_hashes):
            reason = f"served {matched} of {len(request.prefix_hashes)} prefix blocks"
            others = tuple(scored for scored in by_load.ranked if scored.peer != owner)
            ranked = (Scored(peer=owner, score=0.0, reason=reason), *others)[:RANKED_MAX]
            decision = Decision(ranked=ranked, policy=self.name)
        self._remember(request.prefix_hashes, decision.ranked[0].peer)
        return decision

    def _find(self, request: InferenceRequest, candidates: Sequence[Candidate]) -> tuple[PeerId | None, int]:
        """Owner of the longest known prefix that is a candidate now, and how many blocks it covers."""
        present = {candidate.peer for candidate in candidates}
        for matched in range(len(request.prefix_hashes), 0, -1):
            owner = self._owners.get(request.prefix_hashes[matched - 1])
            if owner is not None and owner in present:
                return owner, matched
        return None, 0

    @staticmethod
    def _is_out_of_balance(candidates: Sequence[Candidate]) -> bool:
        loads = [candidate.in_flight for candidate in candidates]
        return max(loads) - min(loads) > IMBALANCE_ABS and max(loads) > IMBALANCE_REL * min(loads)

    def _remember(self, hashes: Sequence[bytes], peer: PeerId) -> None:
        for prefix in hashes:
            self._owners.pop(prefix, None)
            if len(self._owners) >= PREFIXES_MAX:
                del self._owners[next(iter(self._owners))]
            self._owners[prefix] = peer
