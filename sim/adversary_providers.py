"""Providers that bill for what they did not do. Each stays inside what its payer checks, or the payer would stop it at once."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from quiver.ids import PeerId
from quiver.ports import Clock
from quiver.values.backend import BackendRequest, Piece

if TYPE_CHECKING:
    from sim.nodes import ProviderNode
    from sim.population import Population

# A reseller keeps the first answer that is long enough to sell.
RESOLD_TOKENS = 200


def choose(nodes: Sequence[Any], share: float, rng: random.Random) -> list[Any]:
    """`share` of the nodes, at least one, in their own order."""
    count = max(1, round(share * len(nodes)))
    return [nodes[at] for at in sorted(rng.sample(range(len(nodes)), count))]


class Around:
    """An engine around another: everything passes through but what a subclass changes."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass(frozen=True, kw_only=True)
class Overreporter:
    """Counts `factor` tokens for each that its engine made; the payer's band of one token a byte lets three or four pass."""

    share: float = 0.2
    factor: float = 2.0

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """Providers, by share."""
        chosen = choose(population.providers, self.share, rng)
        for node in chosen:
            put_around(node, lambda inner, factor=self.factor: Inflated(inner, factor))
        return {node.peer_id: "over-report" for node in chosen}


class Inflated(Around):
    """Its counts grow, its text does not."""

    def __init__(self, inner: Any, factor: float) -> None:
        super().__init__(inner)
        self._factor = factor

    async def generate(self, request: BackendRequest) -> AsyncIterator[Piece]:
        """The engine's pieces with other numbers; the sum is rounded, not each piece."""
        made = told = 0
        pieces = self.inner.generate(request)
        try:
            async for piece in pieces:
                made += piece.tokens
                tokens = round(self._factor * made) - told
                told += tokens
                total = None if piece.completion_tokens is None else round(self._factor * piece.completion_tokens)
                yield msgspec.structs.replace(piece, tokens=tokens, completion_tokens=total)
        finally:
            await pieces.aclose()


@dataclass(frozen=True, kw_only=True)
class Boaster:
    """Offers `factor` times the speed it has."""

    share: float = 0.2
    factor: float = 4.0

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """Providers, by share."""
        chosen = choose(population.providers, self.share, rng)
        for node in chosen:
            node.served = [
                msgspec.structs.replace(
                    one, prefill_tps=self.factor * one.prefill_tps, decode_tps=self.factor * one.decode_tps
                )
                for one in node.served
            ]
            node.service.models.update({one.installed.model: one for one in node.served})
        return {node.peer_id: "boast" for node in chosen}


@dataclass(frozen=True, kw_only=True)
class Reseller:
    """Sells its first long answer again to everybody, typed at the speed it offered, so that only the text gives it away."""

    share: float = 0.2

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """Providers, by share."""
        chosen = choose(population.providers, self.share, rng)
        for node in chosen:
            put_around(
                node, lambda inner, node=node: Resold(inner, node.clock, tps=node.served[0].decode_tps, prefill_s=0.2)
            )
        return {node.peer_id: "resell" for node in chosen}


class Resold(Around):
    """Computes until it has an answer to sell, and then never again."""

    def __init__(self, inner: Any, clock: Clock, *, tps: float, prefill_s: float) -> None:
        super().__init__(inner)
        self._clock = clock
        self._tps = tps
        self._prefill_s = prefill_s
        self._stock: list[Piece] = []

    async def generate(self, request: BackendRequest) -> AsyncIterator[Piece]:
        """The stored pieces, or the engine's while there are none."""
        if self._stock:
            await self._clock.sleep(self._prefill_s)
            for piece in self._stock:
                await self._clock.sleep(piece.tokens / self._tps)
                yield msgspec.structs.replace(piece, prompt_tokens=request.prompt_tokens_estimate)
            return
        taken: list[Piece] = []
        pieces = self.inner.generate(request)
        try:
            async for piece in pieces:
                taken.append(piece)
                # Before the last piece leaves: whoever takes it reads no further.
                if piece.done_reason and sum(one.tokens for one in taken) >= RESOLD_TOKENS and not self._stock:
                    self._stock = taken
                yield piece
        finally:
            await pieces.aclose()


def put_around(node: ProviderNode, wrap: Any) -> None:
    """Replace the engine of a node that has not started, in this life and the next ones."""
    make = node._make_backend
    node._make_backend = lambda: wrap(make())
    node.service.backend = wrap(node.service.backend)
