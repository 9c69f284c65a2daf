"""Receipts as a provider would stamp them, for detectors: 100 credits a prompt token and 1,000 a completion token."""

from __future__ import annotations

import hashlib

from quiver.identity.peer_id import compute_peer_id
from quiver.ids import Address, ChannelId, ModelId, RequestId
from quiver.receipts.history import Book
from quiver.values.offer import Offer
from quiver.values.receipt import ReceiptBody, SignedReceipt

MODEL, HUB = ModelId(b"\x01" * 32), Address(b"\x0c" * 20)
START_MS = 1_700_000_000_000


class Billing:
    """A book, and one way to fill it."""

    def __init__(self):
        self.book = Book()
        self.now_ms = START_MS
        self._number = 0

    def peer(self, provider):
        return compute_peer_id(bytes([provider]) * 32)

    def offer(self, provider, *, slots=2, decode_tps=10.0, minimum=0):
        self.book.on_offer(Offer(
            provider=self.peer(provider), public_key=bytes([provider]) * 32, model=MODEL, name="tiny", prompt_price=100_000_000,
            completion_price=1_000_000_000, minimum_credits=minimum, hardware="", slots=slots, prefill_tps=100.0,
            decode_tps=decode_tps, payout=HUB, chain_id=1, contract=HUB, generation=1, expires_ms=0,
        ))  # fmt: skip

    def bill(self, provider, *, payer=1, tokens=(100,), at_s=(0.0,), answer=None, credits=None, delivered=None):
        """One request with a receipt of `tokens[i]` issued at `at_s[i]`; `delivered` is (bytes, tokens the chunks named)."""
        self._number += 1
        request_id = RequestId(self._number.to_bytes(16, "big"))
        receipts = []
        for number, (new, when_s) in enumerate(zip(tokens, at_s, strict=True)):
            text = (f"answer {self._number}" if answer is None else answer) + f" until {sum(tokens[: number + 1])}"
            body = ReceiptBody(
                chain_id=1, contract=HUB, channel=ChannelId(bytes([provider, payer]) * 16), request_id=request_id,
                seq=self._number, provider_key=bytes([provider]) * 32, payer=Address(bytes([payer]) * 20),
                request_hash=bytes(32), response_hash=hashlib.sha256(text.encode()).digest(), model=MODEL,
                prompt_tokens=0, completion_tokens=new, amount=1000 * new if credits is None else credits, cum=0,
                issued_ms=START_MS + round(1000 * when_s),
            )  # fmt: skip
            receipts.append(SignedReceipt(body=body, signature=bytes(64)))
        self.book.on_receipts(receipts, now_ms=self.now_ms)
        if delivered is not None:
            self.book.on_delivery(self.peer(provider), request_id, size_bytes=delivered[0], chunk_tokens=delivered[1])

    def score(self, detector, provider):
        return detector.score(self.book.history(self.peer(provider)), self.now_ms)
