"""The tree against RFC 6962 by hand, and against pymerkle, an implementation that is not ours."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from pymerkle import InmemoryTree
from pymerkle.proof import InclusionProof, verify_inclusion

from quiver.errors import ReceiptMismatch, UsageError
from quiver.identity.signing import leaf_bytes
from quiver.settlement.merkle import MerkleTree, hash_leaf, verify
from quiver.values.ledger import Commitment, Leaf, Proof

LEAVES_MAX = 300


def make_leaf(number: int) -> Leaf:
    return Leaf(
        epoch=5,
        channel=hashlib.sha256(b"%d" % number).digest(),
        cum=10 * number,
        seq=number,
        head=bytes([number % 256]) * 32,
    )


LEAVES = [make_leaf(number) for number in range(LEAVES_MAX)]
HASHES = [hash_leaf(leaf) for leaf in LEAVES]


def commit(count: int) -> tuple[MerkleTree, Commitment]:
    tree = MerkleTree(HASHES[:count])
    return tree, Commitment(epoch=5, root=tree.root, count=count)


def test_a_leaf_is_97_bytes_that_begin_with_zero():
    raw = leaf_bytes(LEAVES[3])
    assert (len(raw), raw[0]) == (97, 0)
    assert HASHES[3] == hashlib.sha256(raw).digest()


def test_three_leaves_by_hand():
    def node(left, right):
        return hashlib.sha256(b"\x01" + left + right).digest()

    a, b, c = HASHES[:3]
    tree = MerkleTree([a, b, c])
    assert tree.root == node(node(a, b), c)
    assert tree.proof(0) == Proof(index=0, count=3, siblings=(b, c))
    assert tree.proof(2) == Proof(index=2, count=3, siblings=(node(a, b),))
    assert MerkleTree([a]).root == a
    assert MerkleTree([a]).proof(0).siblings == ()


def test_no_tree_without_leaves_and_no_proof_beyond_them():
    with pytest.raises(UsageError):
        MerkleTree([])
    with pytest.raises(UsageError):
        MerkleTree(HASHES[:3]).proof(3)


def test_every_leaf_of_every_tree_up_to_300_verifies_here_and_with_pymerkle():
    theirs = InmemoryTree(algorithm="sha256")
    for count in range(1, LEAVES_MAX + 1):
        theirs.append_entry(leaf_bytes(LEAVES[count - 1])[1:])
        tree, commitment = commit(count)
        assert tree.root == theirs.get_root()
        for index in range(count):
            proof = tree.proof(index)
            verify(LEAVES[index], proof, commitment)
            verify_inclusion(
                HASHES[index],
                tree.root,
                as_pymerkle(HASHES[index], proof),
                index=index + 1,
                size=count,
                algorithm="sha256",
            )


def as_pymerkle(leaf_hash: bytes, proof: Proof) -> InclusionProof:
    """Our proof as theirs: its rule says, from the leaf up, whether each sibling is on the left (1), and ends with 0."""
    rule, at, last = [], proof.index, proof.count - 1
    while last:
        if at & 1 or at < last:
            rule.append(at & 1)
        at, last = at >> 1, last >> 1
    return InclusionProof("sha256", True, proof.count, proof.index + 1, [*rule, 0], [leaf_hash, *proof.siblings])


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7])
def test_any_flipped_bit_of_leaf_proof_or_root_is_refused(count):
    tree, good = commit(count)
    for index in range(count):
        proof = tree.proof(index)
        verify(LEAVES[index], proof, good)
        for bit in range(64):
            for field in ("index", "count"):
                flipped = msgspec.structs.replace(proof, **{field: getattr(proof, field) ^ 1 << bit})
                refuse(LEAVES[index], flipped, good, "proof_")
            for field in ("epoch", "cum", "seq"):
                leaf = msgspec.structs.replace(LEAVES[index], **{field: getattr(LEAVES[index], field) ^ 1 << bit})
                refuse(leaf, proof, good, "proof_")
        for bit in range(256):
            refuse(LEAVES[index], proof, msgspec.structs.replace(good, root=flip(good.root, bit)), "proof_root")
            for field in ("channel", "head"):
                leaf = msgspec.structs.replace(LEAVES[index], **{field: flip(getattr(LEAVES[index], field), bit)})
                refuse(leaf, proof, good, "proof_root")
            for at in range(len(proof.siblings)):
                siblings = list(proof.siblings)
                siblings[at] = flip(siblings[at], bit)
                refuse(LEAVES[index], msgspec.structs.replace(proof, siblings=tuple(siblings)), good, "proof_root")


def test_a_path_of_another_length_or_width_is_refused():
    tree, good = commit(7)
    proof = tree.proof(2)
    for siblings in (proof.siblings[:-1], (*proof.siblings, bytes(32)), (bytes(32),) * 65):
        refuse(LEAVES[2], msgspec.structs.replace(proof, siblings=siblings), good, "proof_length")
    refuse(
        LEAVES[2],
        msgspec.structs.replace(proof, siblings=(proof.siblings[0][:-1], *proof.siblings[1:])),
        good,
        "proof_sibling",
    )
    refuse(LEAVES[2], msgspec.structs.replace(proof, index=-1), good, "proof_index")


def test_a_leaf_without_97_bytes_is_refused():
    tree, good = commit(2)
    for change in ({"channel": bytes(33)}, {"head": bytes(31)}, {"cum": -1}, {"seq": 1 << 64}):
        leaf = msgspec.structs.replace(LEAVES[0], **change)
        refuse(leaf, tree.proof(0), good, "leaf_shape")


def test_an_inner_node_does_not_pass_for_a_leaf():
    tree, good = commit(4)
    inner = MerkleTree(HASHES[:2]).root
    # The path of an inner node is one shorter than any leaf's of a 4-leaf tree.
    shorter = Proof(index=0, count=4, siblings=tree.proof(0).siblings[1:])
    refuse(LEAVES[0], shorter, good, "proof_length")
    assert inner not in HASHES


def flip(data: bytes, bit: int) -> bytes:
    number = int.from_bytes(data, "big") ^ 1 << bit
    return number.to_bytes(len(data), "big")


def refuse(leaf: Leaf, proof: Proof, commitment: Commitment, name: str) -> None:
    with pytest.raises(ReceiptMismatch, match=f"^{name}"):
        verify(leaf, proof, commitment)
