"""Promises and answers of an aggregator that has bonded: all are checked with the ledger's own eyes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from quiver.aggregator import answers
from quiver.aggregator.published import decode_manifest
from quiver.errors import BadSignature, PeerError, WireCode
from quiver.ids import ChannelId
from quiver.params import Params
from quiver.receipts.promises import verify_commitment, verify_promise
from quiver.settlement.challenges import subject_of_omission
from quiver.settlement.channels import leaf_of
from quiver.settlement.merkle import hash_leaf
from quiver.settlement.multiproof import verify_many
from quiver.values.frames import AskBatch, AskContent, AskEpoch, AskHeads, AskProof, HeadsAnswer, Refused
from quiver.values.ledger import (
    AnswerLeaf,
    AnswerOmission,
    ChallengeLeaf,
    ChallengeOmission,
    ClaimBatch,
    Deposit,
    Fault,
    Finalize,
    Promise,
    SignedCommitment,
    Verdict,
)
from sim.signer import SimSigner
from tests.unit.aggregator.test_service import World

# A slash of 100: bonds of 2,000, stakes of 10; accused within 10 s of the root, answered within 2.5 s.
PARAMS = msgspec.structs.replace(Params.minimal(), slash_credits=100)


class Bonded:
    """A world whose aggregator runs and has its bond, with `count` channels of one provider."""

    def __init__(self, count=1):
        self.world = world = World(PARAMS)
        self.ask, self.clock, self.ledger, self.contract = world.ask, world.clock, world.ledger, world.contract
        account = world.signer.account
        world.apply(Deposit(sender=account, amount=2500))
        self.histories = [world.history, *(world.open(nonce) for nonce in range(1, count))]

    async def hand_in(self, first=1, last=2):
        return await self.ask(*(self.world.batch(first, last, history=history) for history in self.histories))

    def epoch(self):
        return self.clock.utc_ms() // PARAMS.epoch_ms


def tell(story, **how):
    bonded = Bonded(**how)

    async def main():
        runner = asyncio.get_running_loop().create_task(bonded.world.service.run())
        await bonded.clock.sleep(1.5)
        await story(bonded)
        bonded.world.service.window.validate()
        bonded.contract.validate()
        runner.cancel()

    bonded.world.env.run_coroutine(main())


# ---- promises


def test_a_promise_names_what_was_taken_and_is_signed_by_the_bonds_signer():
    async def story(bonded):
        (answer,) = await bonded.hand_in()
        head = bonded.histories[0].heads[2]
        signer = bonded.contract.bond(bonded.world.signer.account).signer
        assert answer.promise == Promise(
            epoch=bonded.epoch(), channel=bonded.histories[0].terms.channel, cum=head.cum, seq=2, head=head.head,
            signature=answer.promise.signature,
        )  # fmt: skip
        await verify_promise(bonded.world.runtime.verifier, bonded.ledger, answer.promise, signer)
        changed = msgspec.structs.replace(answer.promise, seq=3)
        with pytest.raises(BadSignature):
            await verify_promise(bonded.world.runtime.verifier, bonded.ledger, changed, signer)
        # The same batch again, an epoch later: the promise is about the epoch that has it.
        await bonded.clock.sleep(12)
        (again,) = await bonded.hand_in()
        assert (again.accepted, again.promise) == (0, answer.promise)

    tell(story)


def test_without_a_bond_nothing_is_promised():
    async def story(world):
        (answer,) = await world.ask(world.batch(1, 1))
        assert answer.promise is None

    world = World()
    world.env.run_coroutine(story(world))


def test_what_is_refused_is_not_promised():
    async def story(bonded):
        spoilt = msgspec.structs.replace(bonded.world.batch(1, 1), receipts=())
        assert [type(answer) for answer in await bonded.ask(spoilt)] == [Refused]

    tell(story)


# ---- epochs and what is published


def test_an_epoch_goes_from_open_to_final_and_says_so_to_anybody():
    async def story(bonded):
        stranger = SimSigner(1, "stranger").peer_id
        epoch = bonded.epoch()
        ask = AskEpoch(epoch=epoch)
        assert (await bonded.ask(ask, peer_id=stranger))[0].status == "unknown"
        await bonded.hand_in()
        (answer,) = await bonded.ask(ask, peer_id=stranger)
        assert (answer.status, answer.commitment, answer.published) == ("open", None, None)
        await bonded.clock.sleep(10.0 - bonded.clock.now() % 10.0 + 0.05)
        (answer,) = await bonded.ask(ask, peer_id=stranger)
        assert answer.status == "closing" and answer.commitment.count == 1
        await bonded.clock.sleep(1.0)
        (answer,) = await bonded.ask(ask, peer_id=stranger)
        assert answer.status == "submitted"
        assert bonded.ledger.epoch(epoch).commitment == answer.commitment
        signed = SignedCommitment(commitment=answer.commitment, signature=answer.signature)
        await verify_commitment(
            bonded.world.runtime.verifier, bonded.ledger, signed, bonded.world.signer.session_address
        )
        (content,) = await bonded.ask(AskContent(name=answer.published), peer_id=stranger)
        assert decode_manifest(content.data).commitment == answer.commitment
        await bonded.clock.sleep(20)
        assert (await bonded.ask(ask, peer_id=stranger))[0].status == "final"
        assert (await bonded.ask(AskContent(name=b"?"), AskEpoch(epoch=-1), peer_id=stranger))[0].data is None

    tell(story)


def test_a_batch_of_proofs_is_what_a_batch_of_claims_needs():
    async def story(bonded):
        await bonded.hand_in()
        epoch = bonded.epoch()
        channels = tuple(history.terms.channel for history in bonded.histories)
        ask = AskBatch(epoch=epoch, channels=(*channels, ChannelId(bytes(32)), channels[0]))
        (answer,) = await bonded.ask(ask)
        assert (answer.commitment, answer.proof, answer.acknowledgements) == (None, None, ())
        await bonded.clock.sleep(12)
        (answer,) = await bonded.ask(ask)
        assert sorted(ack.channel for ack in answer.acknowledgements) == sorted(channels)
        verify_many([leaf_of(ack, epoch) for ack in answer.acknowledgements], answer.proof, answer.commitment)
        provider = bonded.histories[0].provider
        claim = ClaimBatch(
            sender=provider.account, epoch=epoch, acknowledgements=answer.acknowledgements, proof=answer.proof
        )
        assert bonded.world.apply(claim).paid == 5 * 30
        (nothing,) = await bonded.ask(AskBatch(epoch=epoch, channels=(ChannelId(bytes(32)),)))
        assert nothing.proof is None and nothing.commitment == answer.commitment

    tell(story, count=5)


@pytest.mark.parametrize("count", [0, 65])
def test_a_batch_of_no_channels_or_too_many_is_refused(count):
    async def story(bonded):
        with pytest.raises(PeerError, match="1 to 64"):
            await bonded.ask(AskBatch(epoch=1, channels=(bytes(32),) * count))

    tell(story)


# ---- a provider that lost its disk


def test_a_provider_gets_the_newest_acknowledgement_of_each_channel_page_by_page(monkeypatch):
    monkeypatch.setattr(answers, "HEADS_PER_PAGE", 2)

    async def story(bonded):
        await bonded.hand_in(1, 2)
        await bonded.ask(bonded.world.batch(3, 3, history=bonded.histories[0]))
        bonded.world.restart()
        got, after = [], None
        for expected in (2, 2, 1):
            (page,) = await bonded.ask(AskHeads(after=after))
            assert len(page.acknowledgements) == expected and page.more == (expected == 2)
            got += page.acknowledgements
            after = got[-1].channel
        assert got == sorted(got, key=lambda ack: ack.channel)
        newest = {history.terms.channel: history.acknowledge(2) for history in bonded.histories}
        newest[bonded.histories[0].terms.channel] = bonded.histories[0].acknowledge(3)
        assert {ack.channel: ack for ack in got} == newest
        assert await bonded.ask(AskHeads(after=after)) == [HeadsAnswer(acknowledgements=(), more=False)]

    tell(story, count=5)


def test_nobody_else_is_told_a_providers_channels():
    async def story(bonded):
        await bonded.hand_in()
        stranger = SimSigner(1, "stranger").peer_id
        assert await bonded.ask(AskHeads(), peer_id=stranger) == [HeadsAnswer(acknowledgements=(), more=False)]

    tell(story)


# ---- what questions may cost


def test_a_flood_of_questions_waits_and_is_then_refused_while_receipts_go_on():
    async def story(bonded):
        stranger = SimSigner(1, "stranger").peer_id
        ask = AskProof(epoch=1, channel=bonded.histories[0].terms.channel)
        before = bonded.clock.now()
        await bonded.ask(*(256 * [ask]), peer_id=stranger)
        assert bonded.clock.now() == before
        await bonded.ask(*(128 * [ask]), peer_id=stranger)
        assert bonded.clock.now() == before + 1.0
        wide = AskBatch(epoch=1, channels=(bonded.histories[0].terms.channel,) * 64)
        tasks = [asyncio.ensure_future(bonded.ask(wide, peer_id=stranger)) for _ in range(12)]
        refused = [one for one in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(one, PeerError)]
        assert {error.wire_code for error in refused} == {WireCode.RATE_LIMITED} and 1 <= len(refused) < 12
        (taken,) = await bonded.hand_in()
        assert taken.accepted == 2

    tell(story)


# ---- accusations


def test_false_accusations_are_answered_and_earn_their_stakes():
    async def story(bonded):
        (taken,) = await bonded.hand_in()
        await bonded.clock.sleep(12)
        (answer,) = await bonded.ask(AskProof(epoch=taken.epoch, channel=bonded.histories[0].terms.channel))
        watcher = SimSigner(1, "watcher")
        chain = bonded.world.chain
        ledger = chain.view(watcher.account, watcher.peer_id)
        await ledger.submit(Deposit(sender=watcher.account, amount=50))
        await ledger.submit(ChallengeOmission(sender=watcher.account, promise=taken.promise))
        await ledger.submit(ChallengeLeaf(sender=watcher.account, leaf=answer.leaf, proof=answer.proof))
        await bonded.clock.sleep(2.4)
        subjects = (
            (Fault.OMISSION, subject_of_omission(taken.promise.channel, 2)), (Fault.LEAF, hash_leaf(answer.leaf)),
        )  # fmt: skip
        assert [ledger.challenge(fault, taken.epoch, subject).verdict for fault, subject in subjects] == [
            Verdict.ANSWERED
        ] * 2
        kinds = [type(event.transaction) for event in chain.events]
        assert kinds.count(AnswerOmission) == kinds.count(AnswerLeaf) == 1
        assert bonded.contract.balance(bonded.world.signer.account) == 500 + 20
        # A restart answers nothing twice.
        bonded.world.restart()
        await bonded.world.service.defence.look()
        assert len(chain.events) == len(kinds)

    tell(story)


def test_a_true_accusation_has_no_answer_and_is_slashed():
    async def story(bonded):
        (taken,) = await bonded.hand_in(1, 1)
        broken = await bonded.world.promise(taken.promise, seq=3)
        await bonded.clock.sleep(12)
        watcher = SimSigner(1, "watcher")
        ledger = bonded.world.chain.view(watcher.account, watcher.peer_id)
        await ledger.submit(Deposit(sender=watcher.account, amount=50))
        await ledger.submit(ChallengeOmission(sender=watcher.account, promise=broken))
        await bonded.clock.sleep(3)
        subject = subject_of_omission(broken.channel, 3)
        await ledger.submit(Finalize(sender=watcher.account, fault=Fault.OMISSION, epoch=broken.epoch, subject=subject))
        assert bonded.contract.bond(bonded.world.signer.account).amount == 1900

    tell(story)
