"""What is published of an epoch is the RFC 6962 tree over all its leaves, whatever page a leaf lies on."""

from __future__ import annotations

import hashlib

import pytest

from quiver.aggregator.archive import NAMES, PAGES, Archive
from quiver.aggregator.published import PAGE_LEAVES, Publisher, decode_manifest, decode_page, name_of
from quiver.errors import UsageError
from quiver.ids import Address, ChannelId
from quiver.settlement.channels import leaf_of
from quiver.settlement.merkle import MerkleTree, hash_leaf, verify
from quiver.settlement.multiproof import prove_many, verify_many
from sim.loop import Environment
from sim.store import MemoryStore
from tests.unit.aggregator.entries import make_entries, make_entry

EPOCH = 7
SIZES = (1, 2, 3, 255, 256, 257, 258, 511, 512, 513, 769, 1000, 1281)


class Shelf:
    """A store that holds one published epoch."""

    def __init__(self, entries):
        self.store = MemoryStore(fsync_s=0)
        self.archive = Archive(self.store)
        self.ordered = sorted(entries, key=lambda entry: (entry.provider, entry.leaf.channel))
        publisher, number = Publisher(EPOCH, entries), 0
        while (page := publisher.next_page()) is not None:
            self.write(self.archive.put_page(EPOCH, number, page))
            number += 1
        self.manifest = publisher.finish()
        self.name, rows = self.archive.put_manifest(self.manifest)
        self.write(rows)
        self.tree = MerkleTree([hash_leaf(entry.leaf) for entry in self.ordered])

    def write(self, rows):
        Environment().run_coroutine(self.store.commit(list(rows)))


@pytest.mark.parametrize("count", SIZES)
def test_the_pages_make_the_tree_over_all_leaves_and_every_proof_is_its_proof(count):
    shelf = Shelf(make_entries(count))
    commitment = shelf.manifest.commitment
    assert (commitment.root, commitment.count, commitment.epoch) == (shelf.tree.root, count, EPOCH)
    edges = {0, 1, 255, 256, 257, 511, 512, 513, 768, count // 2, count - 2, count - 1}
    for index in sorted(index for index in edges if 0 <= index < count):
        entry = shelf.ordered[index]
        found, proof = shelf.archive.prove(EPOCH, entry.provider, entry.leaf.channel)
        assert (found.index, found.leaf, found.acknowledgement) == (index, entry.leaf, entry.acknowledgement)
        assert proof == shelf.tree.proof(index)
        verify(found.leaf, proof, commitment)


@pytest.mark.parametrize("count", SIZES)
def test_many_leaves_of_many_pages_go_under_one_proof(count):
    shelf = Shelf(make_entries(count))
    chosen = shelf.ordered[:: max(1, count // 40)]
    wanted = [(entry.provider, entry.leaf.channel) for entry in reversed(chosen)]
    found, proof = shelf.archive.prove_many(EPOCH, [*wanted, *wanted, (Address(b"\x02" * 20), ChannelId(bytes(32)))])
    assert [one.leaf for one in found] == [entry.leaf for entry in chosen]
    assert proof == prove_many(shelf.tree, [one.index for one in found])
    verify_many([leaf_of(one.acknowledgement, EPOCH) for one in found], proof, shelf.manifest.commitment)


def test_a_channel_that_was_not_there_has_no_proof():
    shelf = Shelf(make_entries(300))
    for provider in range(7):
        assert shelf.archive.prove(EPOCH, Address(bytes([provider]) * 20), ChannelId(bytes(32))) is None
    assert shelf.archive.prove(EPOCH + 1, shelf.ordered[0].provider, shelf.ordered[0].leaf.channel) is None
    assert shelf.archive.prove_many(EPOCH + 1, [(shelf.ordered[0].provider, shelf.ordered[0].leaf.channel)]) == (
        [],
        None,
    )


def test_a_stranger_can_rebuild_the_root_from_the_manifests_name_alone():
    shelf = Shelf(make_entries(600))
    data = shelf.archive.content(shelf.name)
    assert hashlib.sha256(data).digest() == shelf.name
    manifest, hashes = decode_manifest(data), []
    for line in manifest.pages:
        page = shelf.archive.content(line.name)
        assert hashlib.sha256(page).digest() == line.name
        hashes += [hash_leaf(leaf.leaf(manifest.epoch)) for leaf in decode_page(page)]
    assert len(hashes) == manifest.count == 600
    assert MerkleTree(hashes).root == manifest.root == shelf.tree.root
    assert shelf.archive.content(bytes(32)) is None


def test_a_page_made_twice_answers_only_to_its_last_name():
    shelf = Shelf(make_entries(3))
    (line,) = shelf.manifest.pages
    other = Publisher(EPOCH, [*make_entries(3), make_entry(9)]).next_page()
    shelf.write(shelf.archive.put_page(EPOCH, 0, other))
    assert shelf.archive.content(line.name) is None
    assert shelf.archive.content(name_of(other)) == other


def test_a_forgotten_epoch_leaves_no_row():
    shelf = Shelf(make_entries(PAGE_LEAVES + 1))
    assert len(list(shelf.store.scan(NAMES))) == 3
    shelf.write(shelf.archive.forget(EPOCH))
    assert list(shelf.store.scan(PAGES)) == list(shelf.store.scan(NAMES)) == []
    assert shelf.archive.closed(EPOCH) is None


def test_entries_of_two_epochs_or_of_one_channel_twice_are_a_bug():
    with pytest.raises(UsageError, match="another epoch"):
        Publisher(EPOCH, [make_entry(1), make_entry(2, epoch=8)])
    with pytest.raises(UsageError, match="two entries"):
        Publisher(EPOCH, [make_entry(1), make_entry(1)])
