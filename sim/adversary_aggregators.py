"""Aggregators that lie, withhold, censor, equivocate or replay. The role is the network's own; what it hears or posts is bent.

No credit of a channel can move by any of it: a claim needs its payer's signature, and one without a proof needs nothing else.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from quiver.aggregator.service import AggregatorService
from quiver.errors import WireCode
from quiver.ids import ChannelId, PeerId
from quiver.ports import Handler, ProtocolSpec
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.values.frames import AskProof, Ingested, ProofAnswer, Refused, SubmitReceipts
from quiver.values.ledger import Commitment, Leaf, SubmitEpoch, Transaction
from quiver.wire.protocols import RECEIPTS
from sim.adversary_providers import Around, choose

if TYPE_CHECKING:
    from sim.population import Population


def turn(population: Population, kind: str, *, transport: Any = None, ledger: Any = None) -> dict[PeerId, str]:
    """Give the aggregator another transport or ledger, made from its own."""
    node = population.aggregator
    runtime = node.runtime
    if transport is not None:
        runtime = dataclasses.replace(runtime, transport=transport(runtime.transport))
    if ledger is not None:
        runtime = dataclasses.replace(runtime, ledger=ledger(runtime.ledger))
    node.runtime = runtime
    node.service = AggregatorService(runtime, detectors=node.detectors)
    return {node.peer_id: kind}


@dataclass(frozen=True)
class Withholder:
    """Takes receipts, commits roots, and never shows a proof."""

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """The aggregator."""
        return turn(population, "withhold", transport=lambda inner: Bending(inner, withholds=True))


@dataclass(frozen=True, kw_only=True)
class Censor:
    """Refuses the receipts of `share` of the providers."""

    share: float = 0.2

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """The aggregator; its victims are honest."""
        victims = frozenset(node.peer_id for node in choose(population.providers, self.share, rng))
        return turn(population, "censor", transport=lambda inner: Bending(inner, victims=victims))


@dataclass(frozen=True)
class Equivocator:
    """Commits to one root towards providers and posts another, over leaves that nobody acknowledged."""

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """The aggregator."""
        return turn(population, "equivocate", ledger=Lying)


@dataclass(frozen=True)
class Replayer:
    """Posts the first epoch's root again for every later epoch."""

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """The aggregator."""
        return turn(population, "replay-root", ledger=Replaying)


@dataclass(frozen=True)
class Perjurer:
    """Promises with a key that no bond names, so that nobody can be slashed for what it drops."""

    def corrupt(self, population: Population, rng: random.Random) -> dict[PeerId, str]:
        """The aggregator."""
        return turn(population, "perjure", transport=lambda inner: Bending(inner, perjures=True))


class Bending(Around):
    """A transport whose receipts streams lose proofs, carry worthless promises, or whose victims are told no."""

    def __init__(
        self, inner: Any, *, withholds: bool = False, perjures: bool = False, victims: frozenset[PeerId] = frozenset()
    ) -> None:
        super().__init__(inner)
        self._withholds = withholds
        self._perjures = perjures
        self._victims = victims

    def serve(self, protocol: ProtocolSpec, handler: Handler) -> None:
        """The receipts protocol is bent, everything else passes."""

        async def bent(stream: Any) -> None:
            is_victim = stream.peer_id in self._victims
            await handler(BentStream(stream, withholds=self._withholds, perjures=self._perjures, censored=is_victim))

        self.inner.serve(protocol, bent if protocol.id == RECEIPTS.id else handler)


class BentStream(Around):
    """One provider's receipts stream."""

    def __init__(self, inner: Any, *, withholds: bool, perjures: bool, censored: bool) -> None:
        super().__init__(inner)
        self._withholds = withholds
        self._perjures = perjures
        self._censored = censored

    async def send(self, frame: Any) -> None:
        """What the provider gets to hear."""
        if self._perjures and isinstance(frame, Ingested) and frame.promise is not None:
            # Somebody else's signature, as far as the bond's signer goes.
            other = bytes(byte ^ 1 for byte in frame.promise.signature)
            frame = msgspec.structs.replace(frame, promise=msgspec.structs.replace(frame.promise, signature=other))
        await self.inner.send(frame)

    async def receive(self) -> Any:
        """What the role gets to hear."""
        while True:
            frame = await self.inner.receive()
            if self._censored and isinstance(frame, SubmitReceipts):
                code = int(WireCode.RESOURCE_LIMIT)
                await self.inner.send(Refused(batch_id=frame.batch_id, code=code, message="come back later"))
            elif self._withholds and isinstance(frame, AskProof):
                nothing = ProofAnswer(
                    epoch=frame.epoch,
                    channel=frame.channel,
                    commitment=None,
                    leaf=None,
                    proof=None,
                    acknowledgement=None,
                )
                await self.inner.send(nothing)
            else:
                return frame


class Lying(Around):
    """A ledger on which every root becomes another."""

    async def submit(self, transaction: Transaction) -> bytes:
        """Roots are replaced, everything else passes."""
        if isinstance(transaction, SubmitEpoch):
            transaction = msgspec.structs.replace(transaction, commitment=self.invent(transaction.commitment))
        posted: bytes = await self.inner.submit(transaction)
        return posted

    def invent(self, commitment: Commitment) -> Commitment:
        """As many leaves, none of which anybody acknowledged."""
        leaves = [
            Leaf(
                epoch=commitment.epoch,
                channel=ChannelId(number.to_bytes(32, "big")),
                cum=1 << 40,
                seq=1,
                head=bytes(32),
            )
            for number in range(commitment.count)
        ]
        root = MerkleTree([hash_leaf(leaf) for leaf in leaves]).root
        return msgspec.structs.replace(commitment, root=root)


class Replaying(Lying):
    """A ledger on which every root is the first one."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._first: Commitment | None = None

    def invent(self, commitment: Commitment) -> Commitment:
        """The root of before under a new number."""
        self._first = self._first or commitment
        return msgspec.structs.replace(self._first, epoch=commitment.epoch)
