"""One inclusion proof for many leaves of a tree (docs/protocol.md, section 6): what neighbours share is sent once.

Rules of this file: positional as `merkle` is; every sibling must be used; a leaf's place may be named once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from quiver.errors import ReceiptMismatch
from quiver.ids import DIGEST_BYTES
from quiver.settlement.merkle import MerkleTree, hash_leaf, hash_node
from quiver.values.ledger import Commitment, Leaf, MultiProof, Proof


def prove_many(tree: MerkleTree, indices: Sequence[int]) -> MultiProof:
    """Proof of the leaves at `indices`, which must ascend."""
    return _gather(indices, len(tree), tree.node)


def combine(proofs: Sequence[Proof]) -> MultiProof:
    """One proof of what `proofs` show each by itself: of one tree, by ascending place. `ReceiptMismatch` where they do not fit."""
    counts = {proof.count for proof in proofs}
    if len(counts) != 1:
        raise ReceiptMismatch(f"proof_count: {len(proofs)} proofs of trees with {sorted(counts)} leaves")
    nodes: dict[tuple[int, int], bytes] = {}
    for proof in proofs:
        unused, at, level, width = iter(proof.siblings), proof.index, 0, proof.count
        while width > 1:
            if at ^ 1 < width:
                nodes[level, at ^ 1] = _take(unused)
            at, level, width = at >> 1, level + 1, (width + 1) >> 1
    return _gather([proof.index for proof in proofs], proofs[0].count, lambda level, at: nodes[level, at])


def _gather(indices: Sequence[int], count: int, node: Callable[[int, int], bytes]) -> MultiProof:
    """The siblings that do not follow from the leaves at `indices`; `node(level, place)` is only asked for those."""
    siblings: list[bytes] = []
    level, width, places = 0, count, list(indices)
    while width > 1:
        known = frozenset(places)
        siblings += [node(level, at ^ 1) for at in places if at ^ 1 not in known and at ^ 1 < width]
        places = list(dict.fromkeys(at >> 1 for at in places))
        level, width = level + 1, (width + 1) >> 1
    return MultiProof(indices=tuple(indices), count=count, siblings=tuple(siblings))


def compute_paths_root(leaf_hashes: Sequence[bytes], proof: MultiProof) -> bytes:
    """Root that all paths lead to. `ReceiptMismatch` when they do not fit places and count."""
    if len(leaf_hashes) != len(proof.indices) or not leaf_hashes:
        raise ReceiptMismatch(f"proof_index: {len(proof.indices)} places for {len(leaf_hashes)} leaves")
    previous = -1
    for index in proof.indices:
        if not previous < index < proof.count:
            raise ReceiptMismatch(f"proof_index: leaf {index} after {previous} in a tree with {proof.count} leaves")
        previous = index
    if any(len(sibling) != DIGEST_BYTES for sibling in proof.siblings):
        raise ReceiptMismatch(f"proof_sibling: a sibling that has not {DIGEST_BYTES} bytes")
    nodes, width = list(zip(proof.indices, leaf_hashes, strict=True)), proof.count
    unused = iter(proof.siblings)
    while width > 1:
        nodes = _climb(nodes, width, unused)
        width = (width + 1) >> 1
    if next(unused, None) is not None:
        raise ReceiptMismatch("proof_length: more siblings than the paths need")
    return nodes[0][1]


def _climb(nodes: list[tuple[int, bytes]], width: int, unused: Iterator[bytes]) -> list[tuple[int, bytes]]:
    """The known nodes one level up."""
    above: list[tuple[int, bytes]] = []
    known = dict(nodes)
    for at, node in nodes:
        if at & 1:
            if at - 1 not in known:
                above.append((at >> 1, hash_node(_take(unused), node)))
        elif at == width - 1:
            # The last node of an odd level moves up without a sibling.
            above.append((at >> 1, node))
        else:
            right = known.get(at + 1)
            above.append((at >> 1, hash_node(node, _take(unused) if right is None else right)))
    return above


def _take(unused: Iterator[bytes]) -> bytes:
    sibling = next(unused, None)
    if sibling is None:
        raise ReceiptMismatch("proof_length: fewer siblings than the paths need")
    return sibling


def verify_many(leaves: Sequence[Leaf], proof: MultiProof, commitment: Commitment) -> None:
    """`ReceiptMismatch`, named as by `merkle.verify`, unless `proof` shows all `leaves` in `commitment`."""
    if any(leaf.epoch != commitment.epoch for leaf in leaves):
        raise ReceiptMismatch(f"proof_epoch: a leaf of another epoch against the root of epoch {commitment.epoch}")
    if proof.count != commitment.count:
        raise ReceiptMismatch(
            f"proof_count: the proof is for {proof.count} leaves, the commitment has {commitment.count}"
        )
    if compute_paths_root([hash_leaf(leaf) for leaf in leaves], proof) != commitment.root:
        raise ReceiptMismatch(f"proof_root: the paths do not lead to the root of epoch {commitment.epoch}")
