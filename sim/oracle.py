"""The omniscient policy: knows every queue as it is. Simulation only: the bound every figure shows.

No rule that a gateway could follow may do better on the same world, so a policy above this line is a bug.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from quiver.ids import PeerId
from quiver.selection.policy import rank
from quiver.values.decision import Candidate, Decision
from quiver.values.request import InferenceRequest

TrueState = Callable[[PeerId], float]
"""The expected wait in seconds of a request sent to this peer now: queue, running work and network. Infinite if dead."""


class Oracle:
    """Lowest true expected wait first. The world gives each gateway's factory its view of the ground truth."""

    name = "oracle"

    def __init__(self, true_state: TrueState) -> None:
        self._true_state = true_state

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """No estimate, no report: the truth at `now`."""
        return rank(
            candidates,
            lambda candidate: self._true_state(candidate.peer),
            policy=self.name,
            reason="true wait {score:.3f} s",
            rng=rng,
        )
