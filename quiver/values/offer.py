"""What a provider promises, and how loaded it says it is."""

from __future__ import annotations

import msgspec

from quiver.ids import Address, ModelId, PeerId


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One model, one provider, until `expires_ms`. Signed: see docs/protocol.md, Offer."""

    provider: PeerId
    public_key: bytes
    model: ModelId
    name: str
    "A suggestion only: gateways pin names to digests themselves."
    prompt_price: int
    "Credits per 10^6 prompt tokens."
    completion_price: int
    "Credits per 10^6 completion tokens."
    minimum_credits: int
    hardware: str
    slots: int
    prefill_tps: float
    "Measured by the provider itself, tokens per second; a gateway trusts its own measurements more."
    decode_tps: float
    "Measured decode speed at batch 1, tokens per second."
    payout: Address
    chain_id: int
    contract: Address
    generation: int
    "Durable counter, raised at each start: a restarted provider is never confused with its past."
    expires_ms: int


class SignedOffer(msgspec.Struct, frozen=True, kw_only=True):
    """An offer and the provider's Ed25519 signature over `offer_signing_bytes`."""

    offer: Offer
    signature: bytes


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Self-reported, unsigned, old as soon as it is read."""

    queued: int
    running: int
    slots: int
    warm: tuple[ModelId, ...] = ()
    region: str = ""


class OfferQuestion(msgspec.Struct, frozen=True, kw_only=True, tag="question"):
    """Asks for a provider's offers; also the load probe. `model` None means all."""

    model: ModelId | None = None


class OfferAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="answer"):
    """Offers as signed once per lease, and the load now."""

    offers: tuple[SignedOffer, ...]
    load: Load
