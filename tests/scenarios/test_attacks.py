"""Attacks on the money, each as a story on the contract: docs/attacks.md says what stops them and what they can cost.

`tests/evm/test_attacks.py` tells the same stories to the contract on an EVM, beside the model. Amounts are counted by hand: two
channels of 400, a bond of 2,000, a slash of 100, a stake of 10 (`Court`). A docstring begins with the loss.
"""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from quiver.errors import ReceiptMismatch
from quiver.identity import keys
from quiver.identity.signing import ack_digest, next_head
from quiver.ids import Address
from quiver.receipts.checks import check_acknowledgement
from quiver.settlement.challenges import subject_of_omission
from quiver.settlement.merkle import hash_leaf
from quiver.values import ledger
from quiver.values.receipt import Acknowledgement, ChannelHead
from tests.unit.settlement.test_disputes import (
    AGGREGATOR,
    CHAIN_ID,
    EXIT_MS,
    HEAD,
    HUB,
    KEYS,
    NEW_SESSION,
    PAYER,
    PROVIDER,
    RESPOND_MS,
    SESSION,
    WATCHER,
    Court,
    make_contract,
)

replace = msgspec.structs.replace
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.fixture
def court():
    return Court(make_contract())


def earned(court):
    """Credits the provider has out of both channels."""
    return court.contract.balance(PROVIDER)


def claim(court, ack, leaf=None, index=0, sender=WATCHER):
    leaf = leaf or court.leaf(ack.channel, ack.cum, ack.seq)
    return ledger.Claim(sender=sender, leaf=leaf, proof=court.tree.proof(index), acknowledgement=ack)


def direct(ack, sender=WATCHER):
    return ledger.ClaimDirect(sender=sender, acknowledgement=ack)


def test_a_provider_that_invents_usage_is_paid_nothing(court):
    """Loss 0: what no payer signed pays on no path, whoever posted it."""
    signed = court.acknowledge(court.channel, 60)
    inflated = replace(signed, cum=400)
    court.post(court.leaf(court.channel, 400))
    court.refuse("bad_signature", direct(inflated, sender=PROVIDER))
    court.refuse("bad_signature", claim(court, inflated, sender=PROVIDER))
    own = court.acknowledge(court.channel, 400, session=NEW_SESSION)
    court.refuse("bad_signature", direct(own, sender=PROVIDER))
    assert earned(court) == 0
    court.send(direct(signed))
    assert earned(court) == 60


def test_an_aggregator_that_invents_a_leaf_and_withholds_the_others_moves_nothing(court):
    """Loss 0; the lie costs its poster 100: the payer's true word pays 60 without any leaf."""
    invented = court.leaf(court.channel, 399)
    court.post(invented)
    signed = court.acknowledge(court.channel, 60)
    court.refuse("leaf_mismatch", claim(court, signed, leaf=invented))
    court.refuse("bad_signature", claim(court, replace(signed, cum=399), leaf=invented))
    court.send(ledger.ChallengeLeaf(sender=WATCHER, leaf=invented, proof=court.tree.proof(0)))
    court.now_ms += RESPOND_MS
    court.send(ledger.Finalize(sender=WATCHER, fault=ledger.Fault.LEAF, epoch=0, subject=hash_leaf(invented)))
    court.send(direct(signed))
    assert (earned(court), court.bonded()) == (60, 1900)


