"""The Merkle tree of RFC 6962, section 2.1, over the leaves of one epoch.

Rules of this file: SHA-256; a leaf's hashed bytes begin with 0x00 and a node's with 0x01, so neither passes for the other;
the shape follows from the leaf count alone, so a proof is positional and its siblings need no left/right marks.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256

from quiver.errors import ReceiptMismatch, UsageError
from quiver.identity.signing import leaf_bytes
from quiver.ids import DIGEST_BYTES
from quiver.values.ledger import Commitment, Leaf, Proof

# A leaf index is 8 bytes on the wire, so no path is longer.
SIBLINGS_MAX = 64


def hash_leaf(leaf: Leaf) -> bytes:
    """SHA-256 of the 97 leaf bytes, whose first is 0x00. `ReceiptMismatch` for a leaf that has no such bytes."""
    if len(leaf.channel) != DIGEST_BYTES or len(leaf.head) != DIGEST_BYTES:
        raise ReceiptMismatch(
            f"leaf_shape: channel and head have {DIGEST_BYTES} bytes, not {len(leaf.channel)} and {len(leaf.head)}"
        )
    try:
        return sha256(leaf_bytes(leaf)).digest()
    except struct.error as error:
        raise ReceiptMismatch("leaf_shape: epoch, cum and seq are 8-byte unsigned numbers") from error


def hash_node(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 | left | right)."""
    return sha256(b"\x01" + left + right).digest()


class MerkleTree:
    """All levels of a tree, leaves first. Memory: 64 bytes a leaf."""

    __slots__ = ("_levels",)

    def __init__(self, leaf_hashes: Sequence[bytes]) -> None:
        if not leaf_hashes:
            raise UsageError("a Merkle tree has at least one leaf; an epoch without receipts has no commitment")
        self._levels = [list(leaf_hashes)]
        while len(level := self._levels[-1]) > 1:
            nodes = iter(level)
            # `hash_node` written out: a call for each of a million nodes costs as much as its hash.
            above = [sha256(b"\x01" + left + right).digest() for left, right in zip(nodes, nodes, strict=False)]
            # An odd last node moves up unhashed: the same tree as RFC 6962's split at the largest power of two.
            self._levels.append(above + level[len(level) & ~1 :])

    @property
    def root(self) -> bytes:
        """32 bytes."""
        return self._levels[-1][0]

    def __len__(self) -> int:
        return len(self._levels[0])

    def node(self, level: int, index: int) -> bytes:
        """The node at `index`, `level` above the leaves."""
        return self._levels[level][index]

    def proof(self, index: int) -> Proof:
        """Inclusion proof of leaf `index`, counted from 0."""
        count = len(self)
        if not 0 <= index < count:
            raise UsageError(f"leaf {index} of a tree with {count} leaves")
        siblings, at = [], index
        for level in self._levels[:-1]:
            if (sibling := at ^ 1) < len(level):
                siblings.append(level[sibling])
            at >>= 1
        return Proof(index=index, count=count, siblings=tuple(siblings))


def compute_path_root(leaf_hash: bytes, proof: Proof) -> bytes:
    """Root that the path leads to (RFC 9162, 2.1.3.2). `ReceiptMismatch` when the path does not fit index and count."""
    if not 0 <= proof.index < proof.count:
        raise ReceiptMismatch(f"proof_index: leaf {proof.index} of a tree with {proof.count} leaves")
    if len(proof.siblings) > SIBLINGS_MAX:
        raise ReceiptMismatch(f"proof_length: {len(proof.siblings)} siblings, at most {SIBLINGS_MAX} are read")
    node, at, last = leaf_hash, proof.index, proof.count - 1
    for sibling in proof.siblings:
        if len(sibling) != DIGEST_BYTES:
            raise ReceiptMismatch(f"proof_sibling: a sibling of {len(sibling)} bytes, not {DIGEST_BYTES}")
        if last == 0:
            raise ReceiptMismatch("proof_length: more siblings than the tree has levels")
        if at & 1 or at == last:
            node = hash_node(sibling, node)
            # The last node of an odd level moved up without a sibling.
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            node = hash_node(node, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise ReceiptMismatch("proof_length: fewer siblings than the tree has levels")
    return node


def verify(leaf: Leaf, proof: Proof, commitment: Commitment) -> None:
    """`ReceiptMismatch`, beginning with the reason's name, unless `proof` shows `leaf` in `commitment`.

    Names: leaf_shape, proof_epoch, proof_count, proof_index, proof_length, proof_sibling, proof_root.
    """
    if leaf.epoch != commitment.epoch:
        raise ReceiptMismatch(f"proof_epoch: a leaf of epoch {leaf.epoch} against the root of epoch {commitment.epoch}")
    if proof.count != commitment.count:
        raise ReceiptMismatch(
            f"proof_count: the proof is for {proof.count} leaves, the commitment has {commitment.count}"
        )
    if compute_path_root(hash_leaf(leaf), proof) != commitment.root:
        raise ReceiptMismatch(f"proof_root: the path does not lead to the root of epoch {commitment.epoch}")
