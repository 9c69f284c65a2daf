"""Round-robin over peer ids. Blind to size and load, but perfectly even."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence

from quiver.ids import PeerId
from quiver.selection.policy import RANKED_MAX
from quiver.values.decision import Candidate, Decision, Scored
from quiver.values.request import InferenceRequest

MODELS_MAX = 1024
"Rotations kept, one a model; the least recently used is forgotten."


class RoundRobin:
    """The next peer id after the last chosen one, so that peers that come and go do not disturb the rotation.

    The first choice of each model is random: many gateways that start in phase would otherwise herd.
    """

    name = "round-robin"

    def __init__(self) -> None:
        self._last: dict[str, PeerId] = {}

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """The rotation from the next peer on; the score is the distance."""
        peers = sorted(candidate.peer for candidate in candidates)
        if not peers:
            return Decision(ranked=(), policy=self.name)
        last = self._last.pop(request.model, None)
        start = rng.randrange(len(peers)) if last is None else bisect_right(peers, last)
        order = [peers[(start + step) % len(peers)] for step in range(min(RANKED_MAX, len(peers)))]
        if len(self._last) >= MODELS_MAX:
            del self._last[next(iter(self._last))]
        self._last[request.model] = order[0]
        ranked = tuple(Scored(peer=peer, score=float(step), reason="next in turn") for step, peer in enumerate(order))
        return Decision(ranked=ranked, policy=self.name)
