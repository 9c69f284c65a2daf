"""Stories of two providers that are asked at once: who serves, who is stopped, and what each is paid."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from quiver import trace
from quiver.errors import UsageError, WireCode
from quiver.live.earnings import read_reports
from quiver.values.frames import Cancel
from quiver.values.request import Failure, Final, Principal
from sim import Scenario, World
from sim.stream import SimStream
from tests.scenarios.author import PARAMS, Desk, text_of, words

# 10 prompt tokens at 100 credits.
PROMPT = 1_000


def channel_of(stage, provider):
    return stage.link(provider).channel


def is_at_rest(stage):
    """Nobody works, waits or holds anything for a request any more."""
    for number, node in enumerate(stage.providers):
        channel = stage.channel(number)
        assert (node.service.admission.admitted, stage.typists[number].typing) == (0, 0)
        assert channel._held == channel_of(stage, number)._held == 0
        assert stage.gateway.service.table.in_flight(node.peer_id) == 0
    return True


@pytest.fixture
def cancels(monkeypatch):
    """Cancels that were sent, with their codes."""
    sent, plain = [], SimStream.send

    async def send(stream, frame):
        await plain(stream, frame)
        if isinstance(frame, Cancel):
            sent.append((stream.peer_id, frame.code))

    monkeypatch.setattr(SimStream, "send", send)
    return sent


def test_a_silent_provider_is_overtaken_stopped_and_owed_nothing(cancels):
    async def story(stage):
        stage.typists[0].prefill_s = 20.0
        began_s = stage.clock.now()
        seen = []
        events = await stage.ask(seen=seen)
        final = events[-1]
        assert isinstance(final, Final) and text_of(events) == words(5)
        assert (final.provider, final.attempts, final.hedged, final.resumed) == (stage.providers[1].peer_id, 2, True, 0)
        # Asked after 0.4 s, quoted and accepted within two round trips of 20 ms, prefill 0.5 s, and the way back.
        assert seen[0][0] - began_s == pytest.approx(0.4 + 0.03 + 0.5 + 0.01, abs=1e-6)
        (hedge,) = stage.events.of(trace.RequestHedged)
        assert (hedge.silent, hedge.provider) == tuple(node.peer_id for node in stage.providers)
        assert hedge.after_s == 0.4
        (lost,) = stage.events.of(trace.AttemptLost)
        assert (lost.provider, lost.delivered_tokens) == (stage.providers[0].peer_id, 0)
        assert cancels == [(stage.providers[0].peer_id, WireCode.ELSEWHERE)]
        await stage.clock.sleep(1.0)
        assert channel_of(stage, 0).log.head.cum == 0
        assert final.paid_credits == channel_of(stage, 1).log.head.cum == PROMPT + 5_000
        assert is_at_rest(stage)

    Desk(after_s=0.4).play(story)


def test_the_loser_is_paid_for_what_it_sent_before_it_heard_of_it_and_for_nothing_after():
    async def story(stage):
        # The first word of both leaves within 10 ms: each is on its way before a Cancel can arrive.
        stage.typists[1].prefill_s = 0.095
        events = await stage.ask()
        final = events[-1]
        assert text_of(events) == words(5) and final.provider == stage.providers[1].peer_id
        await stage.clock.sleep(1.0)
        loser, winner = (channel_of(stage, number) for number in (0, 1))
        assert (loser.log.head.cum, winner.log.head.cum) == (PROMPT + 1_000, PROMPT + 5_000)
        # Both are signed for, the client was told of both, and the quotes of both allowed it.
        assert [channel.log.last.cum for channel in (loser, winner)] == [PROMPT + 1_000, PROMPT + 5_000]
        assert final.paid_credits == 2 * PROMPT + 6_000 <= final.quoted_credits
        assert final.quoted_credits == 2 * (84 * 100 + 102 * 1_000)
        assert (final.prompt_tokens, final.completion_tokens) == (10, 5)
        (finished,) = stage.events.of(trace.RequestFinished)
        assert (finished.outcome, finished.paid_credits) == ("completed", final.paid_credits)
        issued = [event for event in stage.events.of(trace.ReceiptIssued) if event.channel == loser.state.channel]
        assert [event.amount for event in issued] == [PROMPT + 1_000]
        assert is_at_rest(stage)

    Desk(after_s=0.4).play(story)


def test_a_loser_whose_receipt_comes_after_the_end_is_in_the_books_and_not_in_the_answer():
    """An answer of one word ends with it; the loser hears of the Cancel 10 ms later, and its receipt takes 10 ms more."""

    async def story(stage):
        stage.typists[1].prefill_s = 0.095
        final = (await stage.ask())[-1]
        loser, winner = (channel_of(stage, number) for number in (0, 1))
        assert final.paid_credits == winner.log.head.cum == PROMPT + 1_000 and loser.log.head.cum == 0
        await stage.clock.sleep(1.0)
        books = {report.channel: report for report in read_reports(stage.gateway.store, pays=True)}
        for channel in (loser, winner):
            book = books[channel.state.channel]
            assert sum(cell.amount for cell in book.cells.values()) == PROMPT + 1_000
            assert (book.served, book.acknowledged) == (PROMPT + 1_000, PROMPT + 1_000)
        issued = stage.events.of(trace.ReceiptIssued)
        assert sum(event.amount for event in issued) == final.paid_credits + PROMPT + 1_000
        assert is_at_rest(stage)

    Desk(after_s=0.4, tokens=1).play(story)


def test_the_first_provider_may_still_win():
    async def story(stage):
        stage.typists[1].prefill_s = 20.0
        events = await stage.ask()
        assert text_of(events) == words(5) and events[-1].provider == stage.providers[0].peer_id
        assert events[-1].hedged and events[-1].attempts == 2
        await stage.clock.sleep(1.0)
        assert channel_of(stage, 1).log.head.cum == 0 and is_at_rest(stage)

    Desk(after_s=0.4).play(story)


def test_a_fast_answer_is_not_hedged():
    async def story(stage):
        final = (await stage.ask())[-1]
        assert (final.attempts, final.hedged) == (1, False)
        assert not stage.events.of(trace.RequestHedged)

    Desk(after_s=0.6).play(story)


@pytest.mark.parametrize("broken", [0, 1])
def test_when_one_of_two_breaks_the_other_goes_on_alone(broken):
    async def story(stage):
        stage.typists[1 - broken].prefill_s = 2.0
        stage.typists[broken].prefill_s, stage.typists[broken].breaks_after = 1.0, 0
        events = await stage.ask()
        assert text_of(events) == words(5) and events[-1].provider == stage.providers[1 - broken].peer_id
        assert [event.provider for event in stage.events.of(trace.AttemptFailed)] == [stage.providers[broken].peer_id]
        assert not stage.events.of(trace.AttemptLost)
        await stage.clock.sleep(1.0)
        assert channel_of(stage, broken).log.head.cum == 0 and is_at_rest(stage)

    Desk(after_s=0.4).play(story)


def test_when_both_break_a_third_is_tried_and_not_hedged_again():
    async def story(stage):
        for number in (0, 1):
            stage.typists[number].prefill_s, stage.typists[number].breaks_after = 1.0, 0
        stage.typists[2].prefill_s = 1.5
        events = await stage.ask()
        assert text_of(events) == words(5) and (events[-1].attempts, events[-1].hedged) == (3, True)
        assert len(stage.events.of(trace.RequestHedged)) == 1

    Desk(4, after_s=0.4).play(story)


@pytest.mark.parametrize("flag", ["sealed", "once"])
def test_a_request_for_one_provider_is_shown_to_one(flag):
    async def story(stage):
        stage.typists[0].prefill_s = 2.0
        request = replace(stage.request(), **{flag: True})
        events = [event async for event in stage.gateway.service.handle(request, Principal(name="client"))]
        assert (events[-1].provider, events[-1].attempts) == (stage.providers[0].peer_id, 1)

    Desk(after_s=0.4).play(story)


def test_the_budget_is_kept_and_hedges_of_a_few_requests_are_all_there_are():
    async def story(stage):
        stage.typists[0].prefill_s = 2.0
        for number in range(1, 9):
            await stage.ask(number)
        hedged = [event.request_id[-1] for event in stage.events.of(trace.RequestHedged)]
        assert hedged == [4, 8]

    Desk(after_s=0.4, share=0.25).play(story)


def test_load_is_no_reason_to_make_more_of_it():
    async def story(stage):
        stage.typists[1].prefill_s = 2.0
        admission, utc_ms = stage.providers[0].service.admission, stage.clock.utc_ms()
        for number in range(10):
            admission.check(b"another channel", b"%d" % number, deadline_ms=utc_ms + 60_000, utc_ms=utc_ms)
        final = (await stage.ask())[-1]
        assert final.provider == stage.providers[1].peer_id and not final.hedged
        for number in range(10):
            admission.on_end(b"another channel", b"%d" % number)

    Desk(3, after_s=0.4).play(story)


def test_another_node_of_the_same_operator_is_no_second_provider():
    async def story(stage):
        service = stage.gateway.service
        for model in service.models.values():
            first, other = (service.table.offer(node.peer_id, model, stage.clock.now()) for node in stage.providers)
            entry = service.table._peers[other.provider].entries[model]
            entry.offer = replace(other, payout=first.payout)
        stage.typists[0].prefill_s = 1.0
        final = (await stage.ask())[-1]
        assert final.provider == stage.providers[0].peer_id and not final.hedged

    Desk(after_s=0.4, params=replace(PARAMS, load_refresh_s=1_000.0, discovery_refresh_s=1_000.0)).play(story)


def test_a_client_that_leaves_in_the_race_leaves_nobody_working(cancels):
    async def story(stage):
        for typist in stage.typists:
            typist.prefill_s = 20.0
        task = asyncio.ensure_future(stage.ask())
        await stage.clock.sleep(1.0)
        assert [typist.typing for typist in stage.typists] == [1, 1]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stage.clock.sleep(1.0)
        assert is_at_rest(stage) and stage.gateway.service.admission.open == 0
        assert cancels == [(node.peer_id, WireCode.CLIENT_GONE) for node in stage.providers]
        assert [event.outcome for event in stage.events.of(trace.RequestFinished)] == ["cancelled"]

    Desk(after_s=0.4).play(story)


def test_a_loser_is_known_as_slow_and_not_as_broken():
    async def story(stage):
        stage.typists[0].prefill_s = 20.0
        service, slow = stage.gateway.service, stage.providers[0].peer_id
        outcomes = []
        service.policy.on_outcome = lambda outcome, *, now: outcomes.append(outcome)
        for number in range(1, 8):
            await stage.ask(number)
        assert not service.table.is_ejected(slow, stage.clock.now())
        (candidate,) = [one for one in service.pool.candidates(service.models["tiny"]) if one.peer == slow]
        # It was silent for 0.4 s, and for as long as the other one took: at least.
        assert candidate.ttft_ewma_s == pytest.approx(0.94, abs=0.01)
        lost = [outcome for outcome in outcomes if outcome.lost]
        assert len(lost) == 7 and {outcome.peer for outcome in lost} == {slow} and all(outcome.ok for outcome in lost)

    Desk(after_s=0.4).play(story)


def test_the_delay_is_learned_from_what_was_seen():
    async def story(stage):
        for number in range(1, 60):
            stage.typists[0].prefill_s = 0.5 if number <= 6 else 0.3
            await stage.ask(number)
        assert not stage.events.of(trace.RequestHedged)
        stage.typists[0].prefill_s = 20.0
        assert (await stage.ask(60))[-1].hedged
        (hedge,) = stage.events.of(trace.RequestHedged)
        # 53 took 0.34 s, with the frames' four ways of 10 ms, and 6 took 0.54 s; 95 of 100 are 57 of 59.
        assert hedge.after_s == pytest.approx(0.54, abs=1e-6)

    stage = Desk(after_s=1.0, tokens=2, every_s=0.01)
    stage.gateway.service.hedging.terms = replace(stage.gateway.service.hedging.terms, after_s=None)
    stage.play(story)


def test_without_hedging_a_silent_provider_is_waited_for():
    async def story(stage):
        stage.typists[0].prefill_s = 2.5
        final = (await stage.ask())[-1]
        assert (final.provider, final.attempts, final.hedged) == (stage.providers[0].peer_id, 1, False)

    Desk().play(story)


def test_a_failure_tells_that_there_was_a_hedge():
    async def story(stage):
        for typist in stage.typists:
            typist.prefill_s, typist.breaks_after = 1.0, 0
        (failure,) = await stage.ask()
        assert isinstance(failure, Failure) and (failure.hedged, failure.attempts, failure.paid_credits) == (True, 2, 0)

    Desk(after_s=0.4).play(story)


def test_a_world_hedges_within_its_share_and_its_rows_say_so():
    tour = Scenario.named("tour").replace(policy="random", load=0.5, hedge_share=0.1, hedge_after_s=0.5)
    result = World(tour, seed=1).run(progress=False)
    rows = result.requests
    hedged = rows[rows["hedged"]]
    assert 10 < len(hedged) <= 0.1 * len(rows) and not rows["resumed"].any()
    assert (hedged["attempts"] >= 2).all() and (rows["attempts"] == 1).any()
    # Each row names the provider that answered, so each provider's rows are what it completed.
    answered = rows[rows["outcome"] == "completed"].groupby("provider").size()
    completed = result.providers.set_index("provider")["completed"]
    assert answered.to_dict() == completed[completed > 0].to_dict()
    assert result.summary["credits_owed"] == result.summary["credits_paid"] and result.summary["evidence"] == 0


@pytest.mark.parametrize("numbers", [{"hedge_share": 1.5}, {"hedge_share": 0.1, "hedge_after_s": 0.0}], ids=str)
def test_a_scenario_refuses_hedges_that_make_no_sense(numbers):
    with pytest.raises(UsageError, match="hedg"):
        Scenario.named("tour").replace(**numbers)
