"""Who serves a model: provider records from the DHT, then each provider's own signed offer and load.

Rules of this file: it awaits and moves values; the table decides what counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from quiver.errors import BadSignature, MalformedMessage, PeerError, QuiverError
from quiver.identity import signing
from quiver.identity.peer_id import compute_peer_id
from quiver.ids import ModelId, PeerId
from quiver.runtime import Nursery, Runtime
from quiver.selection.candidates import CandidateTable, OfferVerdict
from quiver.values.offer import OfferAnswer, OfferQuestion, SignedOffer
from quiver.values.peer import PeerInfo
from quiver.wire.protocols import OFFER

FindProviders = Callable[[ModelId], Awaitable[Sequence[PeerInfo]]]
"""Provider records of a model, from `dht/service`."""
# Offer questions in flight at once.
QUESTIONS_MAX = 16


class Discovery:
    """Fills a gateway's `CandidateTable`."""

    def __init__(
        self, runtime: Runtime, table: CandidateTable, models: Collection[ModelId], find_providers: FindProviders
    ) -> None:
        """`models` are those this gateway serves; offers of others take no place."""
        self.runtime = runtime
        self.table = table
        self._models = frozenset(models)
        self._find_providers = find_providers
        self._verified: dict[PeerId, bytes] = {}
        self._verified_max = runtime.params.candidates_max

    async def refresh(self, model: ModelId) -> int:
        """Look the model up and ask who is found; returns how many gave a valid offer."""
        found = await self._find_providers(model)
        fresh = [info for info in found if info.peer_id != self.runtime.signer.peer_id]
        for info in fresh:
            self.runtime.transport.learn(info)
        wanted = self.table.wanted([info.peer_id for info in fresh], model, self.runtime.clock.now())
        return await self.ask(wanted, model)

    async def ask(self, peers: Sequence[PeerId], model: ModelId | None) -> int:
        """Ask each peer for its offers and load, a few at a time."""
        waiting, taken = list(reversed(peers)), [0]

        async def worker() -> None:
            while waiting:
                taken[0] += await self._ask_one(waiting.pop(), model)

        async with Nursery() as nursery:
            for _ in range(min(QUESTIONS_MAX, len(waiting))):
                nursery.start(worker())
        return taken[0]

    async def _ask_one(self, peer: PeerId, model: ModelId | None) -> bool:
        runtime = self.runtime
        try:
            answer = await runtime.transport.rpc(
                peer, OFFER, OfferQuestion(model=model), timeout_s=runtime.params.rpc_timeout_s
            )
            if not isinstance(answer, OfferAnswer):
                raise MalformedMessage("a question is no answer", peer_id=peer)
            for signed in answer.offers:
                await self._take(peer, signed)
        except QuiverError:
            # Silent or lying: its old offer runs out by itself.
            return False
        now = runtime.clock.now()
        self.table.on_load(peer, answer.load, now=now)
        self.table.on_rtt(peer, runtime.transport.rtt_s(peer))
        return bool(answer.offers)

    async def _take(self, peer: PeerId, signed: SignedOffer) -> None:
        """An offer counts only on a connection of the peer that signed it."""
        runtime, offer = self.runtime, signed.offer
        if offer.model not in self._models:
            return
        if offer.provider != peer or compute_peer_id(offer.public_key) != peer:
            raise PeerError("an offer in another provider's name", peer_id=peer)
        if (offer.chain_id, offer.contract) != (runtime.ledger.chain_id, runtime.ledger.contract):
            raise PeerError("an offer for another chain or contract", peer_id=peer)
        if offer.slots < 1 or min(offer.prompt_price, offer.completion_price, offer.minimum_credits) < 0:
            raise PeerError("an offer with absurd numbers", peer_id=peer)
        held = self.table.offer(peer, offer.model, runtime.clock.now())
        if held == offer and self._verified.get(peer) == signed.signature:
            # A load probe brings the same signed offer again and again: it was verified when it was new.
            return
        if not await runtime.verifier.verify(offer.public_key, signing.offer_bytes(offer), signed.signature):
            raise BadSignature("an offer's signature does not verify", peer_id=peer)
        verdict = self.table.on_offer(offer, now=runtime.clock.now(), utc_ms=runtime.clock.utc_ms())
        if verdict is OfferVerdict.TAKEN:
            self._verified[peer] = signed.signature
            if len(self._verified) > self._verified_max:
                del self._verified[next(iter(self._verified))]
