"""A bundle's own leaf count: the ledger's is checked where it is given; without it a false one proves the same leaf or nothing."""

from __future__ import annotations

import copy
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiver.ids import ChannelId
from quiver.live.client.verify_bundle import check_inclusion
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.values.ledger import Leaf

LEAVES_MAX = 40
DIGEST = b"\xdd" * 32
HEAD = sha256(bytes(32) + DIGEST).digest()


def leaf_at(number):
    """Of channels that each had one receipt of 100 credits."""
    return Leaf(epoch=7, channel=ChannelId(number.to_bytes(32, "big")), cum=100, seq=1, head=HEAD)


def tree_of(count):
    return MerkleTree([hash_leaf(leaf_at(number)) for number in range(count)])


def bundle_of(leaf, *, index, count, siblings):
    """What the path is checked of: receipt, acknowledgement and leaf agree, so only the path can refuse."""
    state = {"channel": leaf.channel.hex(), "seq": leaf.seq, "cum": leaf.cum}
    return {
        "receipt": {"body": state}, "head_before": bytes(32).hex(), "later": [],
        "acknowledgement": {**state, "head": HEAD.hex()}, "leaf": {**state, "head": HEAD.hex(), "epoch": leaf.epoch},
        "proof": {"index": index, "count": count, "siblings": [sibling.hex() for sibling in siblings]},
    }  # fmt: skip


def holds(bundle, root, count=None):
    try:
        check_inclusion(bundle, DIGEST, root, count)
    except ValueError:
        return False
    return True


def honest(tree, index):
    proof = tree.proof(index)
    return bundle_of(leaf_at(index), index=index, count=proof.count, siblings=proof.siblings)


@given(count=st.integers(1, LEAVES_MAX), told=st.integers(0, 1 << 64), data=st.data())
def test_with_the_ledgers_count_a_bundle_with_another_is_refused(count, told, data):
    tree, index = tree_of(count), data.draw(st.integers(0, count - 1))
    bundle = honest(tree, index)
    assert holds(bundle, tree.root, count)
    forged = copy.deepcopy(bundle)
    forged["proof"]["count"] = told
    if told != count:
        with pytest.raises(ValueError, match="proof_count"):
            check_inclusion(forged, DIGEST, tree.root, count)


def test_whatever_count_and_place_are_told_a_path_proves_its_own_leaf_alone():
    """Every path of every tree of up to 9 leaves, told to be at every place of every tree of up to 20."""
    accepted = refused = elsewhere = 0
    for count in range(1, 10):
        tree = tree_of(count)
        for owner in range(count):
            siblings = tree.proof(owner).siblings
            for told in range(21):
                for index in range(told):
                    for shown in range(count):
                        bundle = bundle_of(leaf_at(shown), index=index, count=told, siblings=siblings)
                        if not holds(bundle, tree.root):
                            refused += 1
                            continue
                        assert shown == owner
                        accepted += 1
                        elsewhere += (index, told) != (owner, count)
    # Not for nothing: a false count does pass, as the same leaf at another place.
    assert accepted > elsewhere > 0 < refused


@settings(max_examples=300)
@given(count=st.integers(1, LEAVES_MAX), told=st.integers(1, 4 * LEAVES_MAX), data=st.data())
def test_no_count_puts_a_leaf_under_a_root_that_is_not_there(count, told, data):
    """A forger has every node of the tree, and any leaf but the tree's own."""
    tree = tree_of(count)
    sizes = [count]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) >> 1)
    nodes = [tree.node(level, at) for level, size in enumerate(sizes) for at in range(size)]
    index = data.draw(st.integers(0, told - 1))
    siblings = data.draw(st.lists(st.sampled_from(nodes), max_size=8))
    changed = data.draw(st.sampled_from(["epoch", "channel", "cum"]))
    forged = {"epoch": 8, "channel": ChannelId(b"\xff" * 32), "cum": 101}[changed]
    leaf = Leaf(**{**{name: getattr(leaf_at(0), name) for name in leaf_at(0).__struct_fields__}, changed: forged})
    assert not holds(bundle_of(leaf, index=index, count=told, siblings=siblings), tree.root)


@given(count=st.integers(2, LEAVES_MAX), data=st.data())
def test_with_the_ledgers_count_the_place_is_the_leafs_own(count, data):
    tree, owner = tree_of(count), data.draw(st.integers(0, count - 1))
    bundle = honest(tree, owner)
    bundle["proof"]["index"] = data.draw(st.integers(0, count - 1).filter(lambda index: index != owner))
    assert not holds(bundle, tree.root, count)
