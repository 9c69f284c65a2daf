"""One epoch as a Merkle tree: leaves sorted by (provider account, channel), so that a provider's leaves lie together."""

from __future__ import annotations

from collections.abc import Iterable

from quiver.aggregator.window import Entry
from quiver.errors import UsageError
from quiver.ids import ChannelId
from quiver.settlement.merkle import MerkleTree, hash_leaf
from quiver.values.ledger import Commitment, Proof


class EpochTree:
    """The entries of one closed epoch, their root and their proofs."""

    def __init__(self, epoch: int, entries: Iterable[Entry]) -> None:
        ordered = sorted(entries, key=lambda entry: (entry.provider, entry.leaf.channel))
        if any(entry.leaf.epoch != epoch for entry in ordered):
            raise UsageError(f"an entry of another epoch among those of epoch {epoch}")
        self._tree = MerkleTree([hash_leaf(entry.leaf) for entry in ordered])
        self._entries = ordered
        self._index = {entry.leaf.channel: index for index, entry in enumerate(ordered)}
        if len(self._index) != len(ordered):
            raise UsageError(f"two entries of one channel in epoch {epoch}")
        self.commitment = Commitment(epoch=epoch, root=self._tree.root, count=len(ordered))

    def find(self, channel: ChannelId) -> tuple[Entry, Proof] | None:
        """A channel's entry and its inclusion proof, or None when it was not active in this epoch."""
        index = self._index.get(channel)
        return None if index is None else (self._entries[index], self._tree.proof(index))
