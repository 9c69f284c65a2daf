"""Disputes on the contract model, with credits counted by hand: a slash is 100, so a bond is 2,000 and a stake 10."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from quiver.errors import SettlementError
from quiver.identity.keys import KeyPair, verify_session
from quiver.identity.signing import (
    ACK_TAG,
    COMMITMENT_TAG,
    PROMISE_TAG,
    ack_digest,
    commitment_digest,
    promise_digest,
)
from quiver.ids import Address, compute_domain
from quiver.params import Params
from quiver.settlement.challenges import WHOLE_EPOCH, subject_of_omission
from quiver.settlement.contract import Contract
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.settlement.multiproof import prove_many
from quiver.values.ledger import (
    AnswerLeaf,
    AnswerOmission,
    Bond,
    ChallengeLeaf,
    ChallengeOmission,
    Claim,
    ClaimBatch,
    ClaimDirect,
    ClaimDirectBatch,
    Commitment,
    Deposit,
    Fault,
    Finalize,
    FinishExit,
    FinishUnbond,
    Leaf,
    OpenChannel,
    Promise,
    Proof,
    ProveBadHead,
    RequestExit,
    RequestUnbond,
    RotateSession,
    SignedCommitment,
    SubmitEpoch,
    Withdraw,
)
from quiver.values.receipt import Acknowledgement

PAYER, PROVIDER, AGGREGATOR, WATCHER, HUB = (Address(bytes([n]) * 20) for n in (1, 2, 10, 4, 5))
KEYS = {key.session_address: key for key in (KeyPair(bytes([n]) * 32) for n in (1, 2, 3))}
SESSION, NEW_SESSION, SIGNER = KEYS
# Whole seconds everywhere, as a chain counts them: windows are half and an eighth of this.
SLASH = 100
PARAMS = msgspec.structs.replace(Params.minimal(), exit_delay_s=24.0, slash_credits=SLASH)
CHAIN_ID = 31337
EXIT_MS, WINDOW_MS, RESPOND_MS = 24_000, 12_000, 3_000
START_MS = PARAMS.epoch_ms
GRACE_MS = 5_000
HEAD = bytes(32)


def make_contract(hub=HUB):
    return Contract(
        chain_id=CHAIN_ID, contract=hub, aggregator=AGGREGATOR, params=PARAMS, verify_session=verify_session
    )


class Court:
    """Two channels of 400; an aggregator that has bonded 2,000; a watcher with 50. Epoch 0 is over."""

    def __init__(self, contract):
        self.now_ms = START_MS
        self.contract = contract
        self.domains = [
            compute_domain(tag, CHAIN_ID, contract.contract) for tag in (ACK_TAG, PROMISE_TAG, COMMITMENT_TAG)
        ]
        for account, amount in ((PAYER, 1000), (AGGREGATOR, 2500), (WATCHER, 50)):
            self.send(Deposit(sender=account, amount=amount))
        self.channel, self.other = (
            self.send(OpenChannel(sender=PAYER, provider=PROVIDER, session=SESSION, amount=400, nonce=n)).channel
            for n in (1, 2)
        )
        self.send(Bond(sender=AGGREGATOR, amount=2000, signer=SIGNER))

    def apply(self, transaction):
        return self.contract.apply(transaction, self.now_ms)

    def send(self, transaction):
        event = self.apply(transaction)
        self.contract.validate()
        return event

    def refuse(self, reason, transaction):
        before = self.contract.to_snapshot()
        with pytest.raises(SettlementError) as caught:
            self.apply(transaction)
        assert caught.value.reason == reason
        assert self.contract.to_snapshot() == before

    def acknowledge(self, channel, cum, seq=1, session=SESSION):
        digest = ack_digest(self.domains[0], channel, cum, seq, HEAD)
        signature = KEYS[session].sign_session(digest)
        return Acknowledgement(channel=channel, seq=seq, cum=cum, head=HEAD, signature=signature)

    def leaf(self, channel, cum, seq=1, epoch=0):
        return Leaf(epoch=epoch, channel=channel, cum=cum, seq=seq, head=HEAD)

    def promise(self, channel, seq, signer=SIGNER):
        promise = Promise(epoch=0, channel=channel, cum=50, seq=seq, head=HEAD, signature=b"")
        signature = KEYS[signer].sign_session(promise_digest(self.domains[1], promise))
        return msgspec.structs.replace(promise, signature=signature)

    def sign(self, commitment, signer=SIGNER):
        signature = KEYS[signer].sign_session(commitment_digest(self.domains[2], commitment))
        return SignedCommitment(commitment=commitment, signature=signature)

    def post(self, *leaves, sender=AGGREGATOR):
        self.tree = MerkleTree([hash_leaf(leaf) for leaf in leaves])
        commitment = Commitment(epoch=leaves[0].epoch, root=self.tree.root, count=len(leaves))
        self.send(SubmitEpoch(sender=sender, commitment=commitment))
        return commitment

    def bonded(self, account=AGGREGATOR):
        return self.contract.bond(account).amount


@pytest.fixture
def court():
    return Court(make_contract())


def test_who_is_not_the_aggregator_posts_after_the_grace_period_and_bonds_as_much(court):
    court.send(Deposit(sender=WATCHER, amount=2000))
    court.send(Bond(sender=WATCHER, amount=2000, signer=NEW_SESSION))
    commitment = Commitment(epoch=0, root=hash_leaf(court.leaf(court.other, 50)), count=1)
    early = SubmitEpoch(sender=WATCHER, commitment=commitment)
    court.refuse("not_the_aggregator", early)
    court.now_ms += GRACE_MS - 1000
    court.refuse("not_the_aggregator", early)
    court.now_ms += 1000
    court.refuse("bond_too_small", msgspec.structs.replace(early, sender=PAYER))
    court.send(early)
    assert court.contract.epoch(0).poster == WATCHER


def test_a_broken_promise_costs_a_slash_of_which_the_accuser_gets_half(court):
    court.post(court.leaf(court.other, 50))
    promise = court.promise(court.channel, 3)
    court.send(ChallengeOmission(sender=WATCHER, promise=promise))
    assert court.contract.balance(WATCHER) == 40
    court.refuse("challenge_exists", ChallengeOmission(sender=WATCHER, promise=promise))
    finalize = Finalize(sender=PAYER, fault=Fault.OMISSION, epoch=0, subject=subject_of_omission(court.channel, 3))
    court.refuse("answer_pending", finalize)
    court.now_ms += RESPOND_MS
    late = AnswerOmission(
        sender=AGGREGATOR, promised_seq=3, leaf=court.leaf(court.channel, 50, 3), proof=court.tree.proof(0)
    )
    court.refuse("answer_too_late", late)
    event = court.send(finalize)
    assert (event.paid, event.refunded, event.slashed) == (50, 10, 100)
    assert (court.contract.balance(WATCHER), court.bonded()) == (100, 1900)
    court.refuse("challenge_decided", finalize)
    # Of 3,550 deposited, 50 are burnt.
    assert court.contract.remaining == 3500


def test_a_kept_promise_is_shown_by_a_leaf_as_new_as_promised_and_the_stake_is_earned(court):
    court.post(court.leaf(court.channel, 60, 4), court.leaf(court.other, 50, 9))
    for seq in (4, 5):
        court.send(ChallengeOmission(sender=WATCHER, promise=court.promise(court.channel, seq)))
    leaf, proof = court.leaf(court.channel, 60, 4), court.tree.proof(0)
    court.refuse("leaf_too_old", AnswerOmission(sender=PAYER, promised_seq=5, leaf=leaf, proof=proof))
    newer = court.leaf(court.channel, 60, 5)
    court.refuse("bad_proof", AnswerOmission(sender=PAYER, promised_seq=5, leaf=newer, proof=proof))
    elsewhere = AnswerOmission(
        sender=PAYER, promised_seq=4, leaf=court.leaf(court.other, 50, 9), proof=court.tree.proof(1)
    )
    court.refuse("unknown_challenge", elsewhere)
    assert court.send(AnswerOmission(sender=PAYER, promised_seq=4, leaf=leaf, proof=proof)).paid == 10
    assert (court.contract.balance(PAYER), court.contract.balance(WATCHER), court.bonded()) == (210, 30, 2000)


def test_only_the_word_of_whoever_posted_the_root_counts(court):
    court.post(court.leaf(court.other, 50))
    forged = court.promise(court.channel, 3, signer=SESSION)
    court.refuse("bad_signature", ChallengeOmission(sender=WATCHER, promise=forged))
    unknown = msgspec.structs.replace(court.promise(court.channel, 3), epoch=7)
    court.refuse("unknown_epoch", ChallengeOmission(sender=WATCHER, promise=unknown))
    court.now_ms += WINDOW_MS
    court.refuse("window_closed", ChallengeOmission(sender=WATCHER, promise=court.promise(court.channel, 3)))


def test_a_leaf_nobody_acknowledged_costs_a_slash_and_an_honest_one_the_accuser_its_stake(court):
    honest, invented = court.leaf(court.channel, 60), court.leaf(court.other, 399)
    court.post(honest, invented)
    for index, leaf in enumerate((honest, invented)):
        court.send(ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=court.tree.proof(index)))
    unposted = court.leaf(court.other, 398)
    court.refuse("bad_proof", ChallengeLeaf(sender=WATCHER, leaf=unposted, proof=court.tree.proof(1)))
    signature = court.acknowledge(court.channel, 60).signature
    court.refuse("bad_signature", AnswerLeaf(sender=AGGREGATOR, leaf=invented, signature=signature))
    court.refuse("unknown_challenge", AnswerLeaf(sender=AGGREGATOR, leaf=unposted, signature=signature))
    court.send(AnswerLeaf(sender=AGGREGATOR, leaf=honest, signature=signature))
    assert (court.contract.balance(AGGREGATOR), court.contract.balance(WATCHER)) == (510, 30)
    court.now_ms += RESPOND_MS
    court.send(Finalize(sender=WATCHER, fault=Fault.LEAF, epoch=0, subject=hash_leaf(invented)))
    assert (court.contract.balance(WATCHER), court.bonded()) == (90, 1900)


def test_two_commitments_for_one_epoch_are_punished_at_once_and_once(court):
    posted = court.post(court.leaf(court.channel, 60))

    other = msgspec.structs.replace(posted, root=hashlib.sha256(b"other").digest())
    court.refuse("head_matches", ProveBadHead(sender=WATCHER, signed=court.sign(posted)))
    court.refuse("bad_signature", ProveBadHead(sender=WATCHER, signed=court.sign(other, SESSION)))
    court.send(ProveBadHead(sender=WATCHER, signed=court.sign(other)))
    assert (court.contract.balance(WATCHER), court.bonded()) == (100, 1900)
    assert court.contract.challenge(Fault.HEAD, 0, WHOLE_EPOCH).challenger == WATCHER
    court.refuse("challenge_exists", ProveBadHead(sender=WATCHER, signed=court.sign(other)))


def test_after_the_grace_period_anyone_may_post_under_the_same_bond_and_the_same_threat(court):
    court.now_ms += 5_000
    root = Commitment(epoch=0, root=bytes(32), count=1)
    court.refuse("bond_too_small", SubmitEpoch(sender=PROVIDER, commitment=root))
    court.send(Deposit(sender=PROVIDER, amount=2000))
    court.send(Bond(sender=PROVIDER, amount=1999, signer=NEW_SESSION))
    court.refuse("bond_too_small", SubmitEpoch(sender=PROVIDER, commitment=root))
    court.refuse("signer_fixed", Bond(sender=PROVIDER, amount=1, signer=SIGNER))
    court.send(Bond(sender=PROVIDER, amount=1, signer=NEW_SESSION))
    invented = court.leaf(court.channel, 400)
    court.post(invented, sender=PROVIDER)
    # The aggregator's promise binds only roots that it posted itself.
    court.refuse("bad_signature", ChallengeOmission(sender=WATCHER, promise=court.promise(court.channel, 3)))
    court.send(ChallengeLeaf(sender=WATCHER, leaf=invented, proof=court.tree.proof(0)))
    court.now_ms += RESPOND_MS
    court.send(Finalize(sender=WATCHER, fault=Fault.LEAF, epoch=0, subject=hash_leaf(invented)))
    assert (court.bonded(PROVIDER), court.bonded()) == (1900, 2000)


def test_a_bond_returns_after_its_delay_unless_a_challenge_is_open(court):
    court.refuse("unbond_not_requested", FinishUnbond(sender=AGGREGATOR))
    court.refuse("not_bonded", RequestUnbond(sender=WATCHER))
    invented = court.leaf(court.channel, 60)
    court.post(invented)
    court.send(RequestUnbond(sender=AGGREGATOR))
    court.refuse("unbonding", RequestUnbond(sender=AGGREGATOR))
    court.refuse("unbonding", Bond(sender=AGGREGATOR, amount=1, signer=SIGNER))
    court.send(ChallengeLeaf(sender=WATCHER, leaf=invented, proof=court.tree.proof(0)))
    court.now_ms += EXIT_MS - 1
    court.refuse("unbonding", SubmitEpoch(sender=AGGREGATOR, commitment=Commitment(epoch=1, root=bytes(32), count=1)))
    court.refuse("unbond_too_early", FinishUnbond(sender=AGGREGATOR))
    court.now_ms += 1
    court.refuse("challenge_open", FinishUnbond(sender=AGGREGATOR))
    court.send(Finalize(sender=PAYER, fault=Fault.LEAF, epoch=0, subject=hash_leaf(invented)))
    assert court.send(FinishUnbond(sender=AGGREGATOR)).refunded == 1900
    assert court.contract.balance(AGGREGATOR) == 2400


def test_a_bond_that_is_spent_can_no_longer_be_taken_but_the_stake_still_returns(court):
    leaves = [court.leaf(court.channel, cum) for cum in range(1, 22)]
    court.post(*leaves)
    court.send(Deposit(sender=WATCHER, amount=500))
    for index, leaf in enumerate(leaves):
        court.send(ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=court.tree.proof(index)))
    court.now_ms += RESPOND_MS
    slashed = [
        court.send(Finalize(sender=WATCHER, fault=Fault.LEAF, epoch=0, subject=hash_leaf(leaf))).slashed
        for leaf in leaves
    ]
    assert slashed == [100] * 20 + [0]
    assert (court.bonded(), court.contract.balance(WATCHER)) == (0, 550 + 20 * 50)


def test_a_new_session_key_counts_after_the_delay_and_an_answer_may_carry_the_one_before(court):
    court.refuse("not_the_payer", RotateSession(sender=WATCHER, channel=court.channel, session=NEW_SESSION))
    court.send(RotateSession(sender=PAYER, channel=court.channel, session=NEW_SESSION))
    court.refuse("rotation_pending", RotateSession(sender=PAYER, channel=court.channel, session=SIGNER))
    old, new = (court.acknowledge(court.channel, cum, session=key) for cum, key in ((50, SESSION), (80, NEW_SESSION)))
    court.refuse("bad_signature", ClaimDirect(sender=WATCHER, acknowledgement=new))
    court.send(ClaimDirect(sender=WATCHER, acknowledgement=old))
    leaf = court.leaf(court.channel, 60)
    court.now_ms += EXIT_MS
    court.post(leaf)
    later = court.acknowledge(court.channel, 60)
    court.refuse("bad_signature", ClaimDirect(sender=WATCHER, acknowledgement=later))
    court.send(ClaimDirect(sender=WATCHER, acknowledgement=new))
    assert court.contract.balance(PROVIDER) == 80
    court.send(ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=court.tree.proof(0)))
    court.send(AnswerLeaf(sender=AGGREGATOR, leaf=leaf, signature=later.signature))
    court.send(RotateSession(sender=PAYER, channel=court.channel, session=SIGNER))
    assert court.contract.channel(court.channel).session == NEW_SESSION


def test_a_batch_pays_each_channel_once_and_passes_over_what_is_closed(court):
    acks = [court.acknowledge(court.channel, 60), court.acknowledge(court.other, 500)]
    leaves = [court.leaf(ack.channel, ack.cum) for ack in acks]
    court.post(*leaves, court.leaf(bytes(32), 1))
    court.send(RequestExit(sender=PAYER, channel=court.channel))
    batch = ClaimBatch(sender=WATCHER, epoch=0, acknowledgements=tuple(acks), proof=prove_many(court.tree, [0, 1]))
    court.refuse("unknown_epoch", msgspec.structs.replace(batch, epoch=1))
    court.refuse("bad_proof", msgspec.structs.replace(batch, acknowledgements=tuple(acks[::-1])))
    court.refuse("batch_size", msgspec.structs.replace(batch, acknowledgements=()))
    assert court.send(batch).paid == 460
    court.refuse("nothing_due", batch)
    court.now_ms += EXIT_MS
    court.send(FinishExit(sender=PAYER, channel=court.channel))
    twice = tuple(court.acknowledge(court.channel, 70, seq) for seq in (2, 3))
    court.refuse("nothing_due", ClaimDirectBatch(sender=WATCHER, acknowledgements=twice))
    assert court.contract.balance(PROVIDER) == 460


def test_a_direct_batch_that_names_a_channel_twice_pays_the_most_once_and_one_forgery_spoils_it(court):
    acks = tuple(court.acknowledge(court.channel, cum, seq) for seq, cum in ((1, 60), (2, 90)))
    forged = court.acknowledge(court.other, 60, session=NEW_SESSION)
    court.refuse("bad_signature", ClaimDirectBatch(sender=WATCHER, acknowledgements=(*acks, forged)))
    court.refuse(
        "unknown_channel", ClaimDirectBatch(sender=WATCHER, acknowledgements=(court.acknowledge(bytes(32), 1),))
    )
    court.refuse("batch_size", ClaimDirectBatch(sender=WATCHER, acknowledgements=acks * 33))
    assert court.send(ClaimDirectBatch(sender=WATCHER, acknowledgements=acks)).paid == 90
    assert court.contract.balance(PROVIDER) == 90


def test_free_credits_can_be_taken_out_and_no_others(court):
    court.refuse("insufficient_balance", Withdraw(sender=PAYER, amount=201))
    court.send(Withdraw(sender=PAYER, amount=200))
    assert (court.contract.balance(PAYER), court.contract.remaining) == (0, 3350)
    again = Contract.from_snapshot(court.contract.to_snapshot(), params=PARAMS, verify_session=verify_session)
    again.validate()
    assert again.to_snapshot() == court.contract.to_snapshot()


def test_a_root_whose_count_is_not_its_trees_proves_nothing(court):
    ack = court.acknowledge(court.channel, 60)
    leaf = court.leaf(court.channel, 60)
    court.send(SubmitEpoch(sender=AGGREGATOR, commitment=Commitment(epoch=0, root=hash_leaf(leaf), count=2)))
    for index in (0, 1):
        # The path ends at the root, one level below where two leaves have theirs.
        proof = Proof(index=index, count=2, siblings=())
        court.refuse("bad_proof", Claim(sender=WATCHER, leaf=leaf, proof=proof, acknowledgement=ack))
        court.refuse("bad_proof", ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=proof))
    court.send(ClaimDirect(sender=WATCHER, acknowledgement=ack))
    assert court.contract.balance(PROVIDER) == 60


def test_a_late_accusation_is_late_whatever_its_proof_says(court):
    leaf = court.leaf(court.channel, 60)
    court.post(leaf, court.leaf(court.other, 50))
    other_count = msgspec.structs.replace(court.tree.proof(0), count=3)
    court.refuse("bad_proof", ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=other_count))
    court.now_ms += WINDOW_MS
    court.refuse("window_closed", ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=other_count))
