"""What a request may cost at most. No I/O, no clock."""

from __future__ import annotations

import msgspec

from quiver.receipts.quotes import compute_tokens_max
from quiver.units import compute_cost_credits
from quiver.values.frames import Open, Quote


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """Credits per 10^6 tokens, and the least a served request costs."""

    prompt: int = 50_000
    completion: int = 150_000
    minimum_credits: int = 1


def compute_quote(request: Open, price: Price, *, slack_tokens: int, queue_s: float, expires_ms: int) -> Quote:
    """The most this request can be billed."""
    prompt_tokens_max, completion_tokens_max = compute_tokens_max(request, slack_tokens=slack_tokens)
    return Quote(
        request_id=request.request_id,
        prompt_price=price.prompt,
        completion_price=price.completion,
        minimum_credits=price.minimum_credits,
        prompt_tokens_max=prompt_tokens_max,
        completion_tokens_max=completion_tokens_max,
        amount_max=compute_cost_credits(
            prompt_tokens=prompt_tokens_max,
            completion_tokens=completion_tokens_max,
            prompt_price=price.prompt,
            completion_price=price.completion,
            minimum_credits=price.minimum_credits,
        ),
        queue_s=queue_s,
        expires_ms=expires_ms,
    )
