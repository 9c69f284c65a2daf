"""A provider's money through restarts, lost disks and power cuts: nothing acknowledged is lost, no channel forks.

A token costs 1,000 credits, a prompt token 100; an epoch is 10 s, a settlement round 1 s.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quiver import trace
from quiver.concerns import read_concerns
from quiver.errors import SettlementError
from quiver.ids import Address
from quiver.provider.restore import DONE, take
from quiver.provider.service import ProviderService
from quiver.provider.settler import Settler
from quiver.settlement.claims import ClaimPolicy
from quiver.trace import LedgerMoved
from quiver.values.frames import AskHeads, HeadsAnswer
from quiver.values.ledger import Claim, ClaimDirect, FinishExit, RequestExit, RotateSession
from quiver.values.request import Failure, Final
from quiver.wire.protocols import RECEIPTS
from sim.store import MemoryStore
from tests.scenarios.stage import MODEL, Stage

replace = msgspec.structs.replace
# Past the end of the epoch, its root and the round that claims.
EPOCH_S = 14.0


def claims(stage, kind=Claim | ClaimDirect):
    return [event.event for event in stage.events.of(LedgerMoved) if isinstance(event.event.transaction, kind)]


def paid(stage, provider=0):
    account = stage.providers[provider].signer.account
    return sum(state.paid for state in stage.contract.channel_states() if state.provider == account)


def assert_no_fork(stage):
    """Each seq of a channel was issued once, and no two acknowledgements speak about different histories."""
    issued = [(event.channel, event.seq) for event in stage.events.of(trace.ReceiptIssued)]
    assert len(issued) == len(set(issued)), "a seq was issued twice"
    signed = {(event.channel, event.seq): event.cum for event in stage.events.of(trace.ReceiptAcknowledged)}
    cums = {(event.channel, event.seq): event.cum for event in stage.events.of(trace.ReceiptIssued)}
    assert all(cums[key] == cum for key, cum in signed.items())


def restart(stage, provider=0, *, lose_disk=False):
    node = stage.providers[provider]
    node.crash()
    if lose_disk:
        node.store = MemoryStore()
    node.revive()
    stage.env.loop.create_task(node.start([], announce=False))
    return node


def test_a_restarted_provider_claims_what_it_had_earned_though_the_payer_never_comes_back():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(1.5)
        stage.gateway.crash()
        restart(stage)
        await stage.clock.sleep(EPOCH_S)
        (claim,) = claims(stage)
        assert isinstance(claim.transaction, Claim) and claim.paid == paid(stage) == 6_000

    Stage().play(story)


def test_with_an_empty_disk_it_goes_on_where_its_payer_says_and_claims_all():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(0.6)
        # The aggregator never heard of it: only the payer knows.
        stage.aggregator.crash()
        before = stage.channel().log.acknowledged
        assert before.cum == 6_000
        node = restart(stage, lose_disk=True)
        node.settler.policy = ClaimPolicy(age_s_max=5.0)
        await stage.clock.sleep(2.0)
        await stage.gateway.service.pool.prepare(MODEL)
        assert stage.channel().log.acknowledged == before
        assert isinstance((await stage.ask(2))[-1], Final)
        await stage.clock.sleep(10.0)
        assert stage.channel().log.acknowledged.cum == 12_000 == paid(stage)
        assert_no_fork(stage)

    Stage().play(story)


def test_a_receipt_taken_but_not_signed_for_when_the_provider_dies_is_signed_for_and_not_issued_again():
    async def story(stage):
        # Long between acknowledgements: the receipts of the first tokens are only in the gateway's memory.
        asking = stage.env.loop.create_task(stage.ask())
        await stage.clock.sleep(1.0)
        assert stage.channel().log.head.seq == 1 and stage.link().channel.log.last is None
        restart(stage, lose_disk=True)
        await asking
        await stage.clock.sleep(2.0)
        await stage.gateway.service.pool.prepare(MODEL)
        assert stage.channel().log.acknowledged.seq == 1
        await stage.ask(2)
        await stage.clock.sleep(30.0)
        assert stage.channel().exposure == 0
        assert_no_fork(stage)

    params = replace(Stage().params, acknowledge_interval_s=20.0)
    Stage(tokens=8, params=params).play(story)


def test_a_payer_that_hides_its_acknowledgement_from_an_empty_disk_gets_no_service_where_more_was_paid():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(EPOCH_S)
        assert paid(stage) == 6_000
        stage.aggregator.crash()
        restart(stage, lose_disk=True)
        stage.gateway.store._tables["payer_channels"].clear()
        await stage.clock.sleep(2.0)
        await stage.gateway.service.pool.prepare(MODEL)
        assert stage.link().channel.log.last is None
        assert isinstance((await stage.ask(2))[-1], Failure)
        assert stage.channel().log.head.seq == 0
        assert_no_fork(stage)

    Stage().play(story)


@pytest.mark.parametrize("moment", range(16))
@pytest.mark.parametrize("victim", ["provider", "gateway", "aggregator"])
def test_power_cuts_between_signing_storing_and_acknowledging_lose_nothing_that_was_signed_for(victim, moment):
    async def story(stage):
        asking = stage.env.loop.create_task(stage.ask())
        # Receipts at about 0.86 and 1.3 s of the request, acknowledged 0.25 s later, durable 2 ms after each step.
        await stage.clock.sleep(0.84 + moment * 0.0517)
        node = {"provider": stage.providers[0], "gateway": stage.gateway, "aggregator": stage.aggregator}[victim]
        if victim == "provider":
            restart(stage)
        elif victim == "gateway":
            asking.cancel()
            node.crash()
        else:
            node.crash()
        await asyncio.gather(asking, return_exceptions=True)
        await stage.clock.sleep(3.0)
        if victim != "gateway":
            await stage.gateway.service.pool.prepare(MODEL)
            assert isinstance((await stage.ask(2))[-1], Final)
        await stage.clock.sleep(EPOCH_S)
        stage.providers[0].settler.policy = ClaimPolicy(age_s_max=0.5)
        await stage.clock.sleep(5.0)
        signed = max((event.cum for event in stage.events.of(trace.ReceiptAcknowledged)), default=0)
        held = [channel.log.acknowledged.cum for channel in stage.providers[0].service.channels.values()]
        # A gateway that dies with its signature durable and not sent has to come back; nobody else's death costs a credit.
        assert paid(stage) == max(held, default=0) and (victim == "gateway" or paid(stage) == signed)
        assert_no_fork(stage)

    Stage(tokens=8).play(story)


def test_a_leaving_payer_is_claimed_directly_before_its_exit_is_over():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(1.0)
        channel = stage.channel().state.channel
        await stage.gateway.runtime.ledger.submit(RequestExit(sender=stage.gateway.signer.account, channel=channel))
        await stage.clock.sleep(2.0)
        (claim,) = claims(stage)
        assert isinstance(claim.transaction, ClaimDirect) and claim.paid == 6_000
        assert stage.providers[0].settler.health is None

    Stage().play(story)


def test_an_exit_that_cannot_be_answered_is_warned_of_and_said_once():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(1.0)
        node = stage.providers[0]
        channel, submit = stage.channel().state.channel, node.runtime.ledger.submit

        async def refuse(transaction):
            await stage.clock.sleep(0.1)
            raise SettlementError("nothing_due", "the chain refuses everything")

        node.runtime.ledger.submit = refuse
        await stage.gateway.runtime.ledger.submit(RequestExit(sender=stage.gateway.signer.account, channel=channel))
        await stage.clock.sleep(5.0)
        (warned,) = stage.events.of(trace.SettlementWarned)
        assert "6000 credits" in warned.detail and node.settler.health == warned.detail
        node.runtime.ledger.submit = submit
        await stage.clock.sleep(2.0)
        assert node.settler.health is None and paid(stage) == 6_000

    Stage().play(story)


def test_a_claim_that_was_lost_is_no_concern_once_its_channel_is_closed():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(1.0)
        node, payer = stage.providers[0], stage.gateway.signer.account
        channel, ledger = stage.channel().state.channel, stage.gateway.runtime.ledger

        async def refuse(transaction):
            await stage.clock.sleep(0.1)
            raise SettlementError("nothing_due", "the chain refuses everything")

        node.runtime.ledger.submit = refuse
        await ledger.submit(RequestExit(sender=payer, channel=channel))
        await stage.clock.sleep(stage.params.exit_delay_s)
        assert "6000 credits" in node.settler.health
        await stage.clock.sleep(1.0)
        # In the store too, for whoever looks while the node is down.
        assert ["6000 credits" in one.detail for one in read_concerns(node.runtime.store).concerns] == [True]
        await ledger.submit(FinishExit(sender=payer, channel=channel))
        await stage.clock.sleep(2.0)
        assert paid(stage) == 0 and node.settler.health is None
        assert read_concerns(node.runtime.store).concerns == []

    Stage(params=replace(Stage().params, exit_delay_s=40.0)).play(story)


def test_what_the_old_key_signed_is_claimed_before_the_key_goes():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(1.0)
        channel, account = stage.channel().state.channel, stage.gateway.signer.account
        rotate = RotateSession(sender=account, channel=channel, session=stage.providers[0].signer.session_address)
        await stage.gateway.runtime.ledger.submit(rotate)
        await stage.clock.sleep(2.0)
        (claim,) = claims(stage)
        assert isinstance(claim.transaction, ClaimDirect) and claim.paid == 6_000

    Stage().play(story)


def test_a_payer_changes_its_session_key_and_every_credit_before_and_after_is_paid():
    async def story(stage):
        signer = stage.gateway.signer
        await stage.ask()
        await stage.clock.sleep(1.0)
        channel = stage.channel().state.channel
        new = signer.next_session(signer.session_address)
        await stage.gateway.runtime.ledger.submit(RotateSession(sender=signer.account, channel=channel, session=new))
        rotated = stage.contract.channel(channel).rotates_at_ms
        # The old key is honoured until then.
        await stage.ask(2)
        await stage.clock.sleep((rotated - stage.clock.utc_ms()) / 1000 - 1.0)
        assert paid(stage) == 12_000
        await stage.clock.sleep(2.0)
        await stage.ask(3)
        # Its provider starts anew, and meets a payer that signs with the new key.
        restart(stage)
        await stage.clock.sleep(2.0)
        await stage.gateway.service.pool.prepare(MODEL)
        await stage.ask(4)
        await stage.clock.sleep(2 * EPOCH_S)
        assert paid(stage) == 24_000 and stage.providers[0].settler.refusals == 0
        assert len(list(stage.contract.channel_states())) == 1
        assert not stage.events.of(trace.EvidenceRecorded)
        assert_no_fork(stage)

    Stage(params=replace(Stage().params, exit_delay_s=20.0, clock_skew_ms_max=1_000)).play(story)


def test_what_an_old_key_signed_and_nobody_claimed_is_signed_for_again_by_the_new_one():
    async def story(stage):
        signer = stage.gateway.signer
        await stage.ask()
        await stage.clock.sleep(1.0)
        channel = stage.channel().state.channel
        new = signer.next_session(signer.session_address)
        # The provider sleeps through the whole delay.
        node = stage.providers[0]
        node.crash()
        await stage.gateway.runtime.ledger.submit(RotateSession(sender=signer.account, channel=channel, session=new))
        await stage.clock.sleep(25.0)
        assert paid(stage) == 0
        node.revive()
        node.settler.policy = ClaimPolicy(age_s_max=5.0)
        await node.start([], announce=False)
        await stage.clock.sleep(2.0)
        await stage.gateway.service.pool.prepare(MODEL)
        await stage.clock.sleep(2 * EPOCH_S)
        assert paid(stage) == 6_000
        assert_no_fork(stage)

    Stage(params=replace(Stage().params, exit_delay_s=20.0, clock_skew_ms_max=1_000)).play(story)


def test_what_no_aggregator_commits_is_claimed_directly_once_it_is_old():
    async def story(stage):
        stage.aggregator.crash()
        stage.providers[0].settler.policy = ClaimPolicy(age_s_max=20.0)
        await stage.ask()
        await stage.clock.sleep(19.0)
        assert claims(stage) == []
        # Its age is durable.
        restart(stage).settler.policy = ClaimPolicy(age_s_max=20.0)
        await stage.clock.sleep(4.0)
        (claim,) = claims(stage)
        assert isinstance(claim.transaction, ClaimDirect) and claim.paid == 6_000

    Stage().play(story)


def test_channels_pay_the_payout_account_and_those_of_before_are_still_served_and_claimed():
    cold = Address(b"\x99" * 20)

    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(1.0)
        # The operator names a payout account, and starts the node again.
        node = stage.providers[0]
        node.crash()
        node.revive()
        service = ProviderService(
            node.runtime, node.service.backend, node.served, slots=2, queue_max=2, payout=cold
        )  # fmt: skip
        node.service, node.settler = (
            service,
            Settler(
                node.runtime, service.channels, stage.aggregator.peer_id, poster=stage.contract.aggregator, payout=cold
            ),
        )
        await node.start([], announce=False)
        await stage.clock.sleep(EPOCH_S)
        assert paid(stage) == 6_000
        await stage.clock.sleep(stage.params.discovery_refresh_s)
        await stage.gateway.service.pool.prepare(MODEL)
        assert isinstance((await stage.ask(2))[-1], Final)
        await stage.clock.sleep(2 * EPOCH_S)
        states = {state.provider: state.paid for state in stage.contract.channel_states()}
        assert states == {node.signer.account: 6_000, cold: 6_000} and stage.contract.balance(cold) == 6_000

    Stage().play(story)


def test_what_the_aggregator_holds_of_a_lost_disk_comes_back_and_is_claimed_without_any_payer():
    async def story(stage):
        await stage.ask()
        # Handed in, and the epoch is still open: nobody but the aggregator and the payer knows.
        await stage.clock.sleep(2.5)
        before = stage.channel().log.last
        assert before.cum == 6_000 and claims(stage) == []
        stage.gateway.crash()
        node = restart(stage, lose_disk=True)
        node.settler.policy = ClaimPolicy(age_s_max=5.0)
        await stage.clock.sleep(10.0)
        assert stage.channel().log.last == before and stage.channel().log.head.seq == before.seq
        (claim,) = claims(stage)
        assert isinstance(claim.transaction, ClaimDirect) and claim.paid == 6_000
        assert_no_fork(stage)

    Stage().play(story)


def test_after_a_lost_disk_the_aggregator_takes_what_follows_what_it_had():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(2.5)
        restart(stage, lose_disk=True)
        await stage.clock.sleep(3.0)
        await stage.gateway.service.pool.prepare(MODEL)
        await stage.ask(2)
        await stage.clock.sleep(2 * EPOCH_S)
        assert paid(stage) == 12_000 and stage.providers[0].settler.refusals == 0
        assert all(isinstance(claim.transaction, Claim) for claim in claims(stage))
        assert_no_fork(stage)

    Stage().play(story)


def test_with_an_empty_disk_and_no_payer_it_learns_from_the_aggregator_what_it_is_owed():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(1.5)
        genuine = stage.channel().log.last
        forged = replace(genuine, cum=genuine.cum + 1)
        stranger = replace(genuine, channel=bytes(32))
        pages = {None: ((stranger, forged), True), genuine.channel: ((genuine,), False)}
        asked = []

        async def serve(stream):
            while (frame := await stream.receive()) is not None:
                asked.append(frame)
                acknowledgements, more = pages[frame.after]
                await stream.send(HeadsAnswer(acknowledgements=acknowledgements, more=more))
            stream.finish()

        stage.gateway.crash()
        stage.aggregator.runtime.transport.serve(RECEIPTS, serve)
        node = restart(stage, lose_disk=True)
        node.settler.policy = ClaimPolicy(age_s_max=3.0)
        await stage.clock.sleep(10.0)
        (claim,) = claims(stage)
        assert isinstance(claim.transaction, ClaimDirect) and claim.paid == paid(stage) == 6_000
        assert stage.channel().log.last == genuine
        assert [frame for frame in asked if isinstance(frame, AskHeads)] == [
            AskHeads(after=None),
            AskHeads(after=genuine.channel),
        ]
        assert node.store.get(*DONE) == b"1"

    Stage().play(story)


def test_what_the_aggregator_knows_is_claimed_though_a_payer_came_first_and_told_less():
    async def story(stage):
        await stage.ask()
        await stage.clock.sleep(1.5)
        genuine = stage.channel().log.last
        # Nothing was claimed yet, so nothing on the ledger betrays a payer that lost, or hides, its own memory.
        stage.aggregator.crash()
        node = restart(stage, lose_disk=True)
        stage.gateway.store._tables["payer_channels"].clear()
        await stage.clock.sleep(2.0)
        await stage.gateway.service.pool.prepare(MODEL)
        await stage.ask(2, max_tokens=1)
        await stage.clock.sleep(1.5)
        channel = stage.channel()
        assert channel.log.acknowledged.seq > 0 and channel.log.last != genuine
        before = paid(stage)
        await take(node.runtime, node.service.channels, genuine, payout=node.signer.account)
        assert paid(stage) == max(before, 6_000) == 6_000

    Stage().play(story)
