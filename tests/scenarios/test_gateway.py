"""Stories of a gateway's pool: empty answers, channels with two histories, probes a policy wants, dials that are shared."""

from __future__ import annotations

import asyncio

import pytest

from quiver import trace
from quiver.errors import UsageError, WireCode
from quiver.gateway import pool
from quiver.params import Params
from quiver.values import frames
from quiver.values.backend import Piece
from quiver.values.decision import Decision, Scored
from quiver.values.ledger import ClaimDirect, OpenChannel
from quiver.values.receipt import ChannelHead
from quiver.values.request import Failure, Final
from quiver.wire.protocols import INFERENCE, OFFER
from sim.transport import SimTransport
from tests.scenarios.stage import MODEL, InOrder, Stage
from tests.scenarios.wire import WireStage, instead

# Exits are over in seconds instead of two days.
PATIENT = Params(
    receipt_every_tokens=4, first_credit=1_000_000, credit_limit_max=2_000_000, channel_deposit_credits=4_000_000,
    unproven_credit_max=8_000_000, load_refresh_s=2.0, receipts_interval_s=1.0, epoch_ms=10_000, exit_delay_s=20.0,
)  # fmt: skip
# The regular questions don't fall into these stories.
QUIET = Params(first_credit=1_000_000, load_refresh_s=1_000.0, discovery_refresh_s=1_000.0)


# ---- an empty answer


async def mute(request):
    """An engine that ends at once: no text, one end-of-sequence step, as Ollama counts it."""
    yield Piece(text="", tokens=0, prompt_tokens=10, done_reason="stop", completion_tokens=1)


def test_an_empty_answer_is_an_answer_that_costs_nothing():
    async def story(stage):
        stage.typists[0].generate = mute
        (final,) = await stage.ask(max_tokens=10)
        assert isinstance(final, Final) and (final.done_reason, final.attempts) == ("stop", 1)
        assert final.receipt is None and final.acknowledgement is None
        assert (final.paid_credits, final.completion_tokens, final.quoted_credits) == (0, 0, 84 * 100 + 12 * 1_000)
        await stage.clock.sleep(1.0)
        assert [event.outcome for event in stage.events.of(trace.RequestFinished)] == ["completed"]
        assert not stage.events.of(trace.ReceiptIssued) and not stage.events.of(trace.EvidenceRecorded)
        # What was quoted is free again at both ends.
        assert stage.channel().exposure == 0 and stage.channel().log.head == ChannelHead()
        assert stage.link().channel.available == 4_000_000
        assert stage.providers[0].service.admission.admitted == stage.gateway.service.admission.open == 0

    Stage().play(story)


def test_a_provider_of_empty_answers_does_not_look_fast_and_is_left_for_another():
    async def story(stage):
        stage.typists[0].generate = mute
        for number in range(1, 6):
            assert (await stage.ask(number))[-1].provider == stage.providers[0].peer_id
        table, now = stage.gateway.service.table, stage.clock.now()
        assert table.is_ejected(stage.providers[0].peer_id, now)
        (candidate,) = table.candidates(MODEL, now)
        assert candidate.peer == stage.providers[1].peer_id and candidate.ttft_ewma_s is None
        assert (await stage.ask(6))[-1].completion_tokens == 5

    Stage(providers=2).play(story)


def test_an_engine_that_overshoots_is_paid_within_the_quote_and_nobody_is_blamed():
    async def story(stage):
        # It types 5 tokens where one was asked for; with the slack of two, 3 are quoted.
        events = await stage.ask(max_tokens=1)
        final = events[-1]
        assert isinstance(final, Final) and len(events) == 6
        assert (final.completion_tokens, final.paid_credits) == (3, 10 * 100 + 3 * 1_000)
        assert stage.link().up and not stage.events.of(trace.EvidenceRecorded)

    Stage().play(story)


# ---- a channel with two histories


def opened(stage):
    """Channels the gateway opened to the hostile node, oldest first."""
    return [
        event.channel
        for event in stage.chain.events
        if isinstance(event.transaction, OpenChannel) and event.transaction.provider == stage.hostile.signer.account
    ]


async def reconnect(stage):
    """The hostile node drops its connection; the gateway dials again as it does for any provider."""
    link = stage.gateway.service.purse.links[stage.hostile.peer_id]
    link._stream.reset(0)
    await stage.clock.sleep(0.5)
    assert stage.gateway.service.purse.link(stage.hostile.peer_id) is None
    await stage.gateway.service.pool.prepare(MODEL)


