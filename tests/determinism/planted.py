"""Policies with the two mistakes that only another process or another Python shows. A check that passes them is blind."""

from __future__ import annotations

from quiver.selection.policy import rank

# Added up from the left this is 0.9999999999999999; since 3.12 `sum` keeps the lost bits and says 1.0.
TENTHS = [0.1] * 10


class SetOrder:
    """Prefers what a set of texts yields first: another order in each process, unless PYTHONHASHSEED is fixed."""

    name = "set-order"

    def choose(self, request, candidates, *, now, rng):
        order = list({candidate.peer.hex() for candidate in candidates})
        return rank(candidates, lambda c: order.index(c.peer.hex()), policy=self.name, reason="{score}", rng=rng)


class FloatSum:
    """Scores with the built-in `sum` over floats."""

    name = "float-sum"

    def choose(self, request, candidates, *, now, rng):
        return rank(candidates, lambda c: sum(TENTHS), policy=self.name, reason="", rng=rng)
