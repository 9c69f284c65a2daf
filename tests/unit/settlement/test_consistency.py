"""Consistency proofs against RFC 6962's own recursion, its example, and pymerkle, an implementation that is not ours."""

from __future__ import annotations

import hashlib

import pytest
from pymerkle import InmemoryTree
from pymerkle.proof import ConsistencyProof
from pymerkle.proof import verify_consistency as verify_as_pymerkle

from quiver.errors import ReceiptMismatch, UsageError
from quiver.settlement.consistency import prove_consistency, verify_consistency
from quiver.settlement.merkle import MerkleTree

DATA = [b"leaf %d" % number for number in range(70)]
HASHES = [hashlib.sha256(b"\x00" + data).digest() for data in DATA]
TREES = {count: MerkleTree(HASHES[:count]) for count in range(1, len(DATA) + 1)}
PAIRS = [(old, new) for new in range(1, 71) for old in range(1, new + 1)]


def mth(hashes):
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def subproof(m, hashes, is_whole):
    """SUBPROOF of RFC 6962, section 2.1.2, word for word."""
    if m == len(hashes):
        return () if is_whole else (mth(hashes),)
    k = 1 << (len(hashes) - 1).bit_length() - 1
    if m <= k:
        return (*subproof(m, hashes[:k], is_whole), mth(hashes[k:]))
    return (*subproof(m - k, hashes[k:], False), mth(hashes[:k]))


def test_every_proof_is_the_rfcs_and_leads_to_both_roots():
    for old, new in PAIRS:
        proof = prove_consistency(TREES[new], old)
        assert proof == subproof(old, HASHES[:new], True)
        verify_consistency(TREES[old].root, old, TREES[new].root, new, proof)


def test_the_rfcs_example_by_hand():
    """Section 2.1.3: of seven leaves, three are proven by [c, d, g, l], four by [l], six by [i, j, k]."""
    a, b, c, d, e, f, j = HASHES[:7]

    def node(left, right):
        return hashlib.sha256(b"\x01" + left + right).digest()

    g, h, i = node(a, b), node(c, d), node(e, f)
    k, l = node(g, h), node(i, j)
    assert prove_consistency(TREES[7], 3) == (c, d, g, l)
    assert prove_consistency(TREES[7], 4) == (l,)
    assert prove_consistency(TREES[7], 6) == (i, j, k)


def test_pymerkle_accepts_our_hashes_for_its_own_trees():
    """Its proofs split an old tree that is full further than the RFC; where they do not, its rule is run over our hashes."""
    tree = InmemoryTree(algorithm="sha256")
    for data in DATA:
        tree.append_entry(data)
    compared = 0
    for old, new in PAIRS:
        assert tree.get_root(old) == TREES[old].root
        if old == new:
            continue
        theirs = tree.prove_consistency(old, new)
        ours = {one: one for one in prove_consistency(TREES[new], old)}
        if not ours.keys() >= {*theirs.path}:
            continue
        rebuilt = ConsistencyProof(
            theirs.algorithm, theirs.security, theirs.size, theirs.prior_size, theirs.rule, theirs.subset,
            [ours[one] for one in theirs.path],
        )  # fmt: skip
        verify_as_pymerkle(
            TREES[old].root, TREES[new].root, rebuilt, prior_size=old, later_size=new, algorithm="sha256"
        )
        compared += 1
    assert compared > 1000


def test_a_changed_history_or_a_changed_proof_is_refused():
    forked = MerkleTree([bytes(32), *HASHES[1:70]])
    for old, new in ((1, 2), (3, 7), (4, 7), (6, 7), (32, 64), (33, 70), (69, 70)):
        proof = prove_consistency(TREES[new], old)
        with pytest.raises(ReceiptMismatch, match="^proof_root"):
            verify_consistency(MerkleTree([bytes(32), *HASHES[1:old]]).root, old, TREES[new].root, new, proof)
        with pytest.raises(ReceiptMismatch, match="^proof_root"):
            verify_consistency(TREES[old].root, old, forked.root, new, proof)
        for at in range(len(proof)):
            with pytest.raises(ReceiptMismatch, match="^proof_root"):
                spoilt = (*proof[:at], bytes(32), *proof[at + 1 :])
                verify_consistency(TREES[old].root, old, TREES[new].root, new, spoilt)
            with pytest.raises(ReceiptMismatch, match="^proof"):
                verify_consistency(TREES[old].root, old, TREES[new].root, new, (*proof[:at], *proof[at + 1 :]))
        with pytest.raises(ReceiptMismatch, match="^proof"):
            verify_consistency(TREES[old].root, old, TREES[new].root, new, (*proof, bytes(32)))


@pytest.mark.parametrize(
    ("old", "new", "proof", "name"),
    [
        (0, 3, (), "consistency_count"), (4, 3, (), "consistency_count"), (3, 3, (bytes(32),), "proof_length"),
        (3, 7, (), "proof_length"), (3, 7, (bytes(31),) * 4, "proof_sibling"), (3, 7, (bytes(32),) * 129, "proof_length"),
    ],
)  # fmt: skip
def test_what_is_no_proof_is_refused_by_name(old, new, proof, name):
    with pytest.raises(ReceiptMismatch, match=f"^{name}"):
        verify_consistency(bytes(32), old, bytes(32), new, proof)


def test_there_is_no_proof_from_nothing_or_from_more():
    for old in (0, 8):
        with pytest.raises(UsageError):
            prove_consistency(TREES[7], old)
