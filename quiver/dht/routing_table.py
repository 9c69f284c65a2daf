"""The routing table: one k-bucket for each length of prefix a peer shares with us.

Rules of this file: no clock and no I/O. At most 256 buckets of `k` peers and a few spares each.
`closest` is the hot path of a node: it walks buckets outward from the target and sorts only the one it must cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress
from math import inf

from quiver.dht.distance import KEY_BITS, KEYS
from quiver.dht.kbucket import KBucket
from quiver.ids import PeerId
from quiver.values.peer import PeerInfo


class RoutingTable:
    """Peers that spoke to us, by distance from `own`."""

    __slots__ = ("own", "own_key", "k", "silence_s", "buckets")

    def __init__(self, own: PeerId, k: int, *, silence_s: float = inf) -> None:
        """A peer at the head of a full bucket is doubted after `silence_s` without a word from it."""
        self.own = own
        self.own_key = KEYS[own]
        self.k = k
        self.silence_s = silence_s
        self.buckets: list[KBucket] = []
        "Index = common prefix length; as long as the deepest bucket ever used."

    def __len__(self) -> int:
        return sum(len(bucket.keys) for bucket in self.buckets)

    def __iter__(self) -> Iterator[PeerInfo]:
        for bucket in self.buckets:
            yield from bucket.peers

    def __contains__(self, peer_id: PeerId) -> bool:
        return self.get(peer_id) is not None

    def on_seen(self, info: PeerInfo, now: float) -> PeerInfo | None:
        """A peer asked or answered us: it is alive. Returns a peer to ask for a sign of life, if its bucket is full of silence."""
        key = KEYS[info.peer_id]
        index = KEY_BITS - (self.own_key ^ key).bit_length()
        buckets = self.buckets
        try:
            bucket = buckets[index]
        except IndexError:
            if index == KEY_BITS:
                return None
            buckets += [KBucket() for _ in range(index + 1 - len(buckets))]
            bucket = buckets[index]
        return None if bucket.on_seen(key, info, self.k) else bucket.doubtful(now, self.silence_s)

    def get(self, peer_id: PeerId) -> PeerInfo | None:
        """A live peer as the table knows it."""
        key = KEYS[peer_id]
        index = KEY_BITS - (self.own_key ^ key).bit_length()
        if index >= len(self.buckets):
            return None
        bucket = self.buckets[index]
        keys = bucket.keys
        # Whoever asks was just seen.
        if keys and keys[-1] == key:
            return bucket.peers[-1]
        return bucket.peers[keys.index(key)] if key in keys else None

    def on_failed(self, peer_id: PeerId) -> None:
        """A peer was silent or broke the protocol: forget it."""
        key = KEYS[peer_id]
        index = KEY_BITS - (self.own_key ^ key).bit_length()
        if index < len(self.buckets):
            self.buckets[index].on_failed(key, peer_id)

    def closest(self, target: int, n: int) -> list[PeerInfo]:
        """The `n` live peers nearest to `target`. The set is exact; inside a bucket the order is the bucket's own."""
        buckets = self.buckets
        depth = len(buckets)
        gap = self.own_key ^ target
        start = KEY_BITS - gap.bit_length()
        found: list[PeerInfo] = []
        room = n
        # The target's own bucket is nearest to it, then come all deeper ones, then the shallower, one after the other.
        if start < depth:
            bucket = buckets[start]
            found += bucket.peers
            room -= len(found)
            if room <= 0:
                return found if not room else _cut(bucket, target, n)
            # Bit of each deeper bucket, most significant first. Where it is set the target lies on the bucket's side and
            # not on ours: the shallower, the nearer to the target. Elsewhere: the deeper, the nearer.
            every = (1 << (depth - 1 - start)) - 1
            differing = gap >> (KEY_BITS - depth) & every
            agreeing = differing ^ every
            while differing:
                length = differing.bit_length()
                differing ^= 1 << (length - 1)
                peers = buckets[depth - length].peers
                room -= len(peers)
                if room <= 0:
                    return found + _cut(buckets[depth - length], target, room + len(peers))
                found += peers
            while agreeing:
                lowest = agreeing & -agreeing
                agreeing ^= lowest
                bucket = buckets[depth - lowest.bit_length()]
                peers = bucket.peers
                room -= len(peers)
                if room <= 0:
                    return found + _cut(bucket, target, room + len(peers))
                found += peers
        else:
            start = depth
        for bucket in buckets[start - 1 :: -1] if start else ():
            peers = bucket.peers
            room -= len(peers)
            if room <= 0:
                return found + _cut(bucket, target, room + len(peers))
            found += peers
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
    return list(compress(bucket.peers, [distance < edge for distance in distances]))
