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
        while index >= len(buckets):
            buckets.append(KBucket())
        buckets[index].on_seen(key, info, self.k)

    def on_failed(self, peer_id: PeerId) -> None:
        """A peer was silent or broke the protocol: forget it."""
        key = KEYS[peer_id]
        index = KEY_BITS - (self.own_key ^ key).bit_length()
        if index < len(self.buckets):
            self.buckets[index].on_failed(key, peer_id)

    def closest(self, target: int, n: int) -> list[PeerInfo]:
        """The `n` live peers nearest to `target`. The set is exact; inside a bucket the order is the bucket's own."""
        buckets = self.buckets
        start = KEY_BITS - (self.own_key ^ target).bit_length()
        found: list[PeerInfo] = []
        # The target's own bucket is nearest to it, then come all deeper ones, then the shallower, one after the other.
        if start < len(buckets):
            found += buckets[start].peers
            if len(found) >= n:
                return found if len(found) == n else _cut(buckets[start], target, n)
            if start + 1 < len(buckets):
                own_side = len(found)
                for bucket in buckets[start + 1 :]:
                    found += bucket.peers
                if len(found) >= n:
                    return found if len(found) == n else self._closest_deeper(found[:own_side], start + 1, target, n)
        for index in range(min(start, len(buckets)) - 1, -1, -1):
            room = n - len(found)
            bucket = buckets[index]
            if len(bucket.peers) >= room:
                return found + _cut(bucket, target, room)
            found += bucket.peers
        return found

    def _closest_deeper(self, found: list[PeerInfo], start: int, target: int, n: int) -> list[PeerInfo]:
        """Fill `found` up to `n` from the buckets `start` and deeper, which hold more than enough."""
        buckets, depth = self.buckets, len(self.buckets)
        # Bit of each bucket, most significant first. Where it is set the target lies on the bucket's side and not on
        # ours: the shallower, the nearer to the target. Elsewhere: the deeper, the nearer.
        bits = (self.own_key ^ target) >> (KEY_BITS - depth)
        differing = [index for index in range(start, depth) if bits >> (depth - 1 - index) & 1]
        agreeing = [index for index in range(depth - 1, start - 1, -1) if not bits >> (depth - 1 - index) & 1]
        for index in differing + agreeing:
            room = n - len(found)
            if len(buckets[index].peers) >= room:
                return found + _cut(buckets[index], target, room)
            found += buckets[index].peers
        return found

    def on_lookup(self, target: int, now: float) -> None:
        """A lookup of `target` starts: its bucket counts as refreshed."""
        index = KEY_BITS - (self.own_key ^ target).bit_length()
        if index < len(self.buckets):
            self.buckets[index].refreshed_s = now

    def stale(self, now: float, age_s: float) -> list[int]:
        """Buckets in whose range nothing was looked up for `age_s` seconds, shallowest first."""
        return [index for index, bucket in enumerate(self.buckets) if bucket.refreshed_s <= now - age_s]

    def empty(self) -> list[int]:
        """Buckets without peers, shallower than our deepest: a newcomer's lookup of itself may have passed them by."""
        return [index for index, bucket in enumerate(self.buckets) if not bucket.peers]

    def validate(self) -> None:
        """Own invariants."""
        for index, bucket in enumerate(self.buckets):
            bucket.validate(self.k)
            assert all(KEY_BITS - (self.own_key ^ key).bit_length() == index for key in bucket.keys)


def _cut(bucket: KBucket, target: int, n: int) -> list[PeerInfo]:
    """The `n` peers of a bucket nearest to `target`; it holds at least `n`."""
    if n == len(bucket.peers):
        return bucket.peers.copy()
    distances = [key ^ target for key in bucket.keys]
    edge = sorted(distances)[n]
    return [info for distance, info in zip(distances, bucket.peers, strict=True) if distance < edge]
