"""What is published of a closed epoch: pages of 256 leaves with their acknowledgements, and a manifest that names them.

Rules of this file: no I/O. Everything is immutable and named by its SHA-256 (docs/protocol.md, section 6), so it may be copied and
served by anybody. Whoever has the manifest's name can check each page, the root, and each leaf's signature by himself.

A page is a whole subtree, eight levels high, so a proof needs the leaf's page and the roots in the manifest, never the whole epoch.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping

import msgspec

from quiver.aggregator.window import Entry
from quiver.errors import UsageError
from quiver.ids import Address, ChannelId
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.values.ledger import Commitment, Leaf, Proof
from quiver.values.receipt import Acknowledgement

# A page is read and hashed for each question: 256 leaves are 50 KB and 511 hashes.
PAGE_LEVELS = 8
PAGE_LEAVES = 1 << PAGE_LEVELS
VERSION = 1


class PublishedLeaf(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line of a page: leaf and acknowledgement, which say the same."""

    provider: Address
    channel: ChannelId
    cum: int
    seq: int
    head: bytes
    signature: bytes
    "The payer's, over the acknowledgement."

    def leaf(self, epoch: int) -> Leaf:
        """As it is hashed."""
        return Leaf(epoch=epoch, channel=self.channel, cum=self.cum, seq=self.seq, head=self.head)

    @property
    def acknowledgement(self) -> Acknowledgement:
        """As a claim needs it."""
        return Acknowledgement(
            channel=self.channel, seq=self.seq, cum=self.cum, head=self.head, signature=self.signature
        )


class PageLine(msgspec.Struct, frozen=True, array_like=True):
    """What the manifest says of one page."""

    provider: Address
    channel: ChannelId
    "Of the page's first leaf."
    root: bytes
    "Of the page's subtree."
    name: bytes
    "SHA-256 of the page."


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """A closed epoch, page by page in tree order."""

    version: int
    epoch: int
    root: bytes
    count: int
    pages: tuple[PageLine, ...]

    @property
    def commitment(self) -> Commitment:
        """What the ledger holds."""
        return Commitment(epoch=self.epoch, root=self.root, count=self.count)


_ENCODE = msgspec.msgpack.Encoder().encode
_PAGE = msgspec.msgpack.Decoder(tuple[PublishedLeaf, ...])
_MANIFEST = msgspec.msgpack.Decoder(Manifest)


def name_of(data: bytes) -> bytes:
    """By which published bytes are asked for."""
    return hashlib.sha256(data).digest()


def decode_page(data: bytes) -> tuple[PublishedLeaf, ...]:
    """`msgspec.MsgspecError` for bytes that are no page."""
    return _PAGE.decode(data)


def decode_manifest(data: bytes) -> Manifest:
    """`msgspec.MsgspecError` for bytes that are no manifest."""
    return _MANIFEST.decode(data)


class Publisher:
    """Makes the pages of an epoch one after the other; leaves are sorted by (provider account, channel)."""

    def __init__(self, epoch: int, entries: Iterable[Entry]) -> None:
        self._epoch = epoch
        self._leaves = sorted(map(self._line, entries), key=lambda leaf: (leaf.provider, leaf.channel))
        if len({leaf.channel for leaf in self._leaves}) != len(self._leaves):
            raise UsageError(f"two entries of one channel in epoch {epoch}")
        self._lines: list[PageLine] = []

    def next_page(self) -> bytes | None:
        """The next page, None after the last."""
        start = len(self._lines) * PAGE_LEAVES
        leaves = self._leaves[start : start + PAGE_LEAVES]
        if not leaves:
            return None
        data = _ENCODE(leaves)
        root = MerkleTree([hash_leaf(leaf.leaf(self._epoch)) for leaf in leaves]).root
        self._lines.append(PageLine(leaves[0].provider, leaves[0].channel, root, name_of(data)))
        return data

    def finish(self) -> Manifest:
        """After the last page."""
        root = MerkleTree([line.root for line in self._lines]).root
        return Manifest(VERSION, self._epoch, root, len(self._leaves), tuple(self._lines))

    def _line(self, entry: Entry) -> PublishedLeaf:
        leaf, signature = entry.leaf, entry.acknowledgement.signature
        if leaf.epoch != self._epoch:
            raise UsageError(f"an entry of another epoch among those of epoch {self._epoch}")
        return PublishedLeaf(entry.provider, leaf.channel, leaf.cum, leaf.seq, leaf.head, signature)


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes its name is of."""
    return _ENCODE(manifest)


class ClosedEpoch:
    """A manifest and the tree over its pages' roots."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.upper = MerkleTree([line.root for line in manifest.pages])
        self._firsts = [(line.provider, line.channel) for line in manifest.pages]

    def page_of(self, provider: Address, channel: ChannelId) -> int | None:
        """The only page that may hold a channel; None when all pages lie behind it."""
        at = bisect_right(self._firsts, (provider, channel)) - 1
        return None if at < 0 else at


class PagedTree(MerkleTree):
    """The epoch's tree, of which only some pages are at hand: enough for proofs of the leaves in them."""

    __slots__ = ("_count", "_pages", "_upper")

    def __init__(self, closed: ClosedEpoch, pages: Mapping[int, tuple[PublishedLeaf, ...]]) -> None:
        self._count, self._upper = closed.manifest.count, closed.upper
        epoch = closed.manifest.epoch
        self._pages = {
            number: MerkleTree([hash_leaf(line.leaf(epoch)) for line in page]) for number, page in pages.items()
        }

    @property
    def root(self) -> bytes:
        """32 bytes."""
        return self._upper.root

    def __len__(self) -> int:
        return self._count

    def node(self, level: int, index: int) -> bytes:
        """The node at `index`, `level` above the leaves, within a page that is at hand or above all pages."""
        if level >= PAGE_LEVELS:
            return self._upper.node(level - PAGE_LEVELS, index)
        number = index >> (PAGE_LEVELS - level)
        page = self._pages[number]
        # The root of a last page that is not full moves up unhashed, as every odd last node does.
        top = (len(page) - 1).bit_length()
        return page.root if level >= top else page.node(level, index - (number << (PAGE_LEVELS - level)))

    def proof(self, index: int) -> Proof:
        """Inclusion proof of leaf `index`, whose page is at hand."""
        siblings, at, width, level = [], index, self._count, 0
        while width > 1:
            if (sibling := at ^ 1) < width:
                siblings.append(self.node(level, sibling))
            at, width, level = at >> 1, (width + 1) >> 1, level + 1
        return Proof(index=index, count=self._count, siblings=tuple(siblings))
