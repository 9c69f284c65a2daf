"""A provider at the ledger's court: an aggregator that drops a leaf, lies about a root, or whose true leaf is doubted.

A slash is 100 credits, so a bond is 2,000 and a stake 10; roots can be challenged for 20 s and answered for 5 s.
"""

from __future__ import annotations

import msgspec

from quiver import trace
from quiver.identity.signing import COMMITMENT_TAG, PROMISE_TAG, commitment_digest, promise_digest
from quiver.ids import Address, compute_domain
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.trace import LedgerMoved
from quiver.values.frames import AskProof, Ingested, ProofAnswer, SubmitReceipts
from quiver.values.ledger import (
    AnswerLeaf,
    ChallengeLeaf,
    ChallengeOmission,
    Claim,
    Commitment,
    Deposit,
    Fault,
    Finalize,
    Leaf,
    Promise,
    ProveBadHead,
    SubmitEpoch,
    Verdict,
)
from quiver.wire.protocols import RECEIPTS
from tests.scenarios.stage import CHAIN_ID, HUB, Stage

replace = msgspec.structs.replace
PARAMS = replace(Stage().params, slash_credits=100, exit_delay_s=40.0)
STAKE, BOND = 10, 2_000
NOBODY = Address(b"\x77" * 20)


class Aggregator:
    """By hand: promises what it is given, and commits what the story says. `keeps` False: the leaf is another's."""

    def __init__(self, stage, *, keeps=True, speaks=True):
        self.stage, self.keeps, self.speaks = stage, keeps, speaks
        self.signer, self.acks = stage.aggregator.signer, {}
        self.shown = None
        "A commitment to hand out instead of the posted one."
        stage.aggregator.crash()
        stage.aggregator.revive()
        stage.aggregator.runtime.transport.serve(RECEIPTS, self.serve)

    async def fund(self, credits):
        """The provider's account; the aggregator has bonded with its first life."""
        assert self.stage.contract.bond(self.signer.account).amount == BOND
        if credits:
            provider = self.stage.providers[0]
            await provider.runtime.ledger.submit(Deposit(sender=provider.signer.account, amount=credits))

    async def serve(self, stream):
        while (frame := await stream.receive()) is not None:
            if isinstance(frame, SubmitReceipts):
                ack = frame.acknowledgement
                epoch = self.stage.clock.utc_ms() // PARAMS.epoch_ms
                self.acks[epoch] = ack
                promise = Promise(
                    epoch=epoch, channel=ack.channel, cum=ack.cum, seq=ack.seq, head=ack.head, signature=b""
                )
                digest = promise_digest(compute_domain(PROMISE_TAG, CHAIN_ID, HUB), promise)
                promise = replace(promise, signature=await self.signer.sign_session(digest))
                await stream.send(
                    Ingested(batch_id=frame.batch_id, epoch=epoch, accepted=1, duplicates=0, promise=promise)
                )
            elif not self.speaks:
                await self.stage.clock.sleep(1e6)
            elif isinstance(frame, AskProof):
                await stream.send(await self.prove(frame))
            else:
                stream.reset(1)
                return
        stream.finish()

    def tree(self, epoch):
        ack = self.acks[epoch]
        leaf = Leaf(epoch=epoch, channel=ack.channel, cum=ack.cum, seq=ack.seq, head=ack.head)
        if not self.keeps:
            leaf = replace(leaf, channel=bytes(32))
        return leaf, MerkleTree([hash_leaf(leaf)])

    async def post(self):
        """The root of the epoch that just ended."""
        (epoch,) = self.acks
        _, tree = self.tree(epoch)
        await self.stage.clock.sleep(((epoch + 1) * PARAMS.epoch_ms - self.stage.clock.utc_ms()) / 1000)
        commitment = Commitment(epoch=epoch, root=tree.root, count=1)
        await self.stage.aggregator.runtime.ledger.submit(
            SubmitEpoch(sender=self.signer.account, commitment=commitment)
        )
        return epoch, commitment

    async def prove(self, frame):
        leaf, tree = self.tree(frame.epoch)
        commitment = self.shown or Commitment(epoch=frame.epoch, root=tree.root, count=1)
        digest = commitment_digest(compute_domain(COMMITMENT_TAG, CHAIN_ID, HUB), commitment)
        return ProofAnswer(
            epoch=frame.epoch, channel=frame.channel, commitment=commitment, leaf=leaf if self.keeps else None,
            proof=tree.proof(0) if self.keeps else None, acknowledgement=self.acks[frame.epoch] if self.keeps else None,
            signature=await self.signer.sign_session(digest),
        )  # fmt: skip


def moves(stage, kind):
    return [event.event for event in stage.events.of(LedgerMoved) if isinstance(event.event.transaction, kind)]


def free(stage):
    return stage.contract.balance(stage.providers[0].signer.account)