def test_an_aggregator_that_drops_censors_or_dies_delays_nobodys_pay(court):
    """Loss 0 but the gas of a direct claim; a broken promise costs the aggregator 100; the next root is anyone's."""
    court.post(court.leaf(court.other, 50))
    signed = court.acknowledge(court.channel, 60, seq=3)
    court.send(direct(signed, sender=PROVIDER))
    assert earned(court) == 60
    court.send(ledger.ChallengeOmission(sender=WATCHER, promise=court.promise(court.channel, 3)))
    court.now_ms += RESPOND_MS
    subject = subject_of_omission(court.channel, 3)
    court.send(ledger.Finalize(sender=WATCHER, fault=ledger.Fault.OMISSION, epoch=0, subject=subject))
    assert court.bonded() == 1900
    # It is dead for the next epoch: whoever bonds posts it, once the grace period is over.
    court.now_ms = 2 * court.now_ms + 30_000
    court.send(ledger.Deposit(sender=PROVIDER, amount=2000))
    court.send(ledger.Bond(sender=PROVIDER, amount=2000, signer=NEW_SESSION))
    court.post(court.leaf(court.channel, 70, 4, epoch=1), sender=PROVIDER)
    court.send(
        claim(court, court.acknowledge(court.channel, 70, seq=4), leaf=court.leaf(court.channel, 70, 4, epoch=1))
    )
    assert earned(court) == 70


def test_nothing_is_paid_twice_in_whatever_order(court):
    """Loss 0: a repetition, an older state and the same state by the other path find nothing due."""
    acks = [court.acknowledge(court.channel, cum, seq) for seq, cum in ((1, 20), (2, 60), (3, 90))]
    leaves = [court.leaf(ack.channel, ack.cum, ack.seq) for ack in acks]
    # The same channel in three leaves of one root, newest first.
    court.post(*leaves[::-1])
    court.send(claim(court, acks[1], index=1))
    court.refuse("nothing_due", claim(court, acks[1], index=1))
    court.refuse("nothing_due", claim(court, acks[0], index=2))
    court.refuse("nothing_due", direct(acks[1]))
    court.send(direct(acks[2]))
    court.refuse("nothing_due", claim(court, acks[2], index=0))
    assert earned(court) == 90


@pytest.mark.parametrize("where", ["another chain", "another contract", "another version"])
def test_what_was_signed_elsewhere_pays_nothing_here(court, where):
    """Loss 0: chain, contract and version are in every signed word."""
    contract = Address(b"\x77" * 20) if where == "another contract" else court.contract.contract
    chain_id = 1 if where == "another chain" else CHAIN_ID
    tag = b"QUIVer/ack/v2" if where == "another version" else b"QUIVer/ack/v1"
    domain = hashlib.sha256(tag + chain_id.to_bytes(32, "big") + contract).digest()
    signature = KEYS[SESSION].sign_session(ack_digest(domain, court.channel, 60, 1, HEAD))
    court.refuse(
        "bad_signature",
        direct(Acknowledgement(channel=court.channel, seq=1, cum=60, head=HEAD, signature=signature)),
    )
    assert earned(court) == 0


def test_a_payer_can_overspend_only_what_it_locked_and_nobody_elses_money(court):
    """Loss: what a provider served beyond the lock, here 100 of 500; the other channel keeps its 400."""
    court.send(direct(court.acknowledge(court.channel, 500)))
    assert earned(court) == 400
    court.refuse("nothing_due", direct(court.acknowledge(court.channel, (1 << 64) - 1, seq=2)))
    state = court.contract.channel(court.other)
    assert (state.locked, state.paid) == (400, 0)
    assert court.contract.balance(PAYER) == 200


def test_neither_side_can_change_what_an_acknowledgement_speaks_about(court):
    """Loss 0: the head binds requests and answers, so a swapped answer is another head, and the payer cannot deny its own."""
    true, swapped = (next_head(bytes(32), digest) for digest in (b"\x01" * 32, b"\x02" * 32))
    digest = ack_digest(court.domains[0], court.channel, 60, 1, true)
    ack = Acknowledgement(channel=court.channel, seq=1, cum=60, head=true, signature=KEYS[SESSION].sign_session(digest))
    check_acknowledgement(ack, ChannelHead(seq=1, cum=60, head=true), court.channel)
    with pytest.raises(ReceiptMismatch, match="ack_wrong_head"):
        check_acknowledgement(ack, ChannelHead(seq=1, cum=60, head=swapped), court.channel)
    court.refuse("bad_signature", direct(replace(ack, head=swapped)))
    # A root with the swapped history is refuted, one with the true history is proved by the payer's own word.
    leaves = [ledger.Leaf(epoch=0, channel=court.channel, cum=60, seq=1, head=head) for head in (true, swapped)]
    court.post(*leaves)
    for index, leaf in enumerate(leaves):
        court.send(ledger.ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=court.tree.proof(index)))
    court.send(ledger.AnswerLeaf(sender=PROVIDER, leaf=leaves[0], signature=ack.signature))
    court.refuse("bad_signature", ledger.AnswerLeaf(sender=PROVIDER, leaf=leaves[1], signature=ack.signature))


