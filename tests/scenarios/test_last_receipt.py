"""Whatever ends a request, what was delivered is billed, and stays reserved until it is."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from quiver import trace
from quiver.params import Params
from quiver.values.request import Principal
from tests.scenarios.stage import IDLE_S, MODEL, Stage, Typist

PROMPT = 1_000


async def read(stage, tokens):
    """Ask, and stop reading after `tokens` tokens; the iterator is still open."""
    events = stage.gateway.service.handle(stage.request(), Principal(name="client"))
    while tokens:
        tokens -= hasattr(await anext(events), "text")
    return events


def test_a_payer_that_runs_after_the_chunks_owes_them_all_the_same():
    async def story(stage):
        await read(stage, 3)
        channel = stage.channel()
        assert channel.log.head.cum == 0, "a receipt every 4 tokens: none yet"
        # The gateway's connection is cut, with no Cancel and no goodbye.
        stage.link()._stream.reset(0)
        await stage.clock.sleep(1.0)
        assert PROMPT + 3_000 <= channel.log.head.cum <= PROMPT + 4_000
        assert channel.exposure == channel.log.head.cum, "it is a debt, and nothing is reserved any more"
        assert (stage.providers[0].service.admission.admitted, stage.typists[0].typing) == (0, 0)
        # It comes back: the debt is the first thing it hears of, and it signs.
        await stage.gateway.service.pool.prepare(MODEL)
        await stage.clock.sleep(1.0)
        assert channel.exposure == 0 and channel.log.acknowledged == channel.log.head

    Stage(tokens=50).play(story)


def test_power_cut_at_the_payer_is_billed_when_the_connection_idles_out():
    async def story(stage):
        await read(stage, 2)
        stage.gateway.crash()
        await stage.clock.sleep(2 * IDLE_S)
        channel, events = stage.channel(), stage.events.of(trace.ReceiptIssued)
        assert channel.log.head.cum == sum(event.amount for event in events) > PROMPT
        assert channel.exposure == channel.log.head.cum

    Stage(tokens=50).play(story)


class SlowSigner:
    """Signing takes a while, as on a busy thread."""

    def __init__(self, stage, seconds):
        node = stage.providers[0]
        self.signing = 0
        sign, clock = node.signer.sign, stage.clock

        async def slowly(message):
            self.signing += 1
            try:
                await clock.sleep(seconds)
                return await sign(message)
            finally:
                self.signing -= 1

        node.signer.sign = slowly


@pytest.mark.parametrize("how", ["cancel", "reset"])
def test_the_reservation_lasts_while_the_last_receipt_is_signed(how):
    async def story(stage):
        signer = SlowSigner(stage, 0.5)
        events = await read(stage, 3)
        if how == "cancel":
            await events.aclose()
        else:
            stage.link()._stream.reset(0)
        await stage.clock.sleep(0.2)
        channel = stage.channel()
        held = channel.exposure
        assert signer.signing == 1 and channel.log.head.cum == 0 and held > 100_000
        await stage.clock.sleep(0.4)
        assert channel.log.head.cum >= PROMPT + 3_000 and signer.signing == 0
        assert channel.exposure < held

    Stage(tokens=50).play(story)


def test_requests_that_end_together_fork_no_channel():
    async def story(stage):
        SlowSigner(stage, 0.3)
        tasks = [asyncio.get_running_loop().create_task(stage.ask(number)) for number in (1, 2)]
        await stage.clock.sleep(0.85)
        stage.link()._stream.reset(0)
        await asyncio.gather(*tasks)
        await stage.clock.sleep(1.0)
        channel = stage.channel()
        issued = [event.seq for event in stage.events.of(trace.ReceiptIssued)]
        assert issued == list(range(1, len(issued) + 1)) and len(issued) >= 2
        assert channel._held == 0

    Stage(tokens=50, params=Params(
        receipt_every_tokens=64, first_credit=1_000_000, credit_limit_max=2_000_000, channel_deposit_credits=4_000_000,
        unproven_credit_max=8_000_000,
    )).play(story)  # fmt: skip


def test_a_deadline_ends_the_wait_for_a_slot_and_the_answer():
    async def story(stage):
        requests = [stage.request(number) for number in (1, 2)]
        late = stage.clock.utc_ms() + 2_000
        events = []

        async def ask(request):
            async for event in stage.gateway.service.handle(request, Principal(name="client")):
                events.append(event)

        await asyncio.gather(*(ask(replace(request, deadline_ms=late)) for request in requests))
        # The provider sees both deadlines itself; the gateway's Cancel comes later than that.
        await stage.clock.sleep(0.5)
        admission = stage.providers[0].service.admission
        assert (admission.running, admission.admitted) == (0, 0)
        channel = stage.channel()
        assert channel._held == 0 and channel.log.head.cum > PROMPT
        # One waited in the queue and got nothing: only one answer is on receipts.
        assert {event.request_id for event in stage.events.of(trace.ReceiptIssued)} == {requests[0].request_id}

    Stage(tokens=50, slots=1).play(story)


def test_prefill_is_not_free_where_the_engine_counts_the_prompt_last():
    class CountsLast(Typist):
        async def generate(self, request):
            async for piece in super().generate(request):
                yield piece if piece.done_reason else replace(piece, prompt_tokens=0)

    async def story(stage):
        stage.providers[0].service.backend = CountsLast(stage.clock, tokens=50)
        events = await read(stage, 3)
        await events.aclose()
        await stage.clock.sleep(1.0)
        channel = stage.channel()
        # The payer's own estimate of 10 tokens, at 100 credits each.
        assert PROMPT + 3_000 <= channel.log.head.cum <= PROMPT + 4_000
        assert channel.log.acknowledged == channel.log.head

    Stage(tokens=50).play(story)
