"""What a routing policy is: the one question a gateway asks it, and the few tools policies share.

Rules: a policy is a plain object of one gateway. It takes `now` and the gateway's rng, never awaits, and never sees
who is ejected or expired: `CandidateTable` filters before every policy, so policies are compared on ranking only.
Ties are broken by the rng over the tied peers, never by list order: list order makes hot spots.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from quiver.errors import UsageError
from quiver.ids import PeerId, short
from quiver.values.decision import Candidate, Decision, Outcome, Scored
from quiver.values.request import InferenceRequest

# A request is tried at `Params.attempts_max` = 3 peers; 8 forgives peers that answer Busy on the way.
RANKED_MAX = 8


@runtime_checkable
class Policy(Protocol):
    """Ranks the providers of one request. Two more methods are optional: see `Learner` and `Prober`."""

    name: str
    "Short and stable: it names the rows of every table."

    def choose(
        self, request: InferenceRequest, candidates: Sequence[Candidate], *, now: float, rng: random.Random
    ) -> Decision:
        """Peers in the order to try them, at least one if there are candidates; `candidates` come sorted by peer id."""


@runtime_checkable
class Learner(Protocol):
    """A policy that learns from what happened."""

    def on_outcome(self, outcome: Outcome, *, now: float) -> None:
        """One attempt ended. Busy is load, not a fault."""


@runtime_checkable
class Prober(Protocol):
    """A policy that wants fresh load reports."""

    def probes(self, *, now: float, rng: random.Random) -> Sequence[PeerId]:
        """Peers to ask for their load now; asked after each decision."""


Factory = Callable[[], Policy]
"""Makes one policy for one gateway: instances are never shared, so nothing leaks between gateways."""


def tell(policy: Policy, outcome: Outcome, *, now: float) -> None:
    """Hand an outcome to a policy that learns; others ignore it."""
    # getattr: isinstance on a runtime-checkable Protocol costs microseconds on every request.
    learn = getattr(policy, "on_outcome", None)
    if learn is not None:
        learn(outcome, now=now)


def wanted_probes(policy: Policy, *, now: float, rng: random.Random) -> Sequence[PeerId]:
    """Peers whose load the policy wants to hear; none for a policy that does not probe."""
    probes = getattr(policy, "probes", None)
    return () if probes is None else tuple(probes(now=now, rng=rng))


def rank(
    candidates: Sequence[Candidate],
    score: Callable[[Candidate], float],
    *,
    policy: str,
    reason: str,
    rng: random.Random,
) -> Decision:
    """The `RANKED_MAX` candidates of lowest score, ties in random order.

    `reason` is a format string that may name `{score}`.
    """
    scores = [score(candidate) for candidate in candidates]
    if not scores:
        return Decision(ranked=(), policy=policy)
    cutoff = heapq.nsmallest(RANKED_MAX, scores)[-1]
    # Only who can still be ranked draws a number, so a full scan stays cheap.
    keyed = [
        (value, rng.random(), candidate.peer)
        for value, candidate in zip(scores, candidates, strict=True)
        if value <= cutoff
    ]
    best = heapq.nsmallest(RANKED_MAX, keyed)
    ranked = tuple(Scored(peer=peer, score=value, reason=reason.format(score=value)) for value, _, peer in best)
    return Decision(ranked=ranked, policy=policy)


def check_decision(decision: Decision, candidates: Sequence[Candidate]) -> None:
    """Hold a policy's answer against the question; `UsageError` names the policy and its mistake."""
    if not isinstance(decision, Decision):
        raise UsageError(f"a policy returned {type(decision).__name__} from choose(): return a Decision")
    if candidates and not decision.ranked:
        raise UsageError(f"policy {decision.policy!r} ranked none of {len(candidates)} candidates: rank at least one")
    known = {candidate.peer for candidate in candidates}
    seen: set[PeerId] = set()
    for scored in decision.ranked:
        if scored.peer not in known:
            raise UsageError(f"policy {decision.policy!r} chose {short(scored.peer)}, which is not a candidate")
        if scored.peer in seen:
            raise UsageError(f"policy {decision.policy!r} ranked {short(scored.peer)} twice")
        seen.add(scored.peer)