def test_a_payer_that_withdraws_first_leaves_time_to_claim(court):
    """Loss 0 for a provider that looks once within the exit delay; for one that sleeps, what it had not claimed: 60 of 400."""
    for channel in (court.channel, court.other):
        court.send(ledger.RequestExit(sender=PAYER, channel=channel))
    court.now_ms += EXIT_MS - 1
    court.refuse("exit_too_early", ledger.FinishExit(sender=PAYER, channel=court.channel))
    court.send(direct(court.acknowledge(court.channel, 60)))
    court.now_ms += 1
    assert court.send(ledger.FinishExit(sender=PAYER, channel=court.channel)).refunded == 340
    assert court.send(ledger.FinishExit(sender=PAYER, channel=court.other)).refunded == 400
    court.refuse("channel_closed", direct(court.acknowledge(court.other, 60)))
    assert earned(court) == 60


def test_a_node_of_the_tree_is_no_leaf_and_a_place_is_no_other(court):
    """Loss 0: a leaf's bytes begin with 0, a node's with 1; a proof fits one place of one count."""
    acks = [court.acknowledge(court.channel, 60, seq) for seq in (1, 2, 3)]
    leaves = [court.leaf(ack.channel, ack.cum, ack.seq) for ack in acks]
    court.post(*leaves)
    proof = court.tree.proof(0)
    for changed in (
        replace(proof, index=1), replace(proof, index=3), replace(proof, count=4),
        replace(proof, siblings=proof.siblings[1:]), replace(proof, siblings=(*proof.siblings, bytes(32))),
        replace(proof, siblings=(proof.siblings[1],)), court.tree.proof(2),
    ):  # fmt: skip
        court.refuse("bad_proof", replace(claim(court, acks[0]), proof=changed))
    # The two hashes of an inner node, dressed up as a leaf's channel and head.
    left, right = map(hash_leaf, leaves[:2])
    node = ledger.Leaf(epoch=0, channel=left, cum=0, seq=0, head=right)
    short = ledger.Proof(index=0, count=2, siblings=proof.siblings[1:])
    for shaped in (short, replace(short, count=3)):
        court.refuse("bad_proof", ledger.ChallengeLeaf(sender=WATCHER, leaf=node, proof=shaped))
    assert earned(court) == 0


def test_the_twin_of_a_signature_is_not_the_signature(court):
    """Loss 0: high s is refused, and no verifier here takes a degenerate Ed25519 signature."""
    ack = court.acknowledge(court.channel, 60)
    s = int.from_bytes(ack.signature[32:64], "big")
    twin = ack.signature[:32] + (ORDER - s).to_bytes(32, "big") + bytes([ack.signature[64] ^ 1])
    for signature in (twin, bytes(65), ack.signature[:64] + bytes([ack.signature[64] ^ 1])):
        court.refuse("bad_signature", direct(replace(ack, signature=signature)))
    # A = R = the identity point, S = 0: OpenSSL and zebra accept it for any message.
    identity = b"\x01" + bytes(31)
    assert not keys.verify(identity, b"any message", identity + bytes(32))
    court.send(direct(ack))
    assert earned(court) == 60


