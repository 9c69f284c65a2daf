"""`[selling]` of a gateway's config: what clients pay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from quiver.errors import UsageError
from quiver.gateway.selling import PPM, Selling, Tariff
from quiver.ids import ModelId
from quiver.live.config_file import NotNegative, Port, Section


class TariffSection(Section, frozen=True, kw_only=True):
    """Credits per 10^6 tokens, and the least an answer costs."""

    prompt: NotNegative
    completion: NotNegative
    minimum_credits: NotNegative = 1

    def tariff(self) -> Tariff:
        """As the gateway takes it."""
        return Tariff(prompt=self.prompt, completion=self.completion, minimum_credits=self.minimum_credits)


class SellingSection(Section, frozen=True, kw_only=True):
    """`[selling]`: clients with an API key pay from an account of the key's name. Left out: nobody pays."""

    prices: dict[str, TariffSection] = {}
    "The price table, by a name of [models]."
    margin: Annotated[float, msgspec.Meta(ge=0, le=1_000)] | None = None
    "Any other model is sold at what it cost and this share of it; rounded to a millionth."
    ceiling: TariffSection | None = None
    "With a margin: the dearest price of a provider that is passed on to a client."
    prepay_min_credits: NotNegative = 0
    "The least that is taken at once from a client's channel to this gateway's account: a claim costs gas. 0: none is taken."
    admin_port: Port = 0
    "On 127.0.0.1, for `credit` while the gateway runs; 0: it has to be stopped for that."

    def selling(self, models: Mapping[str, ModelId], *, where: str) -> Selling:
        """As the gateway takes it; `UsageError` for a price that is missing or of no model."""
        unknown = [name for name in self.prices if name not in models]
        if unknown:
            raise UsageError(
                f"{where}: [selling.prices] names {unknown[0]!r}, which is not in [models]: {', '.join(models)}"
            )
        selling = Selling(
            tariffs={models[name]: price.tariff() for name, price in self.prices.items()},
            margin_ppm=None if self.margin is None else round(self.margin * PPM),
            ceiling=None if self.ceiling is None else self.ceiling.tariff(),
        )
        try:
            selling.check(models)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        return selling
