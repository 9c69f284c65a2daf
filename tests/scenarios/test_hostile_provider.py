"""A provider that says anything to its gateway: the client gets its answer elsewhere, or a clear error, and nobody pays for it."""

from __future__ import annotations

import msgspec
import pytest

from quiver import trace
from quiver.errors import WireCode
from quiver.gateway.service import GatewayService
from quiver.identity import signing
from quiver.ids import ModelId, RequestId
from quiver.selection.candidates import MODELS_MAX
from quiver.values import frames
from quiver.values.offer import Load, OfferAnswer, SignedOffer
from quiver.values.receipt import ChannelHead
from quiver.values.request import Failure, Final
from tests.scenarios.garbage import GARBAGE, assert_honest_work_goes_on
from tests.scenarios.stage import MODEL, NAME
from tests.scenarios.wire import WireStage, bytes_instead, instead

replace = msgspec.structs.replace
NAN, HUGE = float("nan"), (1 << 64) - 1


def play(story, *, tamper=None, offer=None, bill=None):
    """`await story(stage)` with a hostile provider that is first in the gateway's order; then look whether anybody was hurt."""

    async def main(stage):
        assert isinstance((await stage.ask(1))[-1], Final)
        stage.hostile.tamper = tamper or {}
        stage.hostile.offer = offer or {}
        stage.hostile.bill = bill or {}
        await stage.hostile.sell()
        await story(stage)
        stage.validate()
        stage.hostile.transport.crash()
        await stage.clock.sleep(3.0)
        await assert_honest_work_goes_on(stage)

    WireStage().play(main)


def paid_to_hostile(stage):
    """Credits the gateway has signed for on its channel to the hostile node."""
    return sum(
        event.cum
        for event in stage.events.of(trace.ReceiptAcknowledged)
        if event.channel != stage.channel().state.channel
    )


def test_it_behaves_when_told_nothing_else():
    async def story(stage):
        final = (await stage.ask(2))[-1]
        assert isinstance(final, Final) and final.provider == stage.hostile.peer_id and final.paid_credits == 2_000
        await stage.clock.sleep(1.0)
        assert paid_to_hostile(stage) == 2_000

    play(story)


# ---- offers


@pytest.mark.parametrize("data", [data for data, _ in GARBAGE.values()], ids=GARBAGE)
def test_an_answer_that_is_no_offer_makes_no_candidate(data):
    async def story(stage):
        assert stage.hostile.peer_id not in stage.gateway.service.table.peers()
        assert (await stage.ask(2))[-1].provider == stage.providers[0].peer_id

    play(story, tamper={OfferAnswer: bytes_instead(data)})


ABSURD_OFFERS = {
    "no slots": {"slots": 0}, "slots beyond their place": {"slots": 1 << 32}, "negative slots": {"slots": -1},
    "a negative price": {"prompt_price": -1}, "a price below nothing": {"completion_price": -1},
    "a speed that is no number": {"decode_tps": NAN}, "an infinite speed": {"prefill_tps": float("inf")},
    "a negative speed": {"decode_tps": -1.0}, "a model of no bytes": {"model": b""},
    "a payout of no bytes": {"payout": b""}, "a payout of many bytes": {"payout": bytes(1000)},
    "a negative generation": {"generation": -1}, "a time before 1970": {"expires_ms": -1},
    "a key of no bytes": {"public_key": b""}, "another chain": {"chain_id": 1}, "a long ago end": {"expires_ms": 1},
    "another provider": {"provider": b"\x01" * 38},
}  # fmt: skip


@pytest.mark.parametrize("change", ABSURD_OFFERS.values(), ids=ABSURD_OFFERS)
def test_an_absurd_offer_makes_no_candidate(change):
    async def story(stage):
        assert stage.hostile.peer_id not in stage.gateway.service.table.peers()
        assert (await stage.ask(2))[-1].provider == stage.providers[0].peer_id

    play(story, offer=change)


@pytest.mark.parametrize(
    "load",
    [
        Load(queued=-(1 << 63), running=-1, slots=0),
        Load(queued=HUGE, running=HUGE, slots=HUGE, warm=(b"",) * 1000, region="x" * 1000),
    ],
    ids=["negative", "huge"],
)
def test_an_absurd_load_is_only_a_report(load):
    async def story(stage):
        assert isinstance((await stage.ask(2))[-1], Final)

    play(story, tamper={OfferAnswer: instead(load=load)})


# ---- before the first token: the request goes elsewhere

