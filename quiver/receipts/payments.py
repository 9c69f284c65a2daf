"""Who paid whom how much: a bounded graph of credits between payers and providers, kept up to date edge by edge.

Vertices are ("payer", account) and ("provider", peer id). A vertex that has too many edges loses its least one.
"""

from __future__ import annotations

from collections.abc import Mapping

from quiver.ids import Address, PeerId

Vertex = tuple[str, bytes]

# A provider with more payers than this depends on none of them; a payer may know as many providers as a book holds.
PAYERS_PER_PROVIDER_MAX = 256


def payer_of(account: Address) -> Vertex:
    """Its vertex."""
    return "payer", account


def provider_of(peer: PeerId) -> Vertex:
    """Its vertex."""
    return "provider", peer


class Payments:
    """Undirected and weighted by credits."""

    def __init__(self) -> None:
        self._edges: dict[Vertex, dict[Vertex, int]] = {}
        self._volumes: dict[Vertex, int] = {}
        self.total = 0
        "Credits on all edges."
        self.providers = 0
        "Providers that were ever paid and are not forgotten."

    def edges(self, vertex: Vertex) -> Mapping[Vertex, int]:
        """Credits by neighbour; empty for a stranger."""
        return self._edges.get(vertex, {})

    def volume(self, vertex: Vertex) -> int:
        """Credits on all its edges."""
        return self._volumes.get(vertex, 0)

    def add(self, account: Address, peer: PeerId, credits: int) -> None:
        """`account` paid `peer`."""
        if credits <= 0:
            return
        payer, provider = payer_of(account), provider_of(peer)
        paid = self._edges.get(provider)
        if paid is None:
            paid = self._edges[provider] = {}
            self.providers += 1
        new = paid.get(payer, 0) + credits
        paid[payer] = self._edges.setdefault(payer, {})[provider] = new
        for vertex in (payer, provider):
            self._volumes[vertex] = self._volumes.get(vertex, 0) + credits
        self.total += credits
        if len(paid) > PAYERS_PER_PROVIDER_MAX:
            self._cut(min(paid, key=lambda other: (paid[other], other)), provider)

    def forget(self, peer: PeerId) -> None:
        """A provider and all its edges."""
        provider = provider_of(peer)
        for payer in list(self.edges(provider)):
            self._cut(payer, provider)

    def _cut(self, payer: Vertex, provider: Vertex) -> None:
        credits = self._edges[provider].pop(payer)
        del self._edges[payer][provider]
        self.total -= credits
        for vertex in (payer, provider):
            self._volumes[vertex] -= credits
            if not self._edges[vertex]:
                del self._edges[vertex], self._volumes[vertex]
                self.providers -= vertex == provider

    def validate(self) -> None:
        """Both directions agree, and sums are sums."""
        assert sum(self._volumes.values()) == 2 * self.total
        assert self.providers == sum(kind == "provider" for kind, _ in self._edges)
        for vertex, edges in self._edges.items():
            assert edges and self._volumes[vertex] == sum(edges.values())
            assert all(self._edges[other][vertex] == credits > 0 for other, credits in edges.items())
