"""What a gateway itself saw of one attempt's answer: the measure every receipt is held against. No I/O, no clock."""

from __future__ import annotations

import hashlib

from quiver.errors import ReceiptMismatch
from quiver.params import Params
from quiver.units import compute_cost_credits
from quiver.values.frames import Chunk, Quote
from quiver.values.receipt import ReceiptBody


class Delivery:
    """Bytes, tokens and chunks received, and what was billed for them so far."""

    __slots__ = ("quote", "bytes", "tokens", "chunks", "billed_prompt", "billed_completion", "billed_credits", "_hash",
                 "_request_hash", "_params")  # fmt: skip

    def __init__(self, quote: Quote, request_hash: bytes, params: Params) -> None:
        self.quote = quote
        self.bytes = 0
        self.tokens = 0
        self.chunks = 0
        self.billed_prompt = 0
        self.billed_completion = 0
        self.billed_credits = 0
        self._hash = hashlib.sha256()
        self._request_hash = request_hash
        self._params = params

    def on_chunk(self, chunk: Chunk) -> None:
        """Count a chunk; `ReceiptMismatch` if one is missing or repeated, or brings more tokens than were quoted."""
        if chunk.index != self.chunks:
            raise ReceiptMismatch(f"chunk {chunk.index} where {self.chunks} was due")
        if not 0 <= chunk.tokens <= self.quote.completion_tokens_max - self.tokens:
            raise ReceiptMismatch(f"a chunk of {chunk.tokens} tokens after {self.tokens}")
        data = chunk.text.encode()
        self._hash.update(data)
        self.bytes += len(data)
        self.tokens += chunk.tokens
        self.chunks += 1

    def check(self, body: ReceiptBody) -> None:
        """`ReceiptMismatch` says what the receipt claims beyond what was delivered and quoted."""
        quote, params = self.quote, self._params
        if body.request_hash != self._request_hash:
            raise ReceiptMismatch("receipt for another request")
        if body.response_hash != self._hash.digest():
            raise ReceiptMismatch("receipt over an answer we did not receive")
        prompt = self.billed_prompt + body.prompt_tokens
        completion = self.billed_completion + body.completion_tokens
        if not self.chunks:
            raise ReceiptMismatch("nothing is owed before the first token")
        if prompt > quote.prompt_tokens_max:
            raise ReceiptMismatch(f"{prompt} prompt tokens billed, at most {quote.prompt_tokens_max} were quoted")
        band = int(self.bytes * params.tokens_per_byte_max) + params.completion_tokens_slack
        if completion > min(band, quote.completion_tokens_max):
            raise ReceiptMismatch(f"{completion} completion tokens billed for {self.bytes} bytes")
        total = compute_cost_credits(
            prompt_tokens=prompt, completion_tokens=completion, prompt_price=quote.prompt_price,
            completion_price=quote.completion_price, minimum_credits=quote.minimum_credits,
        )  # fmt: skip
        if body.amount != total - self.billed_credits:
            raise ReceiptMismatch(f"{body.amount} credits billed, {total - self.billed_credits} are due")

    def on_billed(self, body: ReceiptBody) -> None:
        """A verified receipt."""
        self.billed_prompt += body.prompt_tokens
        self.billed_completion += body.completion_tokens
        self.billed_credits += body.amount
