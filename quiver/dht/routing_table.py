"""The routing table: one k-bucket for each length of prefix a peer shares with us.

Rules of this file: no clock and no I/O. At most 256 buckets of `k` peers and a few spares each.
`closest` is the hot path of a node: it walks buckets outward from the target and sorts only the one it must cut.
"""

from __future__ import annotations

from collections.abc import Iterator

from quiver.dht.distance import KEY_BITS, KEYS
from quiver.dht.kbucket import KBucket
from quiver.ids import PeerId
from quiver.values.peer import PeerInfo


class RoutingTable:
    """Peers that spoke to us, by distance from `own`."""

    __slots__ = ("own", "own_key", "k", "buckets")

    def __init__(self, own: PeerId, k: int) -> None:
        self.own = own
        self.own_key = KEYS[own]
        self.k = k
        self.buckets: list[KBucket] = []
        "Index = common prefix length; as long as the deepest bucket ever used."

    def __len__(self) -> int:
        return sum(len(bucket.keys) for bucket in self.buckets)

    def __iter__(self) -> Iterator[PeerInfo]:
        for bucket in self.buckets:
            yield from bucket.peers

    def __contains__(self, peer_id: PeerId) -> bool:
        index = KEY_BITS - (self.own_key ^ KEYS[peer_id]).bit_length()
        return index < len(self.buckets) and KEYS[peer_id] in self.buckets[index].keys

    def on_seen(self, info: PeerInfo) -> None:
        """A peer asked or answered us: it is alive."""
        key = KEYS[info.peer_id]
        index = KEY_BITS - (self.own_key ^ key).bit_length()
        if index == KEY_BITS:
            return
        buckets = self.buckets
        if index >= len(buckets):
            self._grow(index)
        buckets[index].on_seen(key, info, self.k)

    def _grow(self, index: int) -> None:
        self.buckets.extend(KBucket() for _ in range(index + 1 - len(self.buckets)))

    def on_failed(self, peer_id: PeerId) -> None:
        """A peer was silent or broke the protocol: forget it."""
        key = KEYS[peer_id]
        index = KEY_BITS - (self.own_key ^ key).bit_length()
        if index < len(self.buckets):
            self.buckets[index].on_failed(key, peer_id)

    def closest(self, target: int, n: int) -> list[PeerInfo]:
        """The `n` live peers nearest to `target`, exactly. Nearer buckets come first; inside an uncut bucket any order."""
        buckets = self.buckets
        depth = len(buckets)
        distance = self.own_key ^ target
        start = KEY_BITS - distance.bit_length()
        # Bit of each bucket, most significant first: 1 where the target and we part ways.
        bits = distance >> (KEY_BITS - depth)
        found: list[PeerInfo] = []
        # Where the bit is set the bucket lies on the target's side: the shallower, the nearer to the target.
        for index in range(start, depth):
            if bits >> (depth - 1 - index) & 1 and (peers := buckets[index].peers):
                room = n - len(found)
                if len(peers) >= room:
                    return found + self._nearest(buckets[index], target, room)
                found += peers
        # Elsewhere it lies on ours: the deeper, the nearer.
        for index in range(depth - 1, -1, -1):
            if not bits >> (depth - 1 - index) & 1 and (peers := buckets[index].peers):
                room = n - len(found)
                if len(peers) >= room:
                    return found + self._nearest(buckets[index], target, room)
                found += peers
        return found

    def _nearest(self, bucket: KBucket, target: int, n: int) -> list[PeerInfo]:
        if n == len(bucket.keys):
            return bucket.peers.copy()
        peer_at = dict(zip(map(target.__xor__, bucket.keys), bucket.peers, strict=True))
        return [peer_at[distance] for distance in sorted(peer_at)[:n]]

    def on_lookup(self, target: int, now: float) -> None:
        """A lookup of `target` starts: its bucket counts as refreshed."""
        index = KEY_BITS - (self.own_key ^ target).bit_length()
        if index < len(self.buckets):
            self.buckets[index].refreshed_s = now

    def stale(self, now: float, age_s: float) -> list[int]:
        """Buckets in whose range nothing was looked up for `age_s` seconds, shallowest first."""
        return [index for index, bucket in enumerate(self.buckets) if bucket.refreshed_s <= now - age_s]

    def sparse(self) -> list[int]:
        """Buckets that are shallower than our deepest and not full: where a newcomer has peers to find."""
        return [index for index, bucket in enumerate(self.buckets[:-1]) if len(bucket.keys) < self.k]

    def validate(self) -> None:
        """Own invariants."""
        for index, bucket in enumerate(self.buckets):
            bucket.validate(self.k)
            assert all(KEY_BITS - (self.own_key ^ key).bit_length() == index for key in bucket.keys)
