"""A policy of somebody else's, in a file of its own: what the devnet's gateway is given by `file.py:Class`."""

from __future__ import annotations

from quiver.values.decision import Decision, Scored


class FewestOpen:
    """The provider with the fewest requests of ours."""

    name = "fewest-open"

    def choose(self, request, candidates, *, now, rng):
        """Ties go to the smaller peer id."""
        ordered = sorted(candidates, key=lambda candidate: (candidate.in_flight, candidate.peer))
        ranked = [Scored(peer=one.peer, score=float(one.in_flight), reason="in flight") for one in ordered]
        return Decision(ranked=tuple(ranked), policy=self.name)