def test_a_dropped_leaf_is_accused_and_the_bond_pays():
    async def story(stage):
        aggregator = Aggregator(stage, keeps=False)
        await aggregator.fund(STAKE)
        await stage.ask()
        await stage.clock.sleep(3.0)
        await aggregator.post()
        await stage.clock.sleep(3.0)
        (accused,) = moves(stage, ChallengeOmission)
        assert accused.transaction.promise.channel == stage.channel().state.channel and free(stage) == 0
        await stage.clock.sleep(5.0)
        (finalized,) = moves(stage, Finalize)
        assert (finalized.paid, finalized.refunded, finalized.slashed) == (50, STAKE, 100)
        assert free(stage) == STAKE + 50
        assert stage.contract.bond(aggregator.signer.account).amount == BOND - 100
        await stage.clock.sleep(5.0)
        assert stage.providers[0].settler.watcher.docket.promises == [] and len(moves(stage, ChallengeOmission)) == 1

    Stage(params=PARAMS).play(story)


def test_a_promise_from_before_the_provider_saw_the_bond_is_accused_all_the_same():
    async def story(stage):
        aggregator, provider = Aggregator(stage, keeps=False), stage.providers[0]
        await aggregator.fund(STAKE)
        # Its view of the ledger is behind the aggregator's while the promise comes.
        provider.runtime.ledger.bond = lambda account: None
        await stage.ask()
        await stage.clock.sleep(3.0)
        docket = provider.settler.watcher.docket
        assert docket.promises == [] and len(docket.unchecked) == 1
        del provider.runtime.ledger.bond
        await aggregator.post()
        await stage.clock.sleep(3.0)
        assert docket.unchecked == [] and len(moves(stage, ChallengeOmission)) == 1
        await stage.clock.sleep(5.0)
        assert free(stage) == STAKE + 50

    Stage(params=PARAMS).play(story)


def test_a_stake_that_is_not_there_is_warned_of_and_paid_once_it_is():
    async def story(stage):
        aggregator = Aggregator(stage, keeps=False)
        await aggregator.fund(0)
        await stage.ask()
        await stage.clock.sleep(3.0)
        await aggregator.post()
        await stage.clock.sleep(3.0)
        settler, provider = stage.providers[0].settler, stage.providers[0]
        assert moves(stage, ChallengeOmission) == [] and f"needs {STAKE} free credits" in settler.health
        await provider.runtime.ledger.submit(Deposit(sender=provider.signer.account, amount=STAKE))
        await stage.clock.sleep(2.0)
        assert len(moves(stage, ChallengeOmission)) == 1 and settler.health is None
        assert len(stage.events.of(trace.SettlementWarned)) == 1

    Stage(params=PARAMS).play(story)


def test_a_kept_promise_is_never_accused():
    async def story(stage):
        aggregator = Aggregator(stage)
        await aggregator.fund(STAKE)
        await stage.ask()
        await stage.clock.sleep(3.0)
        await aggregator.post()
        await stage.clock.sleep(10.0)
        assert moves(stage, ChallengeOmission) == [] and [claim.paid for claim in moves(stage, Claim)] == [6_000]
        assert stage.providers[0].settler.watcher.docket.promises == []

    Stage(params=PARAMS).play(story)


def test_an_aggregator_that_falls_silent_is_accused_after_half_the_window():
    async def story(stage):
        aggregator = Aggregator(stage, keeps=False)
        await aggregator.fund(STAKE)
        await stage.ask()
        await stage.clock.sleep(3.0)
        aggregator.speaks = False
        await aggregator.post()
        await stage.clock.sleep(8.5)
        assert moves(stage, ChallengeOmission) == []
        await stage.clock.sleep(4.0)
        assert len(moves(stage, ChallengeOmission)) == 1

    Stage(params=replace(PARAMS, request_timeout_s=2.0)).play(story)


def test_another_root_signed_off_the_chain_is_proven_at_once():
    async def story(stage):
        aggregator = Aggregator(stage)
        await aggregator.fund(0)
        await stage.ask()
        await stage.clock.sleep(3.0)
        epoch = next(iter(aggregator.acks))
        aggregator.shown = Commitment(epoch=epoch, root=bytes(32), count=1)
        await aggregator.post()
        await stage.clock.sleep(3.0)
        (proven,) = moves(stage, ProveBadHead)
        assert (proven.paid, proven.slashed) == (50, 100)

    Stage(params=PARAMS).play(story)


def test_a_doubted_leaf_of_ours_is_answered_also_after_a_restart_and_earns_the_stake():
    async def story(stage):
        aggregator = Aggregator(stage)
        await aggregator.fund(0)
        await stage.ask()
        await stage.clock.sleep(3.0)
        epoch, _ = await aggregator.post()
        await stage.clock.sleep(2.0)
        before = free(stage)
        leaf, tree = aggregator.tree(epoch)
        node = stage.providers[0]
        node.crash()
        challenge = ChallengeLeaf(sender=aggregator.signer.account, leaf=leaf, proof=tree.proof(0))
        await stage.aggregator.runtime.ledger.submit(Deposit(sender=aggregator.signer.account, amount=STAKE))
        await stage.aggregator.runtime.ledger.submit(challenge)
        node.revive()
        await node.start([], announce=False)
        await stage.clock.sleep(3.0)
        (answered,) = moves(stage, AnswerLeaf)
        assert answered.paid == STAKE and free(stage) == before + STAKE
        assert stage.contract.challenge(Fault.LEAF, epoch, hash_leaf(leaf)).verdict is Verdict.ANSWERED
        await stage.clock.sleep(3.0)
        assert node.settler.watcher.docket.challenged == [] and node.settler.health is None

    Stage(params=PARAMS).play(story)