BEFORE = {
    "no message for Authorised": {frames.Authorised: bytes_instead(b"\x10\xff")},
    "another frame for Authorised": {frames.Authorised: lambda f: [frames.Accept(request_id=RequestId(bytes(16)))]},
    "another channel": {frames.Authorised: instead(channel=bytes(32))},
    "another history": {frames.Authorised: instead(head=ChannelHead(seq=3, cum=30, head=b"\x01" * 32))},
    "no message for a quote": {frames.Quote: bytes_instead(b"\x10\xff")},
    "an unknown frame for a quote": {frames.Quote: bytes_instead(b"\x10\x92\xa1?\x01")},
    "a newer major version": {frames.Quote: bytes_instead(b"\x20\x90")},
    "an oversized frame": {frames.Quote: bytes_instead(bytes(4 * 1024 * 1024 + 1))},
    "a quote for another request": {frames.Quote: instead(request_id=RequestId(bytes(16)))},
    "a dearer quote": {frames.Quote: instead(prompt_price=HUGE)},
    "a quote beyond the channel": {frames.Quote: instead(amount_max=HUGE)},
    "an error with an absurd code": {
        frames.Quote: lambda f: [frames.Error(request_id=f.request_id, code=-(1 << 63), message="x", retry_after_s=NAN)]
    },
    "busy for an absurd time": {
        frames.Quote: lambda f: [frames.Busy(request_id=f.request_id, code=HUGE, retry_after_s=-1e300)]
    },
    "a chunk for a quote": {
        frames.Quote: lambda f: [frames.Chunk(request_id=f.request_id, index=0, tokens=1, text="x")]
    },
    "no message for a chunk": {frames.Chunk: bytes_instead(b"\x10\xff")},
    "a chunk in the wrong place": {frames.Chunk: instead(index=1)},
    "a chunk of another request": {frames.Chunk: instead(request_id=RequestId(bytes(16)))},
    "a receipt before the first token": {frames.Chunk: lambda f: []},
    "a quote for a chunk": {frames.Chunk: lambda f: [frames.Accept(request_id=f.request_id)]},
}


@pytest.mark.parametrize("tamper", BEFORE.values(), ids=BEFORE)
def test_before_the_first_token_another_provider_answers_and_nobody_pays(tamper):
    async def story(stage):
        events = await stage.ask(2)
        final = events[-1]
        assert isinstance(final, Final), final
        assert (final.provider, final.paid_credits) == (stage.providers[0].peer_id, 6_000)
        await stage.clock.sleep(1.0)
        assert paid_to_hostile(stage) == 0
        assert stage.gateway.service.admission.open == 0

    play(story, tamper=tamper)


# ---- after it: a clear error


