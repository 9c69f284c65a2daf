"""Stories of answers that broke and were continued by another provider: one text, and receipts that do not overlap."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from quiver import trace
from quiver.errors import WireCode
from quiver.values.request import Failure, Final, Principal
from tests.scenarios.author import PARAMS, Desk, text_of, words
from tests.scenarios.stage import IDLE_S

PROMPT = 1_000


def cum(stage, provider):
    return stage.channel(provider).log.head.cum


def billed(stage, provider):
    """Amounts of the receipts that this provider issued."""
    channel = stage.channel(provider).state.channel
    return [event.amount for event in stage.events.of(trace.ReceiptIssued) if event.channel == channel]


def test_an_engine_that_dies_is_continued_where_it_stopped_and_each_is_paid_for_its_part():
    async def story(stage):
        stage.typists[0].breaks_after = 6
        events = await stage.ask()
        final = events[-1]
        assert text_of(events) == words(10) and isinstance(final, Final)
        assert (final.provider, final.attempts, final.resumed) == (stage.providers[1].peer_id, 2, 1)
        await stage.clock.sleep(1.0)
        # Four words and the prompt, then two; the other reads those six too, and writes four.
        assert billed(stage, 0) == [PROMPT + 4_000, 2_000]
        assert billed(stage, 1) == [PROMPT + 600 + 4_000]
        assert [stage.link(number).channel.log.last.cum for number in (0, 1)] == [cum(stage, 0), cum(stage, 1)]
        assert final.paid_credits == cum(stage, 0) + cum(stage, 1) == 12_600 <= final.quoted_credits
        assert (final.prompt_tokens, final.completion_tokens) == (10 + 16, 10)
        # The first may have written 100 words, the other only what was left of them.
        assert final.quoted_credits == (84 * 100 + 102 * 1_000) + (96 * 100 + 96 * 1_000)
        (resumed,) = stage.events.of(trace.RequestResumed)
        assert (resumed.provider, resumed.delivered_tokens) == (stage.providers[1].peer_id, 6)
        (failed,) = stage.events.of(trace.AttemptFailed)
        assert failed.code == WireCode.BACKEND_FAILED
        (finished,) = stage.events.of(trace.RequestFinished)
        assert (finished.outcome, finished.completion_tokens, finished.paid_credits) == ("completed", 10, 12_600)

    Desk(resume=True, tokens=10).play(story)


def test_a_power_cut_is_continued_and_costs_what_was_on_receipts():
    async def story(stage):
        # The sixth word leaves at 1.03 s; the receipt after the fourth is the last that is durable.
        events = await stage.ask_during(stage.after(1.1, stage.providers[0].crash))
        final = events[-1]
        assert text_of(events) == words(10) and final.resumed == 1
        assert cum(stage, 1) == PROMPT + 600 + 4_000
        assert final.paid_credits == PROMPT + 4_000 + cum(stage, 1)
        assert final.completion_tokens == 10, "the client has ten, though two were never billed"
        node = stage.providers[0]
        node.revive()
        await node.start([], announce=False)
        await stage.gateway.service.pool.prepare(stage.gateway.service.models["tiny"])
        await stage.clock.sleep(1.0)
        assert cum(stage, 0) == stage.link(0).channel.log.last.cum == PROMPT + 4_000

    Desk(resume=True, tokens=10).play(story)


def test_a_cut_connection_is_continued_and_the_first_is_paid_when_it_is_back():
    async def story(stage):
        link = stage.link(0)
        events = await stage.ask_during(stage.after(1.1, lambda: link._stream.reset(0)))
        assert text_of(events) == words(10) and events[-1].resumed == 1
        assert stage.channel(0).exposure > 0
        await stage.gateway.service.pool.prepare(stage.gateway.service.models["tiny"])
        await stage.clock.sleep(1.0)
        # Words on the wire when it was cut were sent: two at most, at one every 0.1 s and 10 ms away.
        assert PROMPT + 6_000 <= cum(stage, 0) <= PROMPT + 7_000
        assert stage.channel(0).exposure == 0

    Desk(resume=True, tokens=10).play(story)


def test_a_provider_that_falls_silent_half_way_is_left_after_the_patience_for_a_first_token():
    async def story(stage):
        stage.typists[0].stalls_after = 3
        seen = []
        events = await stage.ask(seen=seen)
        assert text_of(events) == words(10) and events[-1].resumed == 1
        waited_s = seen[3][0] - seen[2][0]
        assert waited_s == pytest.approx(PARAMS.first_token_timeout_s + 0.03 + 0.5 + 0.01)
        await stage.clock.sleep(1.0)
        # It was told to stop, and billed what it had sent.
        assert (stage.typists[0].typing, stage.providers[0].service.admission.admitted) == (0, 0)
        assert billed(stage, 0) == [PROMPT + 3_000] and cum(stage, 1) == PROMPT + 300 + 7_000

    Desk(resume=True, tokens=10).play(story)


def test_busy_providers_are_passed_over_on_the_way():
    async def story(stage):
        stage.typists[0].breaks_after = 2
        admission, utc_ms = stage.providers[1].service.admission, stage.clock.utc_ms()
        for number in range(10):
            admission.check(b"another channel", b"%d" % number, deadline_ms=utc_ms + 60_000, utc_ms=utc_ms)
        events = await stage.ask()
        assert text_of(events) == words(10) and events[-1].provider == stage.providers[2].peer_id
        assert (events[-1].attempts, events[-1].resumed) == (2, 1)
        for number in range(10):
            admission.on_end(b"another channel", b"%d" % number)

    Desk(3, resume=True, tokens=10).play(story)


def test_three_providers_may_write_one_answer():
    async def story(stage):
        stage.typists[0].breaks_after, stage.typists[1].breaks_after = 3, 4
        events = await stage.ask()
        final = events[-1]
        assert text_of(events) == words(10) and (final.attempts, final.resumed) == (3, 2)
        assert [cum(stage, number) for number in range(3)] == [PROMPT + 3_000, PROMPT + 4_300, PROMPT + 3_700]
        assert final.paid_credits == 14_000

    Desk(3, resume=True, tokens=10).play(story)


def test_the_rest_is_no_longer_than_the_client_asked_for():
    async def story(stage):
        stage.typists[0].breaks_after = 4
        events = await stage.ask(max_tokens=7)
        assert text_of(events) == words(7) and events[-1].completion_tokens == 7

    Desk(resume=True, tokens=10).play(story)


def test_nobody_left_is_a_clear_error_about_what_broke():
    async def story(stage):
        stage.typists[0].breaks_after = 4
        events = await stage.ask()
        failure = events[-1]
        assert text_of(events) == words(4) and isinstance(failure, Failure)
        assert (failure.code, failure.message) == (WireCode.BACKEND_FAILED, "the engine died")
        assert (failure.delivered_tokens, failure.paid_credits, failure.resumed) == (4, PROMPT + 4_000, 0)

    Desk(1, resume=True, tokens=10).play(story)


@pytest.mark.parametrize(
    "changes",
    [
        {"sealed": True},
        {"once": True},
        {"body": b'{"prompt":"x","format":"json"}'},
        {"body": b'{"prompt":"x","tools":[{}]}'},
    ],
    ids=str,
)
def test_what_may_not_be_continued_ends_with_an_error(changes):
    async def story(stage):
        stage.typists[0].breaks_after = 4
        request = replace(stage.request(), **changes)
        events = [event async for event in stage.gateway.service.handle(request, Principal(name="client"))]
        assert text_of(events) == words(4) and isinstance(events[-1], Failure)
        assert stage.channel(1).log.head.seq == 0

    Desk(resume=True, tokens=10).play(story)


def test_without_resume_a_broken_answer_is_an_error():
    async def story(stage):
        stage.typists[0].breaks_after = 4
        events = await stage.ask()
        assert text_of(events) == words(4) and isinstance(events[-1], Failure)

    Desk(tokens=10).play(story)


def test_a_hedge_that_won_may_be_resumed_by_a_third():
    async def story(stage):
        stage.typists[0].prefill_s, stage.typists[1].breaks_after = 30.0, 5
        events = await stage.ask()
        final = events[-1]
        assert text_of(events) == words(10) and final.provider == stage.providers[2].peer_id
        assert (final.hedged, final.resumed, final.attempts) == (True, 1, 3)
        await stage.clock.sleep(2 * IDLE_S)
        assert [cum(stage, number) for number in range(3)] == [0, PROMPT + 5_000, PROMPT + 500 + 5_000]

    Desk(3, resume=True, after_s=0.4, tokens=10).play(story)
