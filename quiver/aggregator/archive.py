"""Closed epochs as rows: their pages, their manifests, and where each piece of content lies.

A question reads the pages of the leaves it asks for and, unless it was asked for lately, one manifest: nothing is rebuilt.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from quiver.aggregator.published import (
    PAGE_LEAVES,
    ClosedEpoch,
    Manifest,
    PagedTree,
    PublishedLeaf,
    decode_manifest,
    decode_page,
    encode_manifest,
    name_of,
)
from quiver.aggregator.window import epoch_key
from quiver.ids import Address, ChannelId
from quiver.ports import Store
from quiver.settlement.multiproof import prove_many
from quiver.values.ledger import Leaf, MultiProof, Proof
from quiver.values.receipt import Acknowledgement

PAGES, MANIFESTS, NAMES = "aggregator_pages", "aggregator_manifests", "aggregator_names"
SHARD_TABLES = ("shard_pages", "shard_manifests", "shard_names")
# Manifests kept decoded: one of an epoch with a million leaves is about 2 MB.
MANIFESTS_MAX = 8
_NUMBER_BYTES = 4

Put = tuple[str, bytes, bytes | None]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A channel's leaf in a closed epoch."""

    index: int
    leaf: Leaf
    acknowledgement: Acknowledgement


class Archive:
    """Reads and names; what it returns to put is committed by the caller."""

    def __init__(self, store: Store, tables: tuple[str, str, str] = (PAGES, MANIFESTS, NAMES)) -> None:
        self._store = store
        self._pages, self._manifests, self._names = tables
        self._closed: OrderedDict[int, ClosedEpoch] = OrderedDict()

    # ---- writing

    def put_page(self, epoch: int, number: int, data: bytes) -> list[Put]:
        """Rows of one page; harmless while no manifest names it."""
        key = epoch_key(epoch) + number.to_bytes(_NUMBER_BYTES, "big")
        return [(self._pages, key, data), (self._names, name_of(data), key)]

    def put_manifest(self, manifest: Manifest) -> tuple[bytes, list[Put]]:
        """Its name, and its rows."""
        data, key = encode_manifest(manifest), epoch_key(manifest.epoch)
        name = name_of(data)
        return name, [(self._manifests, key, data), (self._names, name, key)]

    def forget(self, epoch: int) -> Iterator[Put]:
        """Deletes everything of an epoch."""
        self._closed.pop(epoch, None)
        key = epoch_key(epoch)
        for page, data in self._store.scan(self._pages, key):
            yield (self._names, name_of(data), None)
            yield (self._pages, page, None)
        if (manifest := self._store.get(self._manifests, key)) is not None:
            yield (self._names, name_of(manifest), None)
            yield (self._manifests, key, None)

    # ---- reading

    def content(self, name: bytes) -> bytes | None:
        """The published bytes with this SHA-256."""
        if (key := self._store.get(self._names, name)) is None:
            return None
        data = self._store.get(self._manifests if len(key) == len(epoch_key(0)) else self._pages, key)
        # A page that was made twice, before and after a crash, may have left the name of its first form.
        return data if data is not None and name_of(data) == name else None

    def prove(self, epoch: int, provider: Address, channel: ChannelId) -> tuple[Found, Proof] | None:
        """A channel's leaf and its proof; None when it was not active in the epoch."""
        found, tree = self._look(epoch, [(provider, channel)])
        return (found[0], tree.proof(found[0].index)) if found and tree is not None else None

    def prove_many(
        self, epoch: int, wanted: Iterable[tuple[Address, ChannelId]]
    ) -> tuple[Sequence[Found], MultiProof | None]:
        """Those of the channels that were active in the epoch, by place, under one proof."""
        found, tree = self._look(epoch, sorted(set(wanted)))
        return found, prove_many(tree, [one.index for one in found]) if found and tree is not None else None

    def _look(self, epoch: int, wanted: Sequence[tuple[Address, ChannelId]]) -> tuple[list[Found], PagedTree | None]:
        closed = self.closed(epoch)
        if closed is None:
            return [], None
        pages: dict[int, tuple[PublishedLeaf, ...]] = {}
        found = []
        for provider, channel in wanted:
            number = closed.page_of(provider, channel)
            if number is None:
                continue
            if number not in pages:
                pages[number] = self.page(epoch, number)
            for at, line in enumerate(pages[number]):
                if line.channel == channel:
                    found.append(
                        Found(
                            index=number * PAGE_LEAVES + at, leaf=line.leaf(epoch), acknowledgement=line.acknowledgement
                        )
                    )
                    break
        return found, PagedTree(closed, {number: page for number, page in pages.items() if page})

    def page(self, epoch: int, number: int) -> tuple[PublishedLeaf, ...]:
        """Leaves of one page; empty where it is not held: a shard holds those with leaves of its own."""
        data = self._store.get(self._pages, epoch_key(epoch) + number.to_bytes(_NUMBER_BYTES, "big"))
        return () if data is None else decode_page(data)

    def closed(self, epoch: int) -> ClosedEpoch | None:
        """The manifest of an epoch, if it was closed here and is not forgotten."""
        closed = self._closed.get(epoch)
        if closed is None:
            data = self._store.get(self._manifests, epoch_key(epoch))
            if data is None:
                return None
            closed = self._closed[epoch] = ClosedEpoch(decode_manifest(data))
            if len(self._closed) > MANIFESTS_MAX:
                self._closed.popitem(last=False)
        else:
            self._closed.move_to_end(epoch)
        return closed