def test_a_reconnected_provider_keeps_its_channel():
    async def story(stage):
        await stage.hostile.sell()
        assert (await stage.ask(1))[-1].paid_credits == 2_000
        await stage.clock.sleep(1.0)
        await reconnect(stage)
        assert (await stage.ask(2))[-1].provider == stage.hostile.peer_id
        assert len(opened(stage)) == 1
        assert stage.gateway.service.purse.links[stage.hostile.peer_id].channel.log.head.cum == 4_000

    WireStage().play(story)


def test_a_provider_with_another_history_gets_what_was_signed_and_a_new_channel():
    async def story(stage):
        hostile, purse = stage.hostile, stage.gateway.service.purse
        await hostile.sell()
        assert (await stage.ask(1))[-1].paid_credits == 2_000
        await stage.clock.sleep(1.0)
        old = purse.links[hostile.peer_id].channel
        signed = old.log.last
        assert signed.cum == 2_000
        # Its disk was set back: it stands where it once stood, and signs another first receipt.
        hostile.tamper = {frames.Authorised: instead(head=ChannelHead())}
        await reconnect(stage)
        hostile.tamper = {}
        assert purse.link(hostile.peer_id) is None
        (evidence,) = [event for event in stage.events.of(trace.EvidenceRecorded) if event.peer == hostile.peer_id]
        assert evidence.kind == "ReceiptMismatch" and "abandoned" in evidence.detail
        # The rest is asked back, and the highest acknowledgement still pays the provider.
        await purse.leave()
        assert stage.contract.channel(old.state.channel).exit_at_ms is not None
        await stage.chain.view(hostile.signer.account, hostile.peer_id).submit(
            ClaimDirect(sender=hostile.signer.account, acknowledgement=signed)
        )
        assert stage.contract.balance(hostile.signer.account) == 2_000
        await stage.clock.sleep(stage.params.exit_delay_s)
        await purse.leave()
        await purse.leave()
        closed = stage.contract.channel(old.state.channel)
        assert closed.closed and not list(stage.gateway.store.scan("gateway_exits"))
        # Asked again, it serves on a channel of its own; that one is the second and the last.
        await stage.gateway.service.pool.prepare(MODEL)
        final = (await stage.ask(2))[-1]
        assert isinstance(final, Final) and final.provider == hostile.peer_id
        assert opened(stage) == [old.state.channel, purse.links[hostile.peer_id].channel.state.channel]

    WireStage(params=PATIENT).play(story)


def test_a_provider_whose_history_never_fits_binds_no_deposit_after_deposit():
    async def story(stage):
        stage.hostile.tamper = {frames.Authorised: instead(head=ChannelHead(seq=1, cum=1, head=b"\x01" * 32))}
        await stage.hostile.sell()
        for _ in range(5):
            await stage.gateway.service.pool.prepare(MODEL)
        assert len(opened(stage)) <= 2

    WireStage().play(story)


# ---- probes a policy wants


class Curious(InOrder):
    """Wants to hear from everybody whenever it chooses."""

    def probes(self, *, now, rng):
        return self.order


def count_questions(stage):
    """Offer questions that reached each provider since now."""
    counts = [0] * len(stage.providers)
    for number, node in enumerate(stage.providers):
        transport = node.runtime.transport
        answer = transport.answers[OFFER.id]

        def counted(peer, question, number=number, answer=answer):
            counts[number] += 1
            return answer(peer, question)

        transport.answer(OFFER, counted)
    return counts


def be_curious(stage):
    policy = Curious()
    policy.order = stage.gateway.policy.order
    stage.gateway.service.policy = policy


def test_probes_a_policy_wants_are_sent_beside_the_request_and_their_answers_count():
    async def story(stage):
        be_curious(stage)
        table = stage.gateway.service.table
        admission, utc_ms = stage.providers[1].service.admission, stage.clock.utc_ms()
        for number in (b"1", b"2"):
            admission.check(b"another channel", number, deadline_ms=utc_ms + 60_000, utc_ms=utc_ms)
        counts = count_questions(stage)
        task = asyncio.ensure_future(stage.ask(1))
        await stage.clock.sleep(0.1)
        assert counts == [1, 1, 1]
        other = {candidate.peer: candidate for candidate in table.candidates(MODEL, stage.clock.now())}
        assert other[stage.providers[1].peer_id].reported_queued == 2
        assert isinstance((await task)[-1], Final)
        for number in (b"1", b"2"):
            admission.on_end(b"another channel", number)

    Stage(providers=3, params=QUIET).play(story)


