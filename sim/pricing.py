"""What simulated providers ask for their tokens: one price a provider for the whole run.

Rules of this file: no market data was found for open inference networks, so every number here is an assumption.
"""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

from quiver.errors import UsageError
from quiver.provider.pricing import Price
from sim.hardware import HardwareProfile
from sim.plug import Plug, PlugPoint

# Credits per 10^6 tokens.
PROMPT_CREDITS, COMPLETION_CREDITS = 50_000, 150_000


class Pricing(Protocol):
    """The plug point: the price list of a provider."""

    def price(self, profile: HardwareProfile, rng: random.Random) -> Price:
        """Credits per 10^6 prompt and completion tokens; `rng` is the provider's own."""


class Spread(NamedTuple):
    """Prices around the mean, the same factor for prompt and completion, whatever the machine."""

    sigma: float = 0.2
    "Log-standard deviation between providers; 0 makes all alike."

    def price(self, profile: HardwareProfile, rng: random.Random) -> Price:
        """Log-normal around `PROMPT_CREDITS` and `COMPLETION_CREDITS`."""
        factor = rng.lognormvariate(0.0, self.sigma)
        return Price(prompt=round(PROMPT_CREDITS * factor), completion=round(COMPLETION_CREDITS * factor))


def flat() -> Spread:
    """Everybody asks the same."""
    return Spread(sigma=0.0)


PRICING = PlugPoint(field="pricing", builtins={"spread": Spread, "flat": flat}, methods={"price": ("profile", "rng")})


def make_pricing(plug: Plug) -> Pricing:
    """A built-in's name or a plug."""
    pricing: Pricing = PRICING.make(plug)
    return pricing


def ask_price(pricing: Pricing, profile: HardwareProfile, rng: random.Random) -> Price:
    """The provider's price list, checked: what a plug returns reaches signed offers."""
    price = pricing.price(profile, rng)
    amounts = (price.prompt, price.completion, price.minimum_credits) if isinstance(price, Price) else None
    if amounts is None or not all(type(amount) is int and amount >= 0 for amount in amounts):
        raise UsageError(
            f"scenario field pricing: {type(pricing).__name__}.price returned {price!r}; it must return a "
            "quiver.provider.pricing.Price of whole credits, 0 or more"
        )
    return price
