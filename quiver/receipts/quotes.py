"""What a quote may say: both sides compute its bounds from the request, so a payer accepts no other."""

from __future__ import annotations

from quiver.errors import PeerError
from quiver.units import compute_cost_credits
from quiver.values.frames import Open, Quote
from quiver.values.offer import Offer
from quiver.values.request import InferenceRequest

# The payer estimates prompt tokens from bytes; a template and a script with short tokens can double that.
PROMPT_TOKENS_FACTOR, PROMPT_TOKENS_EXTRA = 2, 64


def compute_tokens_max(request: Open | InferenceRequest, *, slack_tokens: int) -> tuple[int, int]:
    """(prompt, completion) tokens that a request may be billed for at most."""
    prompt = request.prompt_tokens_estimate * PROMPT_TOKENS_FACTOR + PROMPT_TOKENS_EXTRA
    return prompt, request.max_tokens + slack_tokens


def check_quote(quote: Quote, request: Open, offer: Offer, *, slack_tokens: int) -> None:
    """`PeerError` unless the quote is at the offered prices and for no more than was asked."""

    def refuse(reason: str) -> PeerError:
        return PeerError(f"quote refused: {reason}", peer_id=offer.provider)

    prices = (quote.prompt_price, quote.completion_price, quote.minimum_credits)
    if prices != (offer.prompt_price, offer.completion_price, offer.minimum_credits):
        raise refuse("not at the offered prices")
    prompt, completion = compute_tokens_max(request, slack_tokens=slack_tokens)
    if not 0 <= quote.prompt_tokens_max <= prompt or not 0 <= quote.completion_tokens_max <= completion:
        raise refuse(
            f"for {quote.prompt_tokens_max} + {quote.completion_tokens_max} tokens, at most {prompt} + {completion} were asked for"
        )
    amount = compute_cost_credits(
        prompt_tokens=quote.prompt_tokens_max, completion_tokens=quote.completion_tokens_max,
        prompt_price=quote.prompt_price, completion_price=quote.completion_price, minimum_credits=quote.minimum_credits,
    )  # fmt: skip
    if quote.amount_max != amount:
        raise refuse(f"{quote.amount_max} credits, but its tokens cost {amount}")
