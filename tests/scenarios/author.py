"""Engines that continue: the answer to everything is "w0 w1 w2 ...", and whoever is given its beginning goes on with the next word.

`Desk` is a stage with them, whose gateway hedges and resumes.
"""

from __future__ import annotations

import json

from quiver.errors import Unavailable
from quiver.gateway.hedging import HedgeTerms, Hedging
from quiver.params import Params
from quiver.values.backend import Piece
from quiver.values.request import TokenChunk
from tests.scenarios.stage import Stage, Typist

BODY = b'{"prompt":"Count"}'
PARAMS = Params(
    receipt_every_tokens=4, first_credit=1_000_000, credit_limit_max=2_000_000, channel_deposit_credits=4_000_000,
    unproven_credit_max=8_000_000, load_refresh_s=2.0, receipts_interval_s=1.0, epoch_ms=10_000,
    first_token_timeout_s=3.0, dial_timeout_s=2.0, quote_timeout_s=1.0,
)  # fmt: skip


def said(body):
    """The words of the answer that a request brings along."""
    last = json.loads(body).get("messages", [{}])[-1]
    return last["content"].split() if last.get("role") == "assistant" else []


class Author(Typist):
    """Writes `tokens` words in all. `stalls_after` it stays silent for ever."""

    stalls_after = None

    async def generate(self, request):
        self.typing += 1
        try:
            await self.clock.sleep(self.prefill_s)
            words = said(request.body)
            assert words == [f"w{number}" for number in range(len(words))], "the client's text is not one text"
            total = min(self.tokens, len(words) + request.max_tokens)
            for number in range(len(words), total):
                written = number - len(words)
                if self.breaks_after is not None and written >= self.breaks_after:
                    raise Unavailable("the engine died")
                if self.stalls_after is not None and written >= self.stalls_after:
                    await self.clock.sleep(1_000.0)
                is_last = number == total - 1
                yield Piece(
                    text=f"w{number} ", tokens=1, prompt_tokens=request.prompt_tokens_estimate,
                    done_reason="stop" if is_last else None, completion_tokens=written + 1 if is_last else None,
                )  # fmt: skip
                if not is_last:
                    await self.clock.sleep(self.every_s)
        finally:
            self.typing -= 1


class Desk(Stage):
    """`after_s` None: no hedges."""

    def __init__(self, providers=2, *, after_s=None, share=1.0, resume=False, params=PARAMS, slots=8, **author):
        super().__init__(providers, params=params, slots=slots, **author)
        for number, node in enumerate(self.providers):
            self.typists[number] = node.service.backend = Author(self.clock, **author)
        service = self.gateway.service
        service.resume = resume
        if after_s is not None:
            service.hedging = Hedging(HedgeTerms(after_s=after_s, share=share))

    def request(self, number=1, *, body=BODY, **fields):
        return super().request(number, body=body, **fields)


def text_of(events):
    """What the client read."""
    return "".join(event.text for event in events if isinstance(event, TokenChunk))


def words(count):
    """The first words of the answer."""
    return "".join(f"w{number} " for number in range(count))
