"""More than was delivered or quoted: tokens against bytes and chunks, credits against the offered prices."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from quiver.receipts.fraud.detector import conclude
from quiver.receipts.history import History
from quiver.units import compute_cost_credits
from quiver.values.evidence import Evidence

# Bytes a token carries vary by text: this many tokens together vary by a few per cent.
TOKENS_MIN = 500
# Providers whose texts tell what is usual for a model.
OTHERS_MIN = 3


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Score: billed tokens over what the delivered bytes usually hold for this model, or over what the chunks named.

    Needs deliveries, which only payers see: without any the score is 0. Usual is the median over the other providers, so liars
    in the majority make themselves the norm.
    """

    name: str = "tokens"
    threshold: float = 1.2

    def score(self, history: History, now_ms: int) -> Evidence:
        """0 with fewer than `TOKENS_MIN` tokens delivered, or fewer than `OTHERS_MIN` providers beside."""
        mine = compute_tokens_per_byte(history)
        others = [rate for other in history.book.histories() if other.peer != history.peer
                  and (rate := compute_tokens_per_byte(other)) is not None]  # fmt: skip
        found = []
        if mine is not None and len(others) >= OTHERS_MIN:
            usual = median(others)
            found.append((mine / usual, f"{mine:.3f} tokens a byte where {usual:.3f} are usual"))
        billed = sum(request.completion_tokens for request in history.requests.values() if request.chunk_tokens)
        named = sum(request.chunk_tokens for request in history.requests.values())
        if billed >= TOKENS_MIN:
            found.append((billed / named, f"{billed} tokens billed, its chunks named {named}"))
        found.sort(reverse=True)
        return conclude(
            history, now_ms, detector=self.name, score=found[0][0] if found else 0.0, threshold=self.threshold,
            reasons=[reason for _, reason in found],
        )  # fmt: skip


def compute_tokens_per_byte(history: History) -> float | None:
    """Over all deliveries of a provider; None while they are few."""
    seen = [request for request in history.requests.values() if request.size_bytes]
    tokens = sum(request.completion_tokens for request in seen)
    return None if tokens < TOKENS_MIN else tokens / sum(request.size_bytes or 0 for request in seen)


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Score: the dearest request's credits over what its tokens cost at the offered prices. A payer that lets it pass is in it."""

    name: str = "amount"
    threshold: float = 1.0

    def score(self, history: History, now_ms: int) -> Evidence:
        """0 without an offer."""
        worst, reasons = 0.0, []
        for request in history.requests.values():
            terms = history.offers.get(request.model)
            if terms is None:
                continue
            cost = compute_cost_credits(
                prompt_tokens=request.prompt_tokens, completion_tokens=request.completion_tokens,
                prompt_price=terms.prompt_price, completion_price=terms.completion_price,
                minimum_credits=terms.minimum_credits,
            )  # fmt: skip
            ratio = request.amount / max(cost, 1)
            if ratio > worst:
                worst, reasons = ratio, [f"{request.amount} credits for tokens that cost {cost} as offered"]
        return conclude(history, now_ms, detector=self.name, score=worst, threshold=self.threshold, reasons=reasons)
