"""The two signatures money rests on: the provider's receipt and the payer's acknowledgement.

Aggregators hold these by the million: they contain nothing that could close a cycle, so the collector need not visit them.
"""

from __future__ import annotations

import msgspec

from quiver.ids import Address, ChannelId, ModelId, RequestId


class ReceiptBody(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one request added to a channel since its previous receipt. Signed bytes: docs/protocol.md, Receipt."""

    chain_id: int
    contract: Address
    channel: ChannelId
    request_id: RequestId
    seq: int
    "1, 2, 3 ... over all receipts of the channel."
    provider_key: bytes
    "Ed25519, 32 bytes."
    payer: Address
    request_hash: bytes
    response_hash: bytes
    "SHA-256 of all answer bytes of this request so far."
    model: ModelId
    prompt_tokens: int
    "Increment since this request's previous receipt."
    completion_tokens: int
    amount: int
    "Credits added by this receipt."
    cum: int
    "Credits of all receipts of the channel up to this one."
    issued_ms: int


class SignedReceipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A receipt body and the provider's Ed25519 signature over its digest."""

    body: ReceiptBody
    signature: bytes


class ChannelHead(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Where a channel stands: after receipt `seq`, `cum` credits are owed and `head` binds the history."""

    seq: int = 0
    cum: int = 0
    head: bytes = bytes(32)


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The payer's session-key signature over one `ChannelHead`: covers all receipts up to `seq`."""

    channel: ChannelId
    seq: int
    cum: int
    head: bytes
    signature: bytes
    "secp256k1 r | s | v, 65 bytes."
