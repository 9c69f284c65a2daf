"""The exact bytes that are signed: fixed-width, big-endian, never a re-encoding (docs/protocol.md, Signed bytes)."""

from __future__ import annotations

import hashlib
import struct

from quiver.errors import MalformedMessage
from quiver.ids import ADDRESS_BYTES, DIGEST_BYTES, Address, ChannelId, PeerId, compute_domain
from quiver.values.evidence import Evidence
from quiver.values.ledger import Commitment, Leaf, Promise
from quiver.values.offer import Offer
from quiver.values.receipt import ReceiptBody

RECEIPT_TAG = b"QUIVer/receipt/v1"
ACK_TAG = b"QUIVer/ack/v1"
AUTHORISE_TAG = b"QUIVer/authorise/v1"
PROMISE_TAG = b"QUIVer/promise/v1"
COMMITMENT_TAG = b"QUIVer/commitment/v1"
OFFER_TAG = b"QUIVer/offer/v1"
EVIDENCE_TAG = b"QUIVer/evidence/v1"
VERSION = 1

_RECEIPT = struct.Struct(">BQ20s32s16sQ32s20s32s32s32sIIQQQ")
RECEIPT_BYTES = _RECEIPT.size
_ACK = struct.Struct(">32sQQQ32s")
_PROMISE = struct.Struct(">32sQQQ32sQ")
_COMMITMENT = struct.Struct(">Q32sQ")
_OFFER = struct.Struct(">32s32s32s32sQQQ32sIQQ20sQ20sQQ")
_EVIDENCE = struct.Struct(">32s32sddQQ32s")
_LEAF = struct.Struct(">BQ32sQQQ32s")


def receipt_bytes(body: ReceiptBody) -> bytes:
    """265 bytes. ver1 chain8 contract20 channel32 request16 seq8 provider32 payer20 req32 resp32 model32 in4 out4 amount8 cum8 ms8."""
    return _RECEIPT.pack(
        VERSION, body.chain_id, body.contract, body.channel, body.request_id, body.seq, body.provider_key, body.payer,
        body.request_hash, body.response_hash, body.model, body.prompt_tokens, body.completion_tokens,
        body.amount, body.cum, body.issued_ms,
    )  # fmt: skip


def receipt_digest(body: ReceiptBody) -> bytes:
    """SHA-256(tag | receipt_bytes): what Ed25519 signs."""
    return hashlib.sha256(RECEIPT_TAG + receipt_bytes(body)).digest()


def next_head(head: bytes, digest: bytes) -> bytes:
    """SHA-256(previous head | receipt digest); the first head is 32 zero bytes."""
    return hashlib.sha256(head + digest).digest()


def ack_domain(chain_id: int, contract: Address) -> bytes:
    """D of the specification."""
    return compute_domain(ACK_TAG, chain_id, contract)


def ack_digest(domain: bytes, channel: ChannelId, cum: int, seq: int, head: bytes) -> bytes:
    """SHA-256(D | channel32 | cum16 | seq8 | head32)."""
    return hashlib.sha256(domain + _ACK.pack(channel, 0, cum, seq, head)).digest()


def promise_digest(domain: bytes, promise: Promise) -> bytes:
    """SHA-256(D' | channel32 | cum16 | seq8 | head32 | epoch8), D' as D with the promise's tag."""
    return hashlib.sha256(
        domain + _PROMISE.pack(promise.channel, 0, promise.cum, promise.seq, promise.head, promise.epoch)
    ).digest()


def commitment_digest(domain: bytes, commitment: Commitment) -> bytes:
    """SHA-256(D' | epoch8 | root32 | count8), D' as D with the commitment's tag."""
    return hashlib.sha256(domain + _COMMITMENT.pack(commitment.epoch, commitment.root, commitment.count)).digest()


def authorise_digest(
    chain_id: int, contract: Address, channel: ChannelId, gateway: PeerId, provider: PeerId, expires_ms: int
) -> bytes:
    """SHA-256(domain | channel32 | SHA-256(gateway) | SHA-256(provider) | expires8): hashes make peer ids fixed-width."""
    domain = compute_domain(AUTHORISE_TAG, chain_id, contract)
    parties = hashlib.sha256(gateway).digest() + hashlib.sha256(provider).digest()
    return hashlib.sha256(domain + channel + parties + expires_ms.to_bytes(8, "big")).digest()


def leaf_bytes(leaf: Leaf) -> bytes:
    """97 bytes: 0x00 | epoch8 | channel32 | cum16 | seq8 | head32."""
    return _LEAF.pack(0, leaf.epoch, leaf.channel, 0, leaf.cum, leaf.seq, leaf.head)


def offer_bytes(offer: Offer) -> bytes:
    """Tag, then each field fixed-width; texts as SHA-256, speeds in thousandths of a token per second.

    `MalformedMessage` for an offer that has no such bytes: packing would cut or pad an id, and two offers share a signature.
    """
    widths = [*map(len, (offer.public_key, offer.model, offer.payout, offer.contract))]
    if widths != [DIGEST_BYTES, DIGEST_BYTES, ADDRESS_BYTES, ADDRESS_BYTES]:
        raise MalformedMessage(f"an offer whose key, model, payout and contract have {widths} bytes")
    try:
        return OFFER_TAG + _OFFER.pack(
            hashlib.sha256(offer.provider).digest(), offer.public_key, offer.model,
            hashlib.sha256(offer.name.encode()).digest(), offer.prompt_price, offer.completion_price,
            offer.minimum_credits, hashlib.sha256(offer.hardware.encode()).digest(), offer.slots,
            round(offer.prefill_tps * 1000), round(offer.decode_tps * 1000), offer.payout, offer.chain_id,
            offer.contract, offer.generation, offer.expires_ms,
        )  # fmt: skip
    except (struct.error, ValueError, OverflowError) as error:
        raise MalformedMessage(f"an offer with a number beyond its place: {error}") from error


def evidence_digest(evidence: Evidence, witness: bytes) -> bytes:
    """SHA-256(tag | SHA-256(peer) | SHA-256(detector) | score8 | threshold8 | since8 | until8 | SHA-256(reasons) | witness32).

    Score and threshold as IEEE 754 doubles, reasons as length4 | UTF-8 each. `MalformedMessage` for times beyond their place.
    """
    reasons = b"".join(len(text).to_bytes(4, "big") + text for text in map(str.encode, evidence.reasons))
    try:
        packed = _EVIDENCE.pack(
            hashlib.sha256(evidence.peer).digest(), hashlib.sha256(evidence.detector.encode()).digest(), evidence.score,
            evidence.threshold, evidence.since_ms, evidence.until_ms, hashlib.sha256(reasons).digest(),
        )  # fmt: skip
    except struct.error as error:
        raise MalformedMessage(f"evidence with a time beyond its place: {error}") from error
    return hashlib.sha256(EVIDENCE_TAG + packed + witness).digest()


def request_hash(request_id: bytes, model: bytes, max_tokens: int, body: bytes) -> bytes:
    """SHA-256(request id | model | max_tokens8 | SHA-256(body)): what both sides mean by 'this request'."""
    return hashlib.sha256(request_id + model + max_tokens.to_bytes(8, "big") + hashlib.sha256(body).digest()).digest()
