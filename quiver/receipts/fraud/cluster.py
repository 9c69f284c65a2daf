"""Self-dealing: payers and providers whose credits go round among themselves.

The graph has an edge from payer to provider with the credits paid. Around a provider we look for the set with the least
conductance by a push of personalised PageRank and a sweep (Andersen, Chung, Lang 2006, sections 3 and 4): a wash ring is
a small set that hardly any credit enters or leaves, while honest gateways spread over the pool.
An operator who serves only itself looks the same, and is: harmless until somebody rewards volume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from quiver.receipts.fraud.detector import conclude
from quiver.receipts.history import Book, History
from quiver.values.evidence import Evidence

# Chance to return to the provider at each step, and the mass below which a vertex passes nothing on.
RETURN, PUSH_MIN = 0.15, 1e-5
# A push costs at most 1 / (RETURN x PUSH_MIN) vertex visits; this bounds the sweep too.
CLUSTER_MAX = 256
# A provider with one payer of its own size is not yet a ring of the network.
PROVIDERS_MIN = 4

Vertex = tuple[str, bytes]
Graph = Mapping[Vertex, Mapping[Vertex, float]]


@dataclass(frozen=True, kw_only=True)
class SelfDealing:
    """Score: 1 - conductance of the tightest set around the provider that holds at most half of all credits."""

    name: str = "self-dealing"
    threshold: float = 0.8

    def score(self, history: History, now_ms: int) -> Evidence:
        """0 in a network of fewer than `PROVIDERS_MIN` providers, where everybody is a cluster."""
        graph = make_graph(history.book)
        vertex = ("provider", bytes(history.peer))
        providers = sum(kind == "provider" for kind, _ in graph)
        if vertex not in graph or providers < PROVIDERS_MIN:
            return conclude(history, now_ms, detector=self.name, score=0.0, threshold=self.threshold)
        tightness, members = find_cluster(graph, vertex)
        payers = sum(kind == "payer" for kind, _ in members)
        return conclude(
            history, now_ms, detector=self.name, score=tightness, threshold=self.threshold,
            reasons=[f"{tightness:.0%} of the credits of {payers} payers and {len(members) - payers} providers stay among them"],
        )  # fmt: skip


def make_graph(book: Book) -> dict[Vertex, dict[Vertex, float]]:
    """Undirected, weighted by credits; vertices are ("payer", account) and ("provider", peer)."""
    graph: dict[Vertex, dict[Vertex, float]] = {}
    for history in book.histories():
        provider = ("provider", bytes(history.peer))
        for account, credits in history.payers.items():
            if credits > 0:
                payer = ("payer", bytes(account))
                graph.setdefault(provider, {})[payer] = float(credits)
                graph.setdefault(payer, {})[provider] = float(credits)
    return graph


def find_cluster(graph: Graph, start: Vertex) -> tuple[float, list[Vertex]]:
    """(1 - conductance, members) of the best sweep set around `start` with at most half the volume; (0, []) if none."""
    volumes = {vertex: sum(edges.values()) for vertex, edges in graph.items()}
    half = sum(volumes.values()) / 2
    ranks = push(graph, volumes, start)
    order = sorted(ranks, key=lambda vertex: (-ranks[vertex] / volumes[vertex], vertex))[:CLUSTER_MAX]
    inside: set[Vertex] = set()
    volume = cut = 0.0
    best, size = 0.0, 0
    for count, vertex in enumerate(order, 1):
        within = sum(weight for other, weight in graph[vertex].items() if other in inside)
        inside.add(vertex)
        volume += volumes[vertex]
        cut += volumes[vertex] - 2 * within
        if volume > half:
            break
        if 1 - cut / volume > best:
            best, size = 1 - cut / volume, count
    members = order[:size]
    return (best, members) if start in members else (0.0, [])


def push(graph: Graph, volumes: Mapping[Vertex, float], start: Vertex) -> dict[Vertex, float]:
    """Approximate personalised PageRank of `start` with a lazy walk; only vertices that got some."""
    ranks: dict[Vertex, float] = {}
    residues: dict[Vertex, float] = {start: 1.0}
    waiting = deque([start])
    while waiting:
        vertex = waiting.popleft()
        residue = residues.get(vertex, 0.0)
        if residue < PUSH_MIN:
            continue
        ranks[vertex] = ranks.get(vertex, 0.0) + RETURN * residue
        stays = (1 - RETURN) * residue / 2
        residues[vertex] = stays
        if stays >= PUSH_MIN:
            waiting.append(vertex)
        for other, weight in graph[vertex].items():
            before = residues.get(other, 0.0)
            residues[other] = before + stays * weight / volumes[vertex]
            if before < PUSH_MIN <= residues[other]:
                waiting.append(other)
    return ranks
