"""One proof for many leaves: against the single proofs' tree, by hand, and everything that is refused."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from quiver.errors import ReceiptMismatch
from quiver.settlement.merkle import MerkleTree, hash_leaf, hash_node
from quiver.settlement.multiproof import combine, compute_paths_root, prove_many, verify_many
from quiver.values.ledger import Commitment, Leaf

LEAVES = [Leaf(epoch=5, channel=bytes([n]) * 32, cum=n, seq=n, head=bytes(32)) for n in range(40)]
HASHES = [hash_leaf(leaf) for leaf in LEAVES]


def test_five_leaves_by_hand():
    a, b, c, d, e = HASHES[:5]
    tree = MerkleTree([a, b, c, d, e])
    proof = prove_many(tree, [0, 1, 4])
    # 0 and 1 are each other's siblings, 4 moves up alone: only the node over c and d is missing.
    assert (proof.indices, proof.count, proof.siblings) == ((0, 1, 4), 5, (hash_node(c, d),))
    assert compute_paths_root([a, b, e], proof) == tree.root


def test_every_set_of_leaves_of_every_small_tree_verifies():
    for count in range(1, 9):
        tree = MerkleTree(HASHES[:count])
        good = Commitment(epoch=5, root=tree.root, count=count)
        for size in range(1, count + 1):
            for places in itertools.combinations(range(count), size):
                verify_many([LEAVES[at] for at in places], prove_many(tree, places), good)


def test_single_proofs_combine_to_the_very_proof_a_tree_gives():
    for count in range(1, 9):
        tree = MerkleTree(HASHES[:count])
        for size in range(1, count + 1):
            for places in itertools.combinations(range(count), size):
                assert combine([tree.proof(at) for at in places]) == prove_many(tree, places)


def test_proofs_of_two_trees_or_cut_short_do_not_combine():
    tree = MerkleTree(HASHES[:5])
    with pytest.raises(ReceiptMismatch, match="^proof_count"):
        combine([tree.proof(0), MerkleTree(HASHES[:6]).proof(1)])
    with pytest.raises(ReceiptMismatch, match="^proof_count"):
        combine([])
    with pytest.raises(ReceiptMismatch, match="^proof_length"):
        combine([msgspec.structs.replace(tree.proof(0), siblings=())])


def test_one_leaf_needs_the_siblings_of_its_single_proof():
    for count in (1, 2, 7, 33):
        tree = MerkleTree(HASHES[:count])
        for index in range(count):
            assert prove_many(tree, [index]).siblings == tree.proof(index).siblings


def test_whatever_is_changed_is_refused():
    tree = MerkleTree(HASHES[:33])
    good = Commitment(epoch=5, root=tree.root, count=33)
    rng = random.Random(7)
    for _ in range(200):
        places = sorted(rng.sample(range(33), rng.randint(2, 12)))
        leaves, proof = [LEAVES[at] for at in places], prove_many(tree, places)
        at = rng.randrange(len(places))
        moved = (*proof.indices[:at], proof.indices[at] ^ 1 << rng.randrange(6), *proof.indices[at + 1 :])
        changes = [
            (leaves, msgspec.structs.replace(proof, indices=moved)),
            (leaves, msgspec.structs.replace(proof, siblings=(*proof.siblings, bytes(32)))),
            (leaves, msgspec.structs.replace(proof, siblings=proof.siblings[:-1])),
            (leaves[:-1], proof),
            ([*leaves[:at], msgspec.structs.replace(leaves[at], cum=1 << 40), *leaves[at + 1 :]], proof),
            (leaves[::-1], msgspec.structs.replace(proof, indices=proof.indices[::-1])),
            ([*leaves, leaves[-1]], msgspec.structs.replace(proof, indices=(*proof.indices, proof.indices[-1]))),
        ]
        for changed_leaves, changed in changes:
            with pytest.raises(ReceiptMismatch, match="^proof_"):
                verify_many(changed_leaves, changed, good)


def test_no_leaves_another_epoch_or_count_and_narrow_siblings_are_refused():
    tree = MerkleTree(HASHES[:4])
    good = Commitment(epoch=5, root=tree.root, count=4)
    proof = prove_many(tree, [1])
    for leaves, changed, commitment, name in (
        ([], msgspec.structs.replace(proof, indices=()), good, "proof_index"),
        ([LEAVES[1]], proof, msgspec.structs.replace(good, epoch=6), "proof_epoch"),
        ([LEAVES[1]], proof, msgspec.structs.replace(good, count=5), "proof_count"),
        ([LEAVES[1]], msgspec.structs.replace(proof, siblings=(bytes(31), bytes(32))), good, "proof_sibling"),
    ):
        with pytest.raises(ReceiptMismatch, match=f"^{name}"):
            verify_many(leaves, changed, commitment)