AFTER = {
    "no message for a receipt": ({frames.ReceiptFrame: bytes_instead(b"\x10\xff")}, WireCode.MALFORMED),
    "no receipt": ({frames.ReceiptFrame: lambda f: []}, WireCode.BAD_SIGNATURE),
    "a receipt nobody signed": (
        {frames.ReceiptFrame: lambda f: [replace(f, receipt=replace(f.receipt, signature=bytes(64)))]},
        WireCode.BAD_SIGNATURE,
    ),
    "a receipt twice": ({frames.ReceiptFrame: lambda f: [f, f]}, WireCode.RECEIPT_MISMATCH),
    "no message for the end": ({frames.End: bytes_instead(b"\x10\xff")}, WireCode.MALFORMED),
    "an accept for the end": ({frames.End: lambda f: [frames.Accept(request_id=f.request_id)]}, WireCode.PROTOCOL_VIOLATION),
    "an end of more chunks": ({frames.End: instead(chunks=HUGE)}, WireCode.RESOURCE_LIMIT),
    "an error for the end": (
        {frames.End: lambda f: [frames.Error(request_id=f.request_id, code=HUGE, message="x")]}, WireCode.INTERNAL,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tamper", "code"), AFTER.values(), ids=AFTER)
def test_after_the_first_token_the_client_is_told_and_only_a_true_receipt_is_paid(tamper, code):
    async def story(stage):
        events = await stage.ask(2)
        failure = events[-1]
        assert isinstance(failure, Failure), failure
        assert (failure.code, failure.delivered_tokens, failure.attempts) == (code, 1, 1) and failure.message
        await stage.clock.sleep(1.0)
        assert paid_to_hostile(stage) in (0, 2_000)

    play(story, tamper=tamper)


BILLS = {
    "another answer": {"response_hash": bytes(32)}, "another request": {"request_id": RequestId(bytes(16))},
    "another body": {"request_hash": bytes(32)}, "absurd tokens": {"completion_tokens": HUGE},
    "tokens beyond the bytes": {"completion_tokens": 7, "amount": 8_000, "cum": 8_000},
    "negative tokens": {"prompt_tokens": -1}, "a credit more": {"amount": 2_001, "cum": 2_001},
    "a cum that does not add up": {"cum": 2_001}, "all that is locked": {"cum": 4_000_001}, "no bounds": {"cum": HUGE},
    "a negative sum": {"cum": -1}, "a seq out of turn": {"seq": 2}, "another channel": {"channel": bytes(32)},
    "another chain": {"chain_id": 1}, "another payer": {"payer": bytes(20)}, "no payer": {"payer": b""},
}  # fmt: skip


@pytest.mark.parametrize("bill", BILLS.values(), ids=BILLS)
def test_a_signed_receipt_over_what_was_not_delivered_is_evidence_and_not_paid(bill):
    async def story(stage):
        failure = (await stage.ask(2))[-1]
        assert isinstance(failure, Failure), failure
        assert (failure.code, failure.paid_credits) == (WireCode.RECEIPT_MISMATCH, 0) and failure.message
        await stage.clock.sleep(1.0)
        assert paid_to_hostile(stage) == 0
        (evidence,) = [
            event for event in stage.events.of(trace.EvidenceRecorded) if event.peer == stage.hostile.peer_id
        ]
        assert evidence.kind == "ReceiptMismatch"

    play(story, bill=bill)


def test_what_an_end_says_in_absurd_numbers_is_not_believed():
    async def story(stage):
        final = (await stage.ask(2))[-1]
        assert isinstance(final, Final)
        assert (final.prompt_tokens, final.completion_tokens, final.paid_credits) == (10, 1, 2_000)

    play(story, tamper={frames.End: instead(prompt_tokens=-HUGE // 2, completion_tokens=HUGE, queue_s=NAN)})


# ---- found by these stories


ABSURD_QUOTES = {
    "a negative amount": {"amount_max": -1}, "negative prompt tokens": {"prompt_tokens_max": -1},
    "negative completion tokens": {"completion_tokens_max": -1}, "absurd prompt tokens": {"prompt_tokens_max": 10**9},
    "absurd completion tokens": {"completion_tokens_max": 10**9},
    "an amount that is not the price of its tokens": {"amount_max": 1},
}  # fmt: skip


@pytest.mark.parametrize("quote", ABSURD_QUOTES.values(), ids=ABSURD_QUOTES)
def test_a_quote_that_cannot_be_true_sends_the_request_elsewhere(quote):
    async def story(stage):
        final = (await stage.ask(2))[-1]
        assert isinstance(final, Final) and final.provider == stage.providers[0].peer_id

    play(story, tamper={frames.Quote: instead(**quote)})


def test_a_short_answer_never_costs_the_whole_deposit():
    """It quotes 39,000 prompt tokens for a prompt of about 10 at the same amount, and bills them: 3,901,000 of 4,000,000."""

    async def story(stage):
        await stage.ask(2)
        await stage.clock.sleep(1.0)
        # 2 x 10 + 64 prompt tokens at 100, one completion token at 1,000.
        assert paid_to_hostile(stage) <= 84 * 100 + 1_000

    bill = {"prompt_tokens": 39_000, "amount": 3_901_000, "cum": 3_901_000}
    play(story, tamper={frames.Quote: instead(prompt_tokens_max=39_000)}, bill=bill)


@pytest.mark.parametrize("tokens", [-1, -(1 << 63), HUGE])
def test_a_chunk_of_absurd_tokens_is_refused(tokens):
    async def story(stage):
        final = (await stage.ask(2))[-1]
        assert isinstance(final, Final) and final.provider == stage.providers[0].peer_id

    play(story, tamper={frames.Chunk: instead(tokens=tokens)})


def test_offers_of_models_nobody_asked_about_take_no_place():
    async def story(stage):
        hostile, gateway = stage.hostile, stage.gateway
        (mine,) = hostile.answer.offers
        others = []
        for number in range(MODELS_MAX):
            offer = replace(mine.offer, model=ModelId(number.to_bytes(32, "big")))
            others.append(SignedOffer(offer=offer, signature=await hostile.signer.sign(signing.offer_bytes(offer))))
        hostile.answer = replace(hostile.answer, offers=tuple(others))
        find = gateway.service.pool.discovery._find_providers
        fresh = GatewayService(gateway.runtime, gateway.policy, {NAME: MODEL}, find)
        await fresh.pool.discovery.ask([hostile.peer_id], MODEL)
        await fresh.pool.discovery.refresh(MODEL)
        assert [found.peer for found in fresh.table.candidates(MODEL, stage.clock.now())] == [
            stage.providers[0].peer_id
        ]

    play(story)
