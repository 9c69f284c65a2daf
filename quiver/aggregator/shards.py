"""Who takes whose receipts when several aggregators share the work under one root (docs/decisions/005-sharding.md).

Rules of this file: no I/O. A shard owns a range of provider accounts, so its leaves lie together in the tree. Accounts are
hashes, so equal ranges hold about equally many.
"""

from __future__ import annotations

from dataclasses import dataclass

from quiver.errors import UsageError
from quiver.ids import Address, PeerId

_PREFIX_BYTES = 8


def shard_of(provider: Address, count: int) -> int:
    """Number, from 0, of the shard that owns an account: the leading 64 bits, scaled to `count`."""
    return int.from_bytes(provider[:_PREFIX_BYTES], "big") * count >> 8 * _PREFIX_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """One committer, which posts, and the shards, which take receipts. All are run by whoever owns the bond."""

    committer: PeerId
    peers: tuple[PeerId, ...]
    "By number."

    def __post_init__(self) -> None:
        if not self.peers or len({self.committer, *self.peers}) != 1 + len(self.peers):
            raise UsageError("a committer and its shards, at least one, are different nodes")

    def peer_of(self, provider: Address) -> PeerId:
        """To whom a provider hands its receipts in."""
        return self.peers[shard_of(provider, len(self.peers))]

    def number_of(self, peer: PeerId) -> int | None:
        """A shard's number; None for the committer and strangers."""
        return self.peers.index(peer) if peer in self.peers else None

    def has(self, peer: PeerId) -> bool:
        """Whether a node is one of them."""
        return peer == self.committer or peer in self.peers
