"""The provider's signed offers and its load, for whoever asks."""

from __future__ import annotations

from collections.abc import Mapping

from quiver.identity import signing
from quiver.ids import Address, ModelId, PeerId
from quiver.provider.admission import SlotAdmission
from quiver.provider.generation import next_generation
from quiver.provider.models import ServedModel
from quiver.runtime import Runtime
from quiver.values.offer import Load, Offer, OfferAnswer, OfferQuestion, SignedOffer


class OfferDesk:
    """Call `start` once, then `run` beside it."""

    def __init__(
        self, runtime: Runtime, models: Mapping[ModelId, ServedModel], admission: SlotAdmission, *, hardware: str, region: str,
        payout: Address | None = None,
    ) -> None:  # fmt: skip
        self.generation = 0
        "Of this life of the node: an offer of a life before is outdated at once."
        self.offers: dict[ModelId, SignedOffer] = {}
        self._runtime = runtime
        self._models = models
        self._admission = admission
        self._hardware = hardware
        self._region = region
        self._payout = payout

    async def start(self) -> None:
        """Raise the durable generation, then sign."""
        self.generation, put = next_generation(self._runtime.store)
        await self._runtime.store.commit([put])
        await self._sign()

    async def run(self) -> None:
        """Renew the offers before they expire."""
        while True:
            await self._runtime.clock.sleep(self._runtime.params.offer_lease_s / 2)
            await self._sign()

    async def _sign(self) -> None:
        """A fresh signature over each model's offer, for one lease."""
        runtime = self._runtime
        expires_ms = runtime.clock.utc_ms() + round(runtime.params.offer_lease_s * 1000)
        for model, served in self._models.items():
            offer = Offer(
                provider=runtime.signer.peer_id, public_key=runtime.signer.public_key, model=model,
                name=served.installed.name, prompt_price=served.price.prompt, completion_price=served.price.completion,
                minimum_credits=served.price.minimum_credits, hardware=self._hardware, slots=self._admission.slots,
                prefill_tps=served.prefill_tps, decode_tps=served.decode_tps, payout=self._payout or runtime.signer.account,
                chain_id=runtime.ledger.chain_id, contract=runtime.ledger.contract, generation=self.generation,
                expires_ms=expires_ms,
            )  # fmt: skip
            signature = await runtime.signer.sign(signing.offer_bytes(offer))
            self.offers[model] = SignedOffer(offer=offer, signature=signature)

    def answer(self, peer: PeerId, question: OfferQuestion) -> OfferAnswer:
        """The offers asked for, and the load right now."""
        offers = tuple(o for model, o in self.offers.items() if question.model is None or question.model == model)
        admission = self._admission
        load = Load(
            queued=admission.queued, running=admission.running, slots=admission.slots, warm=tuple(self._models),
            region=self._region,
        )  # fmt: skip
        return OfferAnswer(offers=offers, load=load)
