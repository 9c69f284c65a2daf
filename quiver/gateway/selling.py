"""What a client is charged: a price table, or what the answer cost and a margin on it. Pure.

Rules of this file: integer credits; a charge is rounded up to whole credits once, at its end, so it is never a credit more than what
its formula says and never a fraction less. Nothing delivered is nothing owed. A model in the table goes by the table, any other by
the margin.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from quiver.errors import UsageError
from quiver.gateway.delivery import Delivery
from quiver.gateway.session import Session
from quiver.ids import ModelId
from quiver.receipts.quotes import compute_tokens_max
from quiver.units import compute_cost_credits
from quiver.values.request import Final, InferenceRequest

PPM = 1_000_000
"A margin is integer parts per million, so that charges are integer arithmetic."


class Tariff(msgspec.Struct, frozen=True, kw_only=True):
    """One model's line in the table: credits per 10^6 tokens, and the least an answer costs."""

    prompt: int
    completion: int
    minimum_credits: int = 1

    def compute(self, *, prompt_tokens: int, completion_tokens: int) -> int:
        """ceil(tokens x price / 10^6), at least the minimum."""
        return compute_cost_credits(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, prompt_price=self.prompt,
            completion_price=self.completion, minimum_credits=self.minimum_credits,
        )  # fmt: skip


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as the gateway measured it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    answer_credits: int = 0
    "What providers are owed for the text the client got."
    cost_credits: int = 0
    "What they are owed in all: for one that lost a hedge too."
    delivered: bool = False
    "Something came."


class Selling(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway sells."""

    tariffs: Mapping[ModelId, Tariff] = {}
    margin_ppm: int | None = None
    "On the cost of models that are not in the table; None: all are."
    ceiling: Tariff | None = None
    """The dearest price of a provider that is passed on, margin on top. Which provider it will be is not known when credits are
    held; without a ceiling one absurd offer would ask a fortune of every client. What costs more is the gateway's loss."""

    def check(self, models: Mapping[str, ModelId]) -> None:
        """`UsageError` names the first model that has no price."""
        if self.margin_ppm is not None and self.ceiling is None:
            raise UsageError(
                "[selling] margin needs [selling.ceiling], the dearest price of a provider that is passed on"
            )
        for name, model in models.items():
            if model not in self.tariffs and self.margin_ppm is None:
                raise UsageError(
                    f"[selling] has no price for {name!r}: add [selling.prices.{name!r}], or a margin for all others"
                )

    def compute_charge(self, model: ModelId, usage: Usage) -> int:
        """Credits for one answer, whole or broken off."""
        if not usage.delivered:
            return 0
        tariff = self.tariffs.get(model)
        if tariff is not None:
            return tariff.compute(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        return self._with_margin(usage.answer_credits)

    def compute_max(self, request: InferenceRequest, model: ModelId, *, slack_tokens: int) -> int:
        """The most a request can cost its client: what is held for it before it begins."""
        prompt, completion = compute_tokens_max(request, slack_tokens=slack_tokens)
        tariff = self.tariffs.get(model)
        if tariff is not None:
            return tariff.compute(prompt_tokens=prompt, completion_tokens=completion)
        assert self.ceiling is not None
        return self._with_margin(self.ceiling.compute(prompt_tokens=prompt, completion_tokens=completion))

    def _with_margin(self, credits: int) -> int:
        assert self.margin_ppm is not None
        return -(-credits * (PPM + self.margin_ppm) // PPM)


def compute_usage(session: Session, final: Final | None) -> Usage:
    """What a request came to; `final`: its answer is whole.

    The last receipt of a part that broke off may still be on its way, or lost with its provider: until it is here, its prompt
    counts as estimated and its completion as it came.
    """
    request, parts = session.request, session.parts
    whole = parts[-1] if parts and final is not None else None
    measured = {id(one): _measure(request, one, whole=one is whole) for one in session.deliveries}
    cost = sum(credits for _, credits in measured.values())
    if not parts:
        return Usage(cost_credits=cost)
    return Usage(
        # Whoever goes on with a broken answer reads the prompt again: that is no new one of the client's.
        prompt_tokens=measured[id(parts[0])][0],
        completion_tokens=session.delivered_tokens if final is None else final.completion_tokens,
        answer_credits=sum(measured[id(one)][1] for one in parts), cost_credits=cost, delivered=True,
    )  # fmt: skip


def _measure(request: InferenceRequest, delivery: Delivery, *, whole: bool) -> tuple[int, int]:
    """Prompt tokens, and credits owed."""
    if whole or not delivery.chunks:
        return delivery.billed_prompt, delivery.billed_credits
    quote = delivery.quote
    prompt = delivery.billed_prompt or min(request.prompt_tokens_estimate, quote.prompt_tokens_max)
    return prompt, compute_cost_credits(
        prompt_tokens=prompt, completion_tokens=max(delivery.billed_completion, delivery.tokens),
        prompt_price=quote.prompt_price, completion_price=quote.completion_price, minimum_credits=quote.minimum_credits,
    )  # fmt: skip
