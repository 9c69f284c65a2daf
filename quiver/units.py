"""Conversions between the units the protocol uses. Money is integer credits, signed times are integer milliseconds."""

from __future__ import annotations

TOKENS_PER_MTOK = 1_000_000


def compute_cost_credits(
    *, prompt_tokens: int, completion_tokens: int, prompt_price: int, completion_price: int, minimum_credits: int = 0
) -> int:
    """Total owed for a request: ceil(tokens x price / 10^6), at least `minimum_credits`; prices are credits per 10^6 tokens.

    The sum is rounded up once, so increments are differences of totals and never add up to more than the total.
    """
    micro = prompt_tokens * prompt_price + completion_tokens * completion_price
    return max(minimum_credits, -(-micro // TOKENS_PER_MTOK))


def ms_from_s(seconds: float) -> int:
    """Whole milliseconds, rounded half to even."""
    return round(seconds * 1000)
