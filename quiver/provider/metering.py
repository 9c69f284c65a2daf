"""What one request delivered, and what it owes for it. No I/O, no clock."""

from __future__ import annotations

import hashlib

from quiver.ids import ModelId, RequestId
from quiver.params import Params
from quiver.receipts.checks import ChannelTerms
from quiver.units import compute_cost_credits
from quiver.values.frames import Quote
from quiver.values.receipt import ChannelHead, ReceiptBody


class Meter:
    """Counts tokens and hashes bytes as they leave; turns what is new since the last receipt into the next one."""

    __slots__ = (
        "quote",
        "prompt_tokens",
        "completion_tokens",
        "bytes",
        "chunks",
        "_billed",
        "_params",
        "_hash",
        "_request_hash",
    )

    def __init__(self, quote: Quote, request_hash: bytes, params: Params) -> None:
        self.quote = quote
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.bytes = 0
        self.chunks = 0
        self._billed = (0, 0, 0)
        self._params = params
        self._hash = hashlib.sha256()
        self._request_hash = request_hash

    def countable(self, size_bytes: int, tokens: int) -> int:
        """Of `tokens` that an engine says are in the next `size_bytes`, those that `on_chunk` will count."""
        return self._inside(self.completion_tokens + tokens, self.bytes + size_bytes) - self.completion_tokens

    def _inside(self, completion_tokens: int, size_bytes: int) -> int:
        """Held inside the quote and the band that the payer can check: tokens of at least one byte each."""
        band = int(size_bytes * self._params.tokens_per_byte_max) + self._params.completion_tokens_slack
        return max(self.completion_tokens, min(completion_tokens, band, self.quote.completion_tokens_max))

    def on_chunk(self, data: bytes, tokens: int, prompt_tokens: int) -> None:
        """A chunk was sent. Counts stay inside the quote, which is all the payer agreed to."""
        self._hash.update(data)
        self.bytes += len(data)
        self.chunks += 1
        self.set_prompt(prompt_tokens)
        self.set_completion(self.completion_tokens + tokens)

    def set_prompt(self, tokens: int) -> None:
        """The engine's own count of the prompt; many engines tell it only with their last piece."""
        self.prompt_tokens = min(max(self.prompt_tokens, tokens), self.quote.prompt_tokens_max)

    def set_completion(self, tokens: int) -> None:
        """The engine's own count, as far as it stays inside."""
        self.completion_tokens = self._inside(tokens, self.bytes)

    @property
    def unbilled_tokens(self) -> int:
        """Completion tokens since the last receipt."""
        return self.completion_tokens - self._billed[1]

    @property
    def is_settled(self) -> bool:
        """Nothing was delivered, or all of it is on a receipt."""
        return not self.chunks or self._billed == (self.prompt_tokens, self.completion_tokens, self.total_credits)

    @property
    def total_credits(self) -> int:
        """Owed for the request so far; nothing before the first chunk."""
        if not self.chunks:
            return 0
        return compute_cost_credits(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            prompt_price=self.quote.prompt_price,
            completion_price=self.quote.completion_price,
            minimum_credits=self.quote.minimum_credits,
        )

    def next_receipt(
        self, terms: ChannelTerms, head: ChannelHead, *, request_id: RequestId, model: ModelId, issued_ms: int
    ) -> ReceiptBody:
        """What is new since the last receipt, as the channel's next one."""
        prompt, completion, credits = self._billed
        amount = self.total_credits - credits
        return ReceiptBody(
            chain_id=terms.chain_id, contract=terms.contract, channel=terms.channel, request_id=request_id,
            seq=head.seq + 1, provider_key=terms.provider_key, payer=terms.payer, request_hash=self._request_hash,
            response_hash=self._hash.digest(), model=model, prompt_tokens=self.prompt_tokens - prompt,
            completion_tokens=self.completion_tokens - completion, amount=amount, cum=head.cum + amount,
            issued_ms=issued_ms,
        )  # fmt: skip

    def on_billed(self, body: ReceiptBody) -> None:
        """`body` is in the channel's log."""
        prompt, completion, credits = self._billed
        self._billed = (prompt + body.prompt_tokens, completion + body.completion_tokens, credits + body.amount)
