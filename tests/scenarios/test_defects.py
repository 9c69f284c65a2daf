"""Defects 4 to 10 of the earlier QUIVer (a Go implementation under this name), each as a test that it would fail.

`court` is the contract of `tests/unit/settlement/test_disputes.py`; on an EVM the same tests run in `tests/evm/test_attacks.py`.
"""

from __future__ import annotations

import msgspec
import pytest

from quiver.errors import ReceiptMismatch, WireCode
from quiver.identity.signing import next_head, receipt_digest
from quiver.settlement.merkle import MerkleTree, compute_path_root, hash_leaf, hash_node
from quiver.values import ledger
from quiver.values.frames import Ingested, Refused
from tests.unit.aggregator.test_service import tell
from tests.unit.receipts.histories import History
from tests.unit.settlement.test_disputes import AGGREGATOR, PROVIDER, WATCHER, Court, make_contract

replace = msgspec.structs.replace


@pytest.fixture
def court():
    return Court(make_contract())


def test_defect_4_an_aggregator_takes_no_receipt_whose_signature_does_not_verify():
    """There: whatever is posted is stored."""

    async def story(world):
        batch = world.batch(1, 2)
        first, second = batch.receipts
        forged = replace(batch, receipts=(first, replace(second, signature=first.signature)))
        refused, taken = await world.ask(forged, batch)
        assert isinstance(refused, Refused) and refused.code == WireCode.BAD_SIGNATURE
        assert isinstance(taken, Ingested) and taken.accepted == 2

    tell(story)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 16, 64, 100, 256])
def test_defect_5_every_merkle_proof_verifies(court, count):
    """There: built by position, verified by sorted pairs; of 64 proofs 4 passed, of 256 none."""
    leaves = [court.leaf(court.channel, cum=number) for number in range(1, count + 1)]
    tree = MerkleTree([hash_leaf(leaf) for leaf in leaves])
    assert all(compute_path_root(hash_leaf(leaf), tree.proof(at)) == tree.root for at, leaf in enumerate(leaves))
    # And where it counts: the contract takes the last leaf's proof.
    court.post(*leaves)
    ack = court.acknowledge(court.channel, count)
    court.send(ledger.Claim(sender=WATCHER, leaf=leaves[-1], proof=court.tree.proof(count - 1), acknowledgement=ack))
    assert court.contract.balance(PROVIDER) == count


def test_defect_6_leaves_and_nodes_are_told_apart_and_no_odd_node_is_doubled(court):
    """There: no prefixes, and the last odd node is hashed with itself, so two lists share a root (CVE-2012-2459)."""
    hashes = [hash_leaf(court.leaf(court.channel, cum)) for cum in (1, 2, 3)]
    assert MerkleTree(hashes).root != MerkleTree([*hashes, hashes[-1]]).root
    assert MerkleTree(hashes).root == hash_node(hash_node(*hashes[:2]), hashes[2])
    node = hash_node(*hashes[:2])
    assert MerkleTree([node, hashes[2]]).root == MerkleTree(hashes).root
    # Equal roots, but the node is no leaf: nothing hashes to it, and its proof names another count.
    court.post(*(court.leaf(court.channel, cum) for cum in (1, 2, 3)))
    dressed = ledger.Leaf(epoch=0, channel=hashes[0], cum=0, seq=0, head=hashes[1])
    assert hash_leaf(dressed) != node
    proof = ledger.Proof(index=0, count=2, siblings=(hashes[2],))
    court.refuse("bad_proof", ledger.ChallengeLeaf(sender=WATCHER, leaf=dressed, proof=proof))


def test_defect_7_a_committed_epoch_is_never_overwritten(court):
    """There: each commit replaces the root of the epoch."""
    posted = court.post(court.leaf(court.channel, 60))
    other = ledger.Commitment(epoch=0, root=bytes(32), count=1)
    court.refuse("epoch_exists", ledger.SubmitEpoch(sender=AGGREGATOR, commitment=other))
    court.refuse("epoch_exists", ledger.SubmitEpoch(sender=AGGREGATOR, commitment=posted))
    assert court.contract.epoch(0).commitment == posted


def test_defect_8_a_claim_pays_once_and_its_event_is_the_ledgers(court):
    """There: claims are unlimited, and their transaction hash is invented."""
    ack, leaf = court.acknowledge(court.channel, 60), court.leaf(court.channel, 60)
    court.post(leaf)
    claimed = ledger.Claim(sender=PROVIDER, leaf=leaf, proof=court.tree.proof(0), acknowledgement=ack)
    event = court.send(claimed)
    assert (event.paid, event.channel, event.transaction) == (60, court.channel, claimed)
    for _ in range(3):
        court.refuse("nothing_due", claimed)
    assert court.contract.balance(PROVIDER) == 60


def test_defect_9_the_contract_checks_proof_and_signature_itself_and_has_no_owner(court):
    """There: `onlyOwner processReceipt`, a call for each receipt, and no proof."""
    ack, leaf = court.acknowledge(court.channel, 60), court.leaf(court.channel, 60)
    court.post(leaf, court.leaf(court.other, 50))
    honest = ledger.Claim(sender=WATCHER, leaf=leaf, proof=court.tree.proof(0), acknowledgement=ack)
    court.refuse("bad_proof", replace(honest, proof=court.tree.proof(1)))
    court.refuse("leaf_mismatch", replace(honest, leaf=court.leaf(court.channel, 61)))
    # The aggregator itself can take nothing, and a stranger may send what pays the provider.
    invented = replace(ack, cum=400)
    court.refuse("bad_signature", ledger.ClaimDirect(sender=AGGREGATOR, acknowledgement=invented))
    court.send(honest)
    assert court.contract.balance(PROVIDER) == 60


def test_defect_10_a_provider_alone_mints_nothing_and_its_receipts_are_one_chain(court):
    """There: the provider's signature is enough, the id leaves out seq and prev_hash, and the chain forks under concurrency.

    That concurrent requests fork no channel is tests/scenarios/test_last_receipt.py::test_requests_that_end_together_fork_no_channel.
    """
    alone = replace(court.acknowledge(court.channel, 60), signature=bytes(65))
    court.refuse("bad_signature", ledger.ClaimDirect(sender=PROVIDER, acknowledgement=alone))
    history = History((10, 20))
    first, second = (receipt.body for receipt in history.receipts)
    heads = [next_head(bytes(32), receipt_digest(first)), next_head(bytes(32), receipt_digest(replace(first, seq=2)))]
    assert heads[0] == history.heads[1].head and heads[0] != heads[1]
    assert (
        history.heads[2].head
        == next_head(heads[0], receipt_digest(second))
        != next_head(heads[1], receipt_digest(second))
    )


def test_an_odd_path_of_the_earlier_kind_is_refused(court):
    """What its builder would have handed out: the last node beside itself."""
    hashes = [hash_leaf(court.leaf(court.channel, cum)) for cum in (1, 2, 3)]
    doubled = ledger.Proof(index=2, count=3, siblings=(hashes[2], hash_node(*hashes[:2])))
    with pytest.raises(ReceiptMismatch, match="proof_length"):
        compute_path_root(hashes[2], doubled)
