"""One k-bucket: the live peers of one distance range, least recently seen first.

Rules of this file: no clock and no I/O. A live peer is never pushed out by a new one, because long uptime predicts
longer uptime (Maymounkov & Mazieres 2002, 2.2); newcomers wait as spares until a live one fails. When a newcomer finds
the bucket full and the peer at its head has been silent for long, the caller is told to ask that peer whether it lives.
"""

from __future__ import annotations

from quiver.dht.address_group import has_room
from quiver.dht.distance import KEYS
from quiver.ids import PeerId
from quiver.values.peer import PeerInfo

# Newcomers remembered per full bucket; the newest replaces the next peer that fails.
SPARES_MAX = 4


class KBucket:
    """At most `k` live peers and `SPARES_MAX` spares. Two parallel lists: small, and quick to search by key."""

    __slots__ = ("keys", "peers", "spares", "refreshed_s", "silent", "marked_s")

    def __init__(self) -> None:
        self.keys: list[int] = []
        "Keyspace integers of `peers`, same order."
        self.peers: list[PeerInfo] = []
        "Live peers, least recently seen first."
        self.spares: list[PeerInfo] | None = None
        "Newest last; None until the first one, since most buckets of a young table need none."
        self.refreshed_s = float("-inf")
        "`now` of the last lookup in this bucket's range."
        self.silent = 0
        "So many peers at the front were not seen since `marked_s`: a time for each peer would double the bucket's memory."
        self.marked_s = float("-inf")

    def on_seen(self, key: int, info: PeerInfo, k: int) -> bool:
        """A peer spoke: it moves to the end, or joins. False when it is new and the bucket is full: it waits as a spare."""
        keys, peers = self.keys, self.peers
        if key in keys:
            place = keys.index(key)
            if place < self.silent:
                self.silent -= 1
            if info is not peers[place]:
                self._renew(place, info)
            if keys[-1] != key:
                keys.append(keys.pop(place))
                peers.append(peers.pop(place))
        elif len(keys) < k:
            if not info.addresses or has_room(peers, info):
                keys.append(key)
                peers.append(info)
        else:
            self._add_spare(info)
            return False
        return True

    def doubtful(self, now: float, silence_s: float) -> PeerInfo | None:
        """The peer at the head if it was not seen for `silence_s` (noticed after twice as long at the latest), else None."""
        if now < self.marked_s + silence_s:
            return None
        if self.silent:
            return self.peers[0]
        self.silent, self.marked_s = len(self.peers), now
        return None

    def _renew(self, place: int, info: PeerInfo) -> None:
        # Addresses we once knew are better than none, and a peer may not move to where a newcomer could not join.
        if info.addresses and has_room([*self.peers[:place], *self.peers[place + 1 :]], info):
            self.peers[place] = info

    def _add_spare(self, info: PeerInfo) -> None:
        spares = self.spares
        if spares is None:
            self.spares = [info]
            return
        for place, spare in enumerate(spares):
            if spare.peer_id == info.peer_id:
                info = info if info.addresses else spare
                del spares[place]
                break
        # A group must not fill the waiting room either.
        if info.addresses and not has_room(spares, info):
            return
        spares.append(info)
        if len(spares) > SPARES_MAX:
            del spares[0]

    def on_failed(self, key: int, peer_id: PeerId) -> None:
        """A peer was silent or broke the protocol: it leaves, and the newest spare whose group has room takes its place."""
        spares = self.spares
        if key in self.keys:
            place = self.keys.index(key)
            del self.keys[place], self.peers[place]
            if place < self.silent:
                self.silent -= 1
            for info in reversed(spares or ()):
                if has_room(self.peers, info):
                    self.spares = [spare for spare in spares or () if spare is not info]
                    self.keys.append(KEYS[info.peer_id])
                    self.peers.append(info)
                    return
        elif spares:
            self.spares = [spare for spare in spares if spare.peer_id != peer_id]

    def validate(self, k: int) -> None:
        """Own invariants."""
        assert len(self.keys) == len(self.peers) <= k
        assert 0 <= self.silent <= len(self.peers)
        assert self.keys == [KEYS[info.peer_id] for info in self.peers]
        assert len(set(self.keys)) == len(self.keys)
        spares = [KEYS[info.peer_id] for info in self.spares or ()]
        assert len(spares) <= SPARES_MAX and len(set(spares)) == len(spares) and not set(spares) & set(self.keys)
        for infos in (self.peers, self.spares or []):
            assert all(has_room(infos[:place], info) for place, info in enumerate(infos))
