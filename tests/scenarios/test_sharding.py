"""Three shards under one root: what each promised is in it, whichever of them is late, dead for a while, or asked by mistake."""

from __future__ import annotations

import pytest

from quiver.aggregator.archive import SHARD_TABLES
from quiver.aggregator.shards import Shards, shard_of
from quiver.errors import UsageError
from quiver.ids import Address, PeerId
from quiver.settlement.challenges import subject_of_omission
from quiver.settlement.merkle import verify
from quiver.trace import EpochCommitted, EvidenceRecorded
from quiver.values.frames import AskBatch, AskEpoch, AskProof, AskShard, Refused
from quiver.values.ledger import Bond, ChallengeOmission, ClaimBatch, Deposit, Fault, Verdict
from sim.signer import SimSigner
from tests.scenarios.shards import PARAMS, SELLERS, Hall


def test_accounts_are_dealt_in_equal_ranges_and_in_order():
    assert [shard_of(Address(bytes([first]) + bytes(19)), 4) for first in (0, 63, 64, 127, 128, 191, 192, 255)] == [
        0, 0, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip
    assert shard_of(Address(b"\xff" * 20), 3) == 2 and shard_of(Address(b"\xff" * 20), 1) == 0
    for peers, committer in ((), b"a"), ((b"a", b"a"), b"c"), ((b"a",), b"a"):
        with pytest.raises(UsageError):
            Shards(committer=PeerId(committer), peers=peers)


async def check_promises(hall, seller, peer):
    """Every promise of a seller is kept under the root on the ledger, as `peer` shows."""
    assert seller.promises
    for promise in seller.promises:
        (answer,) = await seller.ask(peer, AskProof(epoch=promise.epoch, channel=promise.channel))
        posted = hall.contract.epoch(promise.epoch)
        assert posted.poster == hall.poster.account and posted.commitment == answer.commitment
        verify(answer.leaf, answer.proof, posted.commitment)
        assert answer.leaf.seq >= promise.seq and answer.signature


def committed(hall):
    return [event.epoch for event in hall.events if isinstance(event, EpochCommitted)]


def test_one_root_holds_what_all_shards_promised_and_both_ends_prove_it():
    async def story(hall):
        epochs = []
        for _ in range(3):
            epochs.append(hall.epoch())
            assert len(await hall.hand_in()) == SELLERS
            await hall.sleep_to_next_epoch()
        await hall.clock.sleep(8.0)
        assert committed(hall) == epochs
        assert {hall.contract.epoch(epoch).commitment.count for epoch in epochs} == {SELLERS}
        used = {hall.shard_of(seller) for seller in hall.sellers}
        assert len(used) == 3
        for seller in hall.sellers:
            await check_promises(hall, seller, hall.shard_of(seller))
            await check_promises(hall, seller, hall.shards.committer)
        # What a shard took back is enough for a batch of claims of its providers.
        seller = hall.sellers[0]
        ask = AskBatch(epoch=epochs[-1], channels=tuple(one.history.terms.channel for one in hall.sellers))
        for peer in (hall.shard_of(seller), hall.shards.committer):
            (answer,) = await seller.ask(peer, ask)
            claim = ClaimBatch(
                sender=seller.signer.account,
                epoch=epochs[-1],
                acknowledgements=answer.acknowledgements,
                proof=answer.proof,
            )
            ledger = hall.chain.view(seller.signer.account, seller.peer_id)
            if peer == hall.shards.committer:
                await ledger.submit(claim)
        assert sum(hall.contract.balance(one.signer.account) for one in hall.sellers) == 30 * SELLERS

    Hall().play(story)


@pytest.mark.parametrize("dead", [0, 1, 2])
@pytest.mark.parametrize("down_s", [4.0, 25.0])
def test_a_shard_that_dies_delays_its_epochs_and_breaks_no_promise(dead, down_s):
    async def story(hall):
        assert len(await hall.hand_in()) == SELLERS
        first = hall.epoch()
        hall.nodes[dead].crash()
        alive = [seller for seller in hall.sellers if hall.shard_of(seller) != hall.nodes[dead].peer_id]
        await hall.clock.sleep(down_s)
        # The others go on taking receipts.
        assert await hall.hand_in() == alive
        assert first not in committed(hall)
        if down_s > 10:
            (said,) = [event for event in hall.events if isinstance(event, EvidenceRecorded)]
            assert (said.kind, said.peer) == ("shard_late", hall.nodes[dead].peer_id)
        await hall.nodes[dead].rise()
        await hall.clock.sleep(1.0)
        assert len(await hall.hand_in()) == SELLERS
        await hall.sleep_to_next_epoch()
        await hall.clock.sleep(8.0)
        assert first in committed(hall) and len(set(committed(hall))) == len(committed(hall))
        for seller in hall.sellers:
            await check_promises(hall, seller, hall.shard_of(seller))

    Hall().play(story)


def test_an_epoch_that_ends_while_the_one_before_is_written_is_handed_over_too(monkeypatch):
    """A slow disk under one page must not let the shard seal the next epoch as one without receipts."""

    async def story(hall):
        store, epoch_s = hall.nodes[0].runtime.store, PARAMS.epoch_ms / 1000
        commit, delays_s = store.commit, [epoch_s]

        async def slow(rows):
            if delays_s and any(table == SHARD_TABLES[0] for table, _, _ in rows):
                await hall.clock.sleep(delays_s.pop())
            await commit(rows)

        monkeypatch.setattr(store, "commit", slow)
        for _ in range(3):
            assert len(await hall.hand_in()) == SELLERS
            await hall.sleep_to_next_epoch()
        await hall.clock.sleep(8.0)
        assert not delays_s
        for seller in hall.sellers:
            await check_promises(hall, seller, hall.shards.committer)

    Hall().play(story)


@pytest.mark.parametrize("after_s", [0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 5.1, 5.3])
@pytest.mark.parametrize("who", ["committer", "shard"])
def test_a_power_cut_at_any_point_of_handing_over_loses_and_doubles_nothing(who, after_s):
    async def story(hall):
        assert len(await hall.hand_in()) == SELLERS
        epoch, node = hall.epoch(), hall.committer if who == "committer" else hall.nodes[1]
        await hall.sleep_to_next_epoch()
        await hall.clock.sleep(after_s - 0.1 if after_s > 0.1 else 0.0)
        node.crash()
        await hall.clock.sleep(1.5)
        await node.rise()
        await hall.clock.sleep(15.0)
        assert committed(hall).count(epoch) <= 1
        assert hall.contract.epoch(epoch).commitment.count == SELLERS
        for seller in hall.sellers:
            await check_promises(hall, seller, hall.shard_of(seller))
            await check_promises(hall, seller, hall.shards.committer)

    Hall().play(story)


def test_what_shards_promise_while_the_committer_is_dead_after_its_first_bond_is_kept():
    async def story(hall):
        hall.committer.crash()
        # The simulated chain drops what a crashed node had sent; a real one does not.
        signer = hall.poster
        bond = Bond(sender=signer.account, amount=20 * PARAMS.slash_credits, signer=signer.session_address)
        await hall.chain.view(signer.account, signer.peer_id).submit(bond)
        epoch = hall.epoch()
        assert len(await hall.hand_in()) == SELLERS
        await hall.sleep_to_next_epoch()
        await hall.committer.rise()
        await hall.clock.sleep(8.0)
        assert epoch in committed(hall)
        for seller in hall.sellers:
            await check_promises(hall, seller, hall.shard_of(seller))

    Hall().play(story, after_s=0.3)


def test_who_asks_the_wrong_shard_is_told_the_right_one_and_nothing_is_held_against_it():
    async def story(hall):
        seller = hall.sellers[0]
        for peer in {*hall.shards.peers, hall.shards.committer} - {hall.shard_of(seller)}:
            (answer,) = await seller.ask(peer, seller.batch())
            assert isinstance(answer, Refused) and answer.message.startswith("wrong_shard: ")
        assert await seller.hand_in(hall.shard_of(seller))
        assert not [event for event in hall.events if isinstance(event, EvidenceRecorded)]

    Hall().play(story)


def test_a_shard_says_what_is_closed_and_the_committer_that_it_is_no_shard():
    async def story(hall):
        await hall.hand_in()
        epoch, seller = hall.epoch(), hall.sellers[0]
        shard = hall.shard_of(seller)
        (answer,) = await seller.ask(shard, AskShard(epoch=epoch))
        assert (answer.closed, answer.published) == (False, None)
        await hall.sleep_to_next_epoch()
        answer, status = await seller.ask(shard, AskShard(epoch=epoch), AskEpoch(epoch=epoch))
        assert answer.closed and len(answer.published) == 32 and status.status == "closing"
        await hall.clock.sleep(8.0)
        assert (await seller.ask(shard, AskEpoch(epoch=epoch)))[0].status == "submitted"
        # An epoch in which nothing came is closed all the same, and has no root.
        await hall.sleep_to_next_epoch()
        (answer,) = await seller.ask(shard, AskShard(epoch=epoch + 1))
        assert (answer.closed, answer.published) == (True, None)
        await hall.clock.sleep(3.0)
        assert hall.contract.epoch(epoch + 1) is None

    Hall().play(story)


def test_the_committer_answers_for_a_shards_promise():
    async def story(hall):
        await hall.hand_in()
        promise = hall.sellers[0].promises[0]
        await hall.sleep_to_next_epoch()
        await hall.clock.sleep(3.0)
        watcher = SimSigner(1, "watcher")
        ledger = hall.chain.view(watcher.account, watcher.peer_id)
        await ledger.submit(Deposit(sender=watcher.account, amount=50))
        await ledger.submit(ChallengeOmission(sender=watcher.account, promise=promise))
        await hall.clock.sleep(2.0)
        subject = subject_of_omission(promise.channel, promise.seq)
        assert ledger.challenge(Fault.OMISSION, promise.epoch, subject).verdict is Verdict.ANSWERED

    Hall().play(story)
