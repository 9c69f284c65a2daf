"""Proof that a tree is an earlier one with leaves added behind it (RFC 6962, section 2.1.2; checked as RFC 9162, 2.1.4.2, says).

Two states of a log that only grows are compared by their roots alone. Positional as `merkle` is. An epoch is no such log, so no
role asks for one (docs/decisions/009-published-epochs.md says why): it is for whoever keeps roots in a log outside a ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

from quiver.errors import ReceiptMismatch, UsageError
from quiver.ids import DIGEST_BYTES
from quiver.settlement.merkle import MerkleTree, hash_node

# Two paths of a tree of at most 2^64 leaves.
SIBLINGS_MAX = 128


def prove_consistency(tree: MerkleTree, old_count: int) -> tuple[bytes, ...]:
    """From the first `old_count` leaves to all of them; empty when these are all."""
    count = len(tree)
    if not 0 < old_count <= count:
        raise UsageError(f"the first {old_count} leaves of a tree with {count}")
    above: list[bytes] = []
    start, end, is_old_tree = 0, count, True
    while (old := old_count - start) < end - start:
        # The left subtree is the largest full one that leaves something on the right.
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if old_count <= middle:
            above.append(_root_of(tree, middle, end))
            end = middle
        else:
            above.append(_root_of(tree, start, middle))
            start, is_old_tree = middle, False
    assert old == end - start
    # Where the old tree is itself a subtree, whoever checks knows its root.
    below = () if is_old_tree else (_root_of(tree, start, end),)
    return (*below, *reversed(above))


def _root_of(tree: MerkleTree, start: int, end: int) -> bytes:
    level = (end - start - 1).bit_length()
    return tree.node(level, start >> level)


def verify_consistency(old_root: bytes, old_count: int, root: bytes, count: int, siblings: Sequence[bytes]) -> None:
    """`ReceiptMismatch`, beginning with its name, unless `siblings` lead to both roots.

    Names: consistency_count, proof_length, proof_sibling, proof_root.
    """
    if not 0 < old_count <= count:
        raise ReceiptMismatch(f"consistency_count: the first {old_count} leaves of {count}")
    if len(siblings) > SIBLINGS_MAX:
        raise ReceiptMismatch(f"proof_length: {len(siblings)} siblings, at most {SIBLINGS_MAX} are read")
    if any(len(sibling) != DIGEST_BYTES for sibling in siblings):
        raise ReceiptMismatch(f"proof_sibling: a sibling that has not {DIGEST_BYTES} bytes")
    path = list(siblings)
    if old_count == count:
        if path:
            raise ReceiptMismatch("proof_length: equal trees need no sibling")
        found = (old_root, old_root)
    else:
        if old_count & (old_count - 1) == 0:
            path.insert(0, old_root)
        found = _climb(path, old_count, count)
    if found != (old_root, root):
        raise ReceiptMismatch("proof_root: the siblings do not lead to both roots")


def _climb(path: list[bytes], old_count: int, count: int) -> tuple[bytes, bytes]:
    """(old root, root) that the path leads to."""
    if not path:
        raise ReceiptMismatch("proof_length: fewer siblings than the paths need")
    at, last = old_count - 1, count - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ReceiptMismatch("proof_length: more siblings than the paths need")
        if at & 1 or at == last:
            old, new = hash_node(sibling, old), hash_node(sibling, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = hash_node(new, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise ReceiptMismatch("proof_length: fewer siblings than the paths need")
    return old, new