def test_false_accusations_pay_the_accused(court):
    """Loss of the spammer: its stake of 10 each time, to whoever answers; no accusation is heard twice."""
    ack = court.acknowledge(court.channel, 60)
    leaf = court.leaf(court.channel, 60)
    court.post(leaf, court.leaf(court.other, 50))
    spam = ledger.ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=court.tree.proof(0))
    court.send(spam)
    court.send(ledger.AnswerLeaf(sender=AGGREGATOR, leaf=leaf, signature=ack.signature))
    court.refuse("challenge_exists", spam)
    assert (court.contract.balance(WATCHER), court.contract.balance(AGGREGATOR), court.bonded()) == (40, 510, 2000)


def test_a_strangers_channel_is_nobodys_but_its_payers(court):
    """Loss 0: neither a stranger nor the provider can spend, redirect or end it."""
    for sender in (WATCHER, PROVIDER):
        for transaction in (
            ledger.RequestExit(sender=sender, channel=court.channel),
            ledger.FinishExit(sender=sender, channel=court.channel),
            ledger.RotateSession(sender=sender, channel=court.channel, session=NEW_SESSION),
        ):
            court.refuse("not_the_payer", transaction)
    court.refuse("bad_signature", direct(court.acknowledge(court.channel, 60, session=NEW_SESSION)))
    # A claim may be sent by anybody: the money goes to the channel's provider all the same.
    court.send(direct(court.acknowledge(court.channel, 60), sender=WATCHER))
    assert (earned(court), court.contract.balance(WATCHER)) == (60, 50)


def test_who_serves_beyond_the_collateral_is_paid_up_to_it(court):
    """Loss: cum - locked, here 25, the provider's own fault; a top-up still covers it."""
    over = court.acknowledge(court.channel, 425)
    court.send(direct(over))
    assert earned(court) == 400
    court.send(ledger.TopUp(sender=PAYER, channel=court.channel, amount=30))
    assert court.send(direct(over)).paid == 25
    assert court.contract.channel(court.channel).locked - court.contract.channel(court.channel).paid == 5


def test_a_bogus_root_by_a_third_party_moves_nothing_and_costs_its_bond(court):
    """Loss 0, and 100 of the poster's bond for each leaf that is shown; true words are claimed without the root."""
    court.now_ms += 5_000
    court.send(ledger.Deposit(sender=PROVIDER, amount=2000))
    court.send(ledger.Bond(sender=PROVIDER, amount=2000, signer=NEW_SESSION))
    bogus = [court.leaf(court.channel, 400), court.leaf(court.other, 400)]
    court.post(*bogus, sender=PROVIDER)
    for index, leaf in enumerate(bogus):
        forged = court.acknowledge(leaf.channel, 400, session=NEW_SESSION)
        court.refuse("bad_signature", claim(court, forged, leaf=leaf, index=index, sender=PROVIDER))
        court.send(ledger.ChallengeLeaf(sender=WATCHER, leaf=leaf, proof=court.tree.proof(index)))
    court.now_ms += RESPOND_MS
    for leaf in bogus:
        court.send(ledger.Finalize(sender=WATCHER, fault=ledger.Fault.LEAF, epoch=0, subject=hash_leaf(leaf)))
    assert (court.bonded(PROVIDER), earned(court)) == (1800, 0)
    # The aggregator can no longer post this epoch, and nobody needs it to.
    late = ledger.SubmitEpoch(sender=AGGREGATOR, commitment=ledger.Commitment(epoch=0, root=bytes(32), count=1))
    court.refuse("epoch_exists", late)
    court.send(direct(court.acknowledge(court.channel, 60)))
    assert earned(court) == 60


def test_the_model_of_these_stories_is_bound_to_its_own_address():
    """Loss 0: a contract at another address is another domain."""
    elsewhere = Court(make_contract(Address(b"\x66" * 20)))
    here = Court(make_contract(HUB))
    elsewhere.refuse("unknown_channel", direct(here.acknowledge(here.channel, 60)))