def test_one_probe_a_peer_at_a_time_and_no_more_than_the_bound(monkeypatch):
    monkeypatch.setattr(pool, "PROBES_MAX", 2)

    async def story(stage):
        peers = [node.peer_id for node in stage.providers]
        counts = count_questions(stage)
        for _ in range(5):
            stage.gateway.service.pool.probe(peers)
        await stage.clock.sleep(0.1)
        assert counts == [1, 1, 0, 0]
        # Answered: their places are free again.
        stage.gateway.service.pool.probe(list(reversed(peers)))
        await stage.clock.sleep(0.1)
        assert counts == [1, 1, 1, 1]

    Stage(providers=4, params=QUIET).play(story)


def test_a_silent_peer_holds_one_place_until_its_question_runs_out(monkeypatch):
    monkeypatch.setattr(pool, "PROBES_MAX", 1)

    async def story(stage):
        silent, other = (node.peer_id for node in stage.providers)
        stage.providers[0].runtime.transport.crash()
        counts = count_questions(stage)
        probe = stage.gateway.service.pool.probe
        probe([silent, other])
        await stage.clock.sleep(stage.params.rpc_timeout_s - 0.1)
        probe([other])
        await stage.clock.sleep(0.05)
        assert counts == [0, 0]
        await stage.clock.sleep(0.2)
        probe([other])
        await stage.clock.sleep(0.1)
        assert counts == [0, 1]

    Stage(providers=2, params=QUIET).play(story)


# ---- dials


@pytest.fixture
def dials(monkeypatch):
    """Peers that inference streams were opened to."""
    opened, plain = [], SimTransport.open

    async def counted(self, peer, protocol, *, timeout_s):
        if protocol.id == INFERENCE.id:
            opened.append(peer)
        return await plain(self, peer, protocol, timeout_s=timeout_s)

    monkeypatch.setattr(SimTransport, "open", counted)
    return opened


async def lose_links(stage):
    for link in list(stage.gateway.service.purse.links.values()):
        link._stream.reset(0)
    await stage.clock.sleep(0.5)
    assert not stage.gateway.service.purse.links


def test_requests_that_want_one_peer_share_its_dial(dials):
    async def story(stage):
        await lose_links(stage)
        dials.clear()
        answers = await asyncio.gather(*(stage.ask(number) for number in range(1, 4)))
        assert [answer[-1].paid_credits for answer in answers] == [6_000] * 3
        assert dials == [stage.providers[0].peer_id]
        assert len([event for event in stage.chain.events if isinstance(event.transaction, OpenChannel)]) == 1

    Stage(slots=4).play(story)


def test_a_dial_goes_on_when_the_first_who_asked_has_left(dials):
    async def story(stage):
        await lose_links(stage)
        dials.clear()
        first = asyncio.ensure_future(stage.ask(1))
        await stage.clock.sleep(0.005)
        second = asyncio.ensure_future(stage.ask(2))
        await stage.clock.sleep(0.001)
        first.cancel()
        assert isinstance((await second)[-1], Final)
        assert first.cancelled() and dials == [stage.providers[0].peer_id]

    Stage().play(story)


def test_a_failed_dial_frees_everyone_who_waited_for_it(dials):
    async def story(stage):
        node = stage.providers[0]
        await lose_links(stage)
        node.crash()
        dials.clear()
        answers = await asyncio.gather(stage.ask(1), stage.ask(2))
        for (failure,) in answers:
            assert isinstance(failure, Failure) and failure.attempts == 1 and failure.delivered_tokens == 0
        assert dials == [node.peer_id] and stage.gateway.service.admission.open == 0
        node.revive()
        await node.start([], announce=False)
        assert isinstance((await stage.ask(3))[-1], Final)

    Stage().play(story)


def test_a_provider_that_dies_while_it_is_dialled_is_nobodys_fault():
    async def story(stage):
        await lose_links(stage)
        stage.providers[0].crash()
        (failure,) = await stage.ask(1)
        # As for a connection that is lost later; 'stream reset, code 0x0' tells a client nothing.
        assert failure.code == WireCode.RESOURCE_LIMIT and "connection" in failure.message

    Stage().play(story)


class Blind(InOrder):
    """Chooses a peer that nobody offered."""

    def choose(self, request, candidates, *, now, rng):
        return Decision(ranked=(Scored(peer=b"nobody", score=0.0, reason=""),), policy=self.name)


def test_a_policy_that_breaks_its_contract_stops_the_run_instead_of_failing_requests():
    async def story(stage):
        stage.gateway.service.policy = Blind()
        with pytest.raises(UsageError, match="not a candidate"):
            await stage.ask(1)
        assert stage.gateway.service.admission.open == 0

    Stage().play(story)
