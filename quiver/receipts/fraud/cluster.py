"""Self-dealing: payers and providers whose credits go round among themselves.

The graph has an edge from payer to provider with the credits paid. Around a provider we look for the set with the least
conductance by a push of personalised PageRank and a sweep (Andersen, Chung, Lang 2006, sections 3 and 4): a wash ring is
a small set that hardly any credit enters or leaves, while honest gateways spread over the pool.
An operator who serves only itself looks the same, and is: harmless until somebody rewards volume.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from quiver.receipts.fraud.detector import conclude
from quiver.receipts.history import History
from quiver.receipts.payments import Payments, Vertex, provider_of
from quiver.values.evidence import Evidence

# Chance to return to the provider at each step, and the mass an edge must carry to be followed: together at most
# 1 / (RETURN x PUSH_MIN) = 6,700 edges are looked at, a few milliseconds.
RETURN, PUSH_MIN = 0.15, 1e-3
# Members of the largest ring that is looked for.
CLUSTER_MAX = 256
# Among fewer providers everybody is a cluster.
PROVIDERS_MIN = 4


@dataclass(frozen=True, kw_only=True)
class SelfDealing:
    """Score: 1 - conductance of the tightest set around the provider that holds at most half of all credits."""

    name: str = "self-dealing"
    threshold: float = 0.7
    "A ring that signs for 1.2 times what it honestly sells."

    def score(self, history: History, now_ms: int) -> Evidence:
        """0 for one that was never paid, and in a network of fewer than `PROVIDERS_MIN` providers."""
        payments, start = history.book.payments, provider_of(history.peer)
        if not payments.edges(start) or payments.providers < PROVIDERS_MIN:
            return conclude(history, now_ms, detector=self.name, score=0.0, threshold=self.threshold)
        tightness, members = find_cluster(payments, start)
        payers = sum(kind == "payer" for kind, _ in members)
        return conclude(
            history, now_ms, detector=self.name, score=tightness, threshold=self.threshold,
            reasons=[f"{tightness:.0%} of the credits of {payers} payers and {len(members) - payers} providers stay among them"],
        )  # fmt: skip


def find_cluster(payments: Payments, start: Vertex) -> tuple[float, list[Vertex]]:
    """(1 - conductance, members) of the best sweep set around `start` with at most half the volume; (0, []) if none."""
    ranks = push(payments, start)
    order = sorted(ranks, key=lambda vertex: (-ranks[vertex] / payments.volume(vertex), vertex))[:CLUSTER_MAX]
    inside: dict[Vertex, None] = {}
    volume = cut = 0
    best, size = 0.0, 0
    for count, vertex in enumerate(order, 1):
        edges = payments.edges(vertex)
        # The smaller of the two is walked through; which one it is changes no sum.
        within = (
            sum(edges[other] for other in inside if other in edges)
            if len(inside) < len(edges)
            else sum(credits for other, credits in edges.items() if other in inside)
        )
        inside[vertex] = None
        volume += payments.volume(vertex)
        cut += payments.volume(vertex) - 2 * within
        if volume > payments.total:
            break
        if 1 - cut / volume > best:
            best, size = 1 - cut / volume, count
    members = order[:size]
    return (best, members) if start in members else (0.0, [])


def push(payments: Payments, start: Vertex) -> dict[Vertex, float]:
    """Approximate personalised PageRank of `start` with a lazy walk; only vertices that got some."""
    ranks: dict[Vertex, float] = {}
    residues: dict[Vertex, float] = {start: 1.0}
    waiting = deque([start])
    while waiting:
        vertex = waiting.popleft()
        residue, edges = residues[vertex], payments.edges(vertex)
        least = PUSH_MIN * len(edges)
        if residue < least:
            continue
        ranks[vertex] = ranks.get(vertex, 0.0) + RETURN * residue
        stays = (1 - RETURN) * residue / 2
        residues[vertex] = stays
        if stays >= least:
            waiting.append(vertex)
        share = stays / payments.volume(vertex)
        for other, credits in edges.items():
            before = residues.get(other, 0.0)
            after = residues[other] = before + share * credits
            if before < PUSH_MIN * len(payments.edges(other)) <= after:
                waiting.append(other)
    return ranks
